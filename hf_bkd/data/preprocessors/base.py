"""What every preprocessor is: rows of a dataset to the inputs of one network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL.ExifTags import Base
from PIL.Image import open as open_image
from torch import Tensor

from ...utils.errors import RowError, UserError
from ...utils.progress import track
from ..preprocessing import ImagePreprocessor, Images, decoded, in_mode
from ..rows import check_present, read_rows, reason

Rows = dict[str, list]
OPAQUE = ("Lambda", "<function", " object at ", "<lambda>")  # in the text of a transform
ORIENTATION = Base.Orientation


@dataclass(frozen=True)
class Preprocessor:
    """The preprocessor of a network: rows of a dataset to keyword arguments of the network's forward.

    Args:
        kind: what it reads: ``"image"``, ``"text"``, ``"audio"``, ``"features"``, ``"table"`` (in which values may be
            missing), or ``"function"`` where the user's own function says it.
        columns: of the dataset, which it reads; what an example *is*, its identity, is what they hold.
        prepare: rows (column name -> B values, images decoded) to tensors of B rows.
        settings: what decides the inputs, as JSON: two networks of equal settings read the same. Empty where a
            function doesn't say.
        processor: the tokenizer, image processor or feature extractor, to be kept with the network.
        normalization: the whole preprocessing of images that have the network's own size, where there is such a thing.
        mode: of PIL, to which images are converted; as they are if not given.
        of_pictures: uint8 images [B, C, H, W], or B times [C, H, W], on any device, to the network's inputs: what
            ``prepare`` makes of the same pictures in a dataset. ``None`` where no images are read.
        prepare_labeled: rows, and the class numbers of their words (or tokens), B tensors int64 [W], to inputs and
            ``labels`` int64 [B, L] of the tokens; ``None`` where there are neither.
        beside: columns that it reads too, which are no part of what an example is: the tokens that are taught.
    """

    kind: str
    columns: tuple[str, ...]
    prepare: Callable[[Rows], dict[str, Tensor]]
    settings: dict[str, Any]
    processor: Any = None
    normalization: ImagePreprocessor | None = None
    mode: str | None = None
    of_pictures: Callable[[Images], dict[str, Tensor]] | None = None
    prepare_labeled: Callable[[Rows, Sequence[Tensor]], dict[str, Tensor]] | None = None
    beside: tuple[str, ...] = ()

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        """Turn a batch of rows into inputs."""
        return self.prepare(rows)

    def labeled(self, rows: Rows, labels: Sequence[Tensor], numbers: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Turn rows with one label for each of their words, or tokens, into inputs and labels of their tokens.

        Args:
            rows: column name -> B values.
            labels: B tensors int64 [W] of class numbers; empty ones of rows without labels.
            numbers: what the rows are called, [B], where that is known.

        Returns:
            The inputs, and ``labels`` int64 [B, L]: that of a word stands at its first piece; other pieces, special
            tokens and padding have none (-100).

        Raises:
            UserError: rows that aren't divided into words or tokens, or with another number of these than of labels.
        """
        if self.prepare_labeled is None:
            raise UserError(
                f"there is a label for each word, and column {', '.join(self.columns)} isn't divided into words: "
                "bring it to lists of words, or of input_ids"
            )
        column = "input_ids" if "input_ids" in self.columns else self.columns[0]
        for place, (row, own) in enumerate(zip(rows[column], labels, strict=True)):
            if len(own) not in (0, len(row)):
                name = "a row" if numbers is None else f"row {numbers[place]}"
                raise RowError(
                    f"{name} of column {column} has {len(row)} words or tokens, and {len(own)} labels: mend the row, "
                    "or leave it out",
                    None if numbers is None else int(numbers[place]),
                    column,
                )
        known = numbers if numbers is not None else range(len(labels))
        with_labels = {**rows, "labels": list(labels)}
        return called(lambda these: self.prepare_labeled(these, these["labels"]), with_labels, known)

    def reads_as(self, other: "Preprocessor") -> bool:
        """Return whether another preprocessor surely makes the same inputs of a dataset.

        Of functions, and of transforms with functions in them, settings don't say what they do: they must be the same.
        """
        if (self.columns, self.settings) != (other.columns, other.settings):
            return False
        says_all = bool(self.settings) and not any(sign in str(self.settings) for sign in OPAQUE)
        return says_all or self.processor == other.processor

    def to_dict(self) -> dict[str, Any]:
        """Return what is recorded with labels of these inputs."""
        return self.settings

    def pictures(self, rows: Rows) -> Images:
        """Decode the images of rows to uint8, in the channels that the network reads.

        Raises:
            UserError: images of more than 8 bits, or nothing that reads images.
        """
        if self.of_pictures is None:
            raise UserError(f"views are looks of an image, and the network reads {self.kind}: label without views")
        return decoded(in_mode(rows[self.columns[0]], self.mode))

    def only_normalizes(self, dataset: datasets.Dataset) -> bool:
        """Return whether all images of a dataset have the network's size and channels; only their heads are read."""
        if self.normalization is None:
            return False
        size = self.settings.get("input_size")
        if size is None:
            return True
        (column,) = self.columns
        encoded = dataset.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))
        return all(_head(row[column]) == (self.mode, *size[1:]) for row in encoded)

    @property
    def batch_size(self) -> int:
        """The number of rows in a batch of a pass without gradients."""
        return 512 if self.normalization or self.kind in ("features", "table") else 64

    def batches(self, dataset: datasets.Dataset, progress: str | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield inputs, and ``labels`` if there are any, in order and un-augmented; ``progress`` names a bar."""
        starts = range(0, len(dataset), self.batch_size)
        for start in track(starts, progress if len(starts) > 5 else None):
            stop = min(start + self.batch_size, len(dataset))
            rows = read_rows(dataset, start, stop)
            yield called(self, rows, range(start, stop)) | (
                {"labels": torch.tensor(rows["label"])} if "label" in rows else {}
            )

    def save(self, folder: Path) -> None:
        """Save the files by which the preprocessor is made again."""
        if hasattr(self.processor, "save_pretrained"):
            self.processor.save_pretrained(folder)


def several(preprocessors: Mapping[str, Preprocessor]) -> Preprocessor:
    """Make one preprocessor of several networks' that read the same columns: name -> what its own makes of rows."""
    settings = {name: each.settings for name, each in preprocessors.items()}
    columns = next(iter(preprocessors.values())).columns
    return Preprocessor("several", columns, partial(_each_its_own, dict(preprocessors)), settings)


def _each_its_own(preprocessors: dict[str, Preprocessor], rows: Rows) -> dict[str, dict[str, Tensor]]:
    return {name: dict(each(rows)) for name, each in preprocessors.items()}


def called(preprocessor: Callable[[Rows], Any], rows: Rows, numbers: Sequence[int]) -> Any:
    """Return what a preprocessor makes of rows; a UserError names the first row at which it fails.

    Args:
        preprocessor: a :class:`Preprocessor`, or a function.
        rows: column name -> B values.
        numbers: what the rows are called, [B].
    """
    if isinstance(preprocessor, Preprocessor):
        check_present(rows, () if preprocessor.kind in ("function", "table") else preprocessor.columns, numbers)
    try:
        return preprocessor(rows)
    except RowError:
        raise
    except UserError as error:
        number = _failing_row(preprocessor, rows, numbers)
        raise error if number is None else RowError(f"row {number}: {error}", number) from error
    except Exception as error:
        raise RowError(
            f"the preprocessor can't read {_first_failing(preprocessor, rows, numbers)} ({reason(error)}): mend or "
            "leave out that row, or pass another preprocessor",
            _failing_row(preprocessor, rows, numbers),
        ) from error


def _first_failing(preprocessor: Callable[[Rows], Any], rows: Rows, numbers: Sequence[int]) -> str:
    number = _failing_row(preprocessor, rows, numbers)
    if number is None:
        return f"rows {numbers[0]} to {numbers[-1]} together"
    place = list(numbers).index(number)
    missing = [name for name, values in dict.items(rows) if values[place] is None]
    return f"row {number}" + (f", where {missing[0]} is missing" if missing else "")


def _failing_row(preprocessor: Callable[[Rows], Any], rows: Rows, numbers: Sequence[int]) -> int | None:
    """Return the number of the first row that a preprocessor can't read by itself."""
    for place, number in enumerate(numbers):
        try:
            preprocessor({name: values[place : place + 1] for name, values in dict.items(rows)})
        except Exception:
            return int(number)
    return None


def _head(encoded: Any) -> tuple[str, int, int] | None:
    """Return the mode, height and width of an encoded image; ``None`` if it is turned or can't be read."""
    try:
        with open_image(encoded["path"] if encoded["bytes"] is None else BytesIO(encoded["bytes"])) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            return None if turned else (image.mode, image.height, image.width)
    except (OSError, TypeError):
        return None
