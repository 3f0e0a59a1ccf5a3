"""What a network can't take is said in a sentence."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import shorten

import torch
from torch import Tensor, nn

from ..utils.errors import UserError


@contextmanager
def taking(network: nn.Module, inputs: Mapping[str, Tensor] | Tensor) -> Iterator[None]:
    """Turn the error of a network that can't take some inputs into a UserError that says what they are."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        named = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
        given = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
        raise UserError(
            f"{type(network).__name__} can't take {given} ({shorten(f'{type(error).__name__}: {error}', 200)}): pass "
            "the processing_class that it was trained with, or batches of the inputs that its forward takes"
        ) from error
