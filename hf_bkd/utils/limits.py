"""How much a file, a record, a label set or an image may ask for, so that none that was shared asks for everything.

Each limit can be changed for a process, ``hf_bkd.utils.limits.LIMITS.num_classes = 2**22``, or by an environment
variable of its name, ``HF_BKD_MAX_NUM_CLASSES``. They are checked before memory is asked for.
"""

import os
from dataclasses import dataclass, fields

from .errors import UserError


@dataclass
class Limits:
    """The largest values that are accepted from files and records.

    Args:
        num_classes: C of a label set, a record, a network's config or a column of class numbers.
        num_views: V of a record.
        view_pixels: each side of what a recorded view is resized to.
        padding: pixels of a recorded crop.
        num_draws: of a record.
        label_numbers: numbers that the labels of all rows have when they are decoded, N V C.
        image_pixels: of one image.
        json_bytes: of one JSON file or record.
        json_depth: objects and lists within each other.

    Raises:
        UserError: an environment variable that is no whole number above 0.
    """

    num_classes: int = 2**20
    num_views: int = 2**16
    view_pixels: int = 4096
    padding: int = 4096
    num_draws: int = 2**31 - 1
    label_numbers: int = 2**34
    image_pixels: int = 2**27
    json_bytes: int = 2**28
    json_depth: int = 100

    def __post_init__(self):
        for field in fields(self):
            value = os.environ.get(f"HF_BKD_MAX_{field.name.upper()}")
            if value is None:
                continue
            if not (value.isdecimal() and int(value) > 0):
                raise UserError(f"HF_BKD_MAX_{field.name.upper()} must be a whole number above 0, and it is {value!r}")
            setattr(self, field.name, int(value))

    def check(self, source: str, **asked: float) -> None:
        """Refuse what ``source`` asks for, by the limit's name, with a UserError if it is more than the limit."""
        for name, value in asked.items():
            most = getattr(self, name)
            if value > most:
                raise UserError(
                    f"{source} asks for {name}={value:,} and at most {most:,} are allowed: if you trust it, set "
                    f"hf_bkd.utils.limits.LIMITS.{name} or the environment variable HF_BKD_MAX_{name.upper()}"
                )


LIMITS = Limits()
