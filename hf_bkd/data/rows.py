"""Rows are read so that one that can't be is named, by its number in the dataset and by its column."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import shorten
from typing import Any, NamedTuple

import datasets
from PIL.Image import DecompressionBombError, Image

from ..utils.errors import RowError, UserError
from ..utils.limits import LIMITS
from .sounds import Sound, torchcodec_works

UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, RuntimeError, DecompressionBombError, EOFError)


class AsStored(NamedTuple):
    """A dataset that converts no image, and decodes no sound where it can't; :meth:`finished` does both to its rows.

    rows: the dataset.
    images: names of the columns of images.
    modes: to convert images to, by column.
    rates: of the sounds that are not decoded, by column.
    """

    rows: datasets.Dataset
    images: list[str]
    modes: dict[str, str]
    rates: dict[str, int]

    def finished(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Convert the images of rows, and hold their sounds."""
        for name, rate in self.rates.items():
            rows[name] = [None if value is None else Sound(value, rate) for value in rows[name]]
        return _in_modes(rows, self.modes)


def rows_between(dataset: datasets.Dataset, start: int, stop: int) -> datasets.Dataset:
    """Return rows ``start`` to ``stop`` - 1 as a dataset, the same where they are all: each selection copies it."""
    return dataset if (start, stop) == (0, len(dataset)) else dataset.select(range(start, stop))


def as_stored(dataset: datasets.Dataset) -> AsStored:
    """Return a dataset to read rows of; made once, it spares each batch the copy of the dataset."""
    plain = dataset.with_format(None)
    features = plain.features  # which are copied each time
    decoded = {name: feature for name, feature in features.items() if getattr(feature, "decode", False)}
    modes = {name: each.mode for name, each in decoded.items() if isinstance(each, datasets.Image) and each.mode}
    rates = {name: each.sampling_rate for name, each in decoded.items() if isinstance(each, datasets.Audio)}
    rates = {} if torchcodec_works() else rates
    for name in modes:
        plain = plain.cast_column(name, datasets.Image())
    for name in rates:
        plain = plain.cast_column(name, datasets.Audio(decode=False))
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return AsStored(plain, images, modes, rates)


def read_rows(
    dataset: datasets.Dataset | AsStored, start: int, stop: int, numbers: Sequence[int] | None = None
) -> dict[str, Any]:
    """Read some rows as Python values, images and sound decoded: column name -> list.

    Args:
        dataset: of which they are rows ``start`` to ``stop`` - 1.
        numbers: what these rows are called in messages; ``start`` and so on if not given.

    Raises:
        UserError: an image that is missing, that can't be decoded or that has more pixels than ``LIMITS`` allows.
    """
    places = range(start, stop)
    return _read(dataset, slice(start, stop), places, places if numbers is None else numbers)


def rows_at(dataset: datasets.Dataset | AsStored, numbers: Sequence[int]) -> dict[str, Any]:
    """Read the rows of some numbers, in that order, as :func:`read_rows` reads those that stand together."""
    return _read(dataset, list(numbers), numbers, numbers)


def _read(
    dataset: datasets.Dataset | AsStored, index: slice | list[int], places: Sequence[int], numbers: Sequence[int]
) -> dict[str, Any]:
    stored = dataset if isinstance(dataset, AsStored) else as_stored(dataset)
    try:
        rows = stored.rows[index]
    except UNREADABLE:
        for number, place in zip(numbers, places, strict=False):
            for name in stored.rows.column_names:
                _check_readable(stored.rows, place, name, number)
        raise
    for name in stored.images:
        for number, image in zip(numbers, rows[name], strict=False):
            _check_image(name, number, image)
    return stored.finished(rows)


def _in_modes(rows: dict[str, Any], modes: Mapping[str, str]) -> dict[str, Any]:
    """Convert the images of some columns; UserError if that would clip them."""
    for name, mode in modes.items():
        check_eight_bits([image for image in rows[name] if image.mode != mode])
        rows[name] = [image if image.mode == mode else image.convert(mode) for image in rows[name]]
    return rows


def check_eight_bits(images: list[Image]) -> None:
    """Raise a UserError if there are images of more than 8 bits, whose conversion would clip them."""
    deep = sorted({image.mode for image in images if image.mode.startswith(("I", "F"))})
    if deep:
        raise UserError(
            f"images of mode {', '.join(deep)} have more than 8 bits a channel, and would be clipped: scale them with "
            "dataset.map(lambda row: {'image': PIL.Image.fromarray((numpy.asarray(row['image']) / 257).round()"
            ".astype('uint8'))}), where 257 is for 0 .. 65535 and HIGHEST / 255 for numbers from 0 to HIGHEST"
        )


def decoded_rows(rows: dict[str, list], features: datasets.Features) -> dict[str, list]:
    """Decode the images and sounds of rows of a stream that does not decode them itself: column name -> list.

    Raises:
        UserError: one that is missing, can't be decoded, or has more pixels than ``LIMITS`` allows.
    """
    decoded = dict(rows)
    for name, values in rows.items():
        feature = features[name]
        if not hasattr(feature, "decode_example"):
            continue
        images = isinstance(feature, datasets.Image)
        stored = replace(feature, mode=None) if images else feature
        decoded[name] = [None if value is None else _decoded(name, stored, value) for value in values]
        if images:
            for image in decoded[name]:
                _check_image(name, None, image)
            decoded |= _in_modes({name: decoded[name]}, {name: feature.mode} if feature.mode else {})
    return decoded


def undecoded(rows: list[dict[str, Any]], features: datasets.Features) -> datasets.Dataset:
    """Return rows of a stream that decodes nothing, as a dataset with the features of the stream."""
    files = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    stored = {name: files if isinstance(each, datasets.Audio) else each for name, each in features.items()}
    made = datasets.Dataset.from_list(rows, features=datasets.Features(stored))
    return made if stored == dict(features) else made.cast(features)


def _decoded(name: str, feature: Any, value: Any) -> Any:
    if isinstance(feature, datasets.Audio) and not torchcodec_works():
        return Sound(value, feature.sampling_rate) if feature.decode else value
    try:
        image = feature.decode_example(value)
        if isinstance(feature, datasets.Image):
            image.load()
        return image
    except UNREADABLE as error:
        raise UserError(
            f"a row of the stream holds something in column {name} that can't be read ({reason(error)}): leave it out "
            "with dataset.filter"
        ) from error


def _check_readable(plain: datasets.Dataset, row: int, name: str, number: int) -> None:
    try:
        plain.select_columns([name])[row]
    except UNREADABLE as error:
        what = "an image" if isinstance(plain.features[name], datasets.Image) else "a value"
        raise RowError(
            f"row {number} of column {name} holds {what} that can't be read ({reason(error)}): mend it, or leave the "
            f"row out with dataset.select([i for i in range(len(dataset)) if i != {number}])",
            int(number),
            name,
        ) from error


def _check_image(name: str, number: int | None, image: Any) -> None:
    row = "a row" if number is None else f"row {number}"
    if image is None:
        raise RowError(
            f"{row} of column {name} holds no image: leave such rows out with "
            f"dataset.filter(lambda row: row[{name!r}] is not None)",
            number,
            name,
        )
    pixels = getattr(image, "width", 0) * getattr(image, "height", 0)
    if pixels > LIMITS.image_pixels:
        raise RowError(
            f"{row} of column {name} holds an image of {image.width} x {image.height} pixels, and at most "
            f"{LIMITS.image_pixels} are read: make it smaller, or set hf_bkd.utils.limits.LIMITS.image_pixels",
            number,
            name,
        )


def reason(error: BaseException) -> str:
    """Return an error of another library in brief, for a sentence that quotes it."""
    text = re.sub(r" ?<[\w.]+ object at 0x[0-9a-f]+>", "", str(error))
    return shorten(f"{type(error).__name__}: {text}", 200)


class Watched(dict):
    """A batch of rows that notes in ``seen`` which of its columns are read."""

    def __init__(self, rows: Mapping[str, Any]):
        super().__init__(rows)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:  # without it, dict(rows) and **rows would read past __getitem__
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def pop(self, name: str, *default: Any) -> Any:
        self.seen.add(name)
        return super().pop(name, *default)


def _reading_all(name: str) -> Callable:
    def method(self: Watched, *arguments: Any) -> Any:
        self.seen.update(dict.keys(self))
        return getattr(dict, name)(self, *arguments)

    return method


for _name in ("values", "items", "copy", "popitem", "__or__", "__ror__", "__eq__", "__reduce_ex__"):
    setattr(Watched, _name, _reading_all(_name))
Watched.__hash__ = None


def check_present(rows: Mapping[str, Sequence], columns: Sequence[str], numbers: Sequence[int] | None = None) -> None:
    """Raise a UserError that names the first row of which a column has no value.

    Args:
        rows: column name -> B values.
        columns: to look at.
        numbers: what the rows are called, [B]; 0, 1, ... if not given.
    """
    for column in columns:
        for place, value in enumerate(rows[column]):
            if value is None:
                number = place if numbers is None else numbers[place]
                raise RowError(
                    f"row {number} of column {column} holds no value: leave such rows out with "
                    f"dataset.filter(lambda row: row[{column!r}] is not None), or fill them in",
                    int(number),
                    column,
                )
