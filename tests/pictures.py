"""Pictures that nobody looks at: drawing those of a toy study takes longer than its trainings."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from unittest import mock

from PIL import Image

from hf_bkd.reports import plotting

DRAWN = plotting.png
BLANK = BytesIO()
Image.new("L", (1, 1)).save(BLANK, "png")


@contextmanager
def blank() -> Iterator[None]:
    """Write a single pixel for each figure, which is still made."""
    with mock.patch.object(plotting, "png", lambda figure: BLANK.getvalue()):
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Draw figures within :func:`blank`."""
    with mock.patch.object(plotting, "png", DRAWN):
        yield
