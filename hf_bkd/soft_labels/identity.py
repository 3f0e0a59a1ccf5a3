"""Which example a row is, by a hash of all that a network reads of it, and of which dataset and classes it is.

The canonical form of a value (form 2; ``docs/label_format.md`` says it for other languages):

- of a text: its UTF-8 bytes;
- of an image of 8-bit channels: ``repr(shape)`` of [height, width(, channels)] and its pixels; a palette's colors as
  RGB, or as RGBA where it is transparent; of an image of any other mode: the name of the mode, then the same;
- of numbers, arrays and lists of numbers: ``repr(shape)`` and the numbers as int64, float64 or bool, as Python reads
  them;
- of a file of sound: the tag ``bytes`` and what is in it;
- of anything else: a tag of its type and its parts (``None``, bytes, dates, lists, structs by sorted key).

A row of which one column is read has the hash of that value. One of which several are read has the hash of their names
and hashes, in the order of the names. Columns of labels and of soft labels never count.

Form 1, of records that don't name a form, knew a row by its first image, text or ``input_ids`` alone, and an image of
a palette by the palette's indices.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import datasets
import numpy as np
import pyarrow as pa
from PIL import UnidentifiedImageError
from PIL.Image import Image

from ..data.columns import LABEL_COLUMNS, holds_label_lists, is_label, is_soft_label_column
from ..data.rows import as_stored, read_rows
from ..likelihoods import Likelihood
from ..utils.errors import UserError

FORM = 2  # of the ids that are made now
READ_AT_ONCE = 1000  # rows
SORTED_AT_ONCE = 2**16  # ids
DEEPEST = 50  # lists within lists
PLAIN_MODES = ("L", "LA", "RGB", "RGBA")  # which the shape of their pixels tells


@dataclass(frozen=True)
class Identity:
    """The columns that make up what an example *is*, and the form of the hash of them.

    Args:
        columns: their names, in any order.
        form: of the ids, ``FORM`` or an earlier one.
    """

    columns: tuple[str, ...]
    form: int = FORM

    @classmethod
    def of(cls, dataset_record: Any, features: Mapping[str, Any]) -> Self | None:
        """The identity by which labels with this record (its part on the dataset) find examples with these features.

        ``None`` if the record names a column that isn't here, or nothing here says what an example is. The only column
        of an identity may have another name here.
        """
        identity = getattr(dataset_record, "identity", None)
        columns = (identity or {}).get("columns") or [getattr(dataset_record, "content_column", None)]
        form = FORM if dataset_record is None else (identity or {}).get("form", 1)
        if len(columns) == 1 and columns[0] not in features:
            columns = [content_column(features)]
        return cls(tuple(columns), form) if all(name in features for name in columns) else None

    @classmethod
    def of_features(cls, features: Mapping[str, Any]) -> Self | None:
        """All columns but those of labels and soft labels, where nobody says what is read; ``None`` without any."""
        columns = (
            name for name, feature in features.items() if not (is_label(name, feature) or is_soft_label_column(name))
        )
        columns = tuple(columns)
        return cls(columns) if columns else None

    def to_json(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"form": self.form, "columns": sorted(self.columns)}

    def ids(self, rows: Mapping[str, Sequence]) -> np.ndarray:
        """The ids, int64 [B], of rows as they are read: column name -> B values."""
        if len(self.columns) == 1:
            return content_ids(rows[self.columns[0]], self.form)
        names = sorted(self.columns)
        keys = [name.encode() + b"\0" for name in names]
        parts = [content_ids(rows[name], self.form).astype("<i8") for name in names]
        joined = (
            b"".join(key + part.tobytes() for key, part in zip(keys, row, strict=True))
            for row in zip(*parts, strict=True)
        )
        return _hashes(joined)

    def of_dataset(self, dataset: datasets.Dataset) -> np.ndarray:
        """The ids, int64 [N], of all rows; few of them are in memory at a time."""
        stored, number = as_stored(dataset.select_columns(list(self.columns))), len(dataset)
        starts = range(0, number, READ_AT_ONCE)
        parts = [self.ids(read_rows(stored, start, min(start + READ_AT_ONCE, number))) for start in starts]
        return np.concatenate([np.empty(0, np.int64), *parts])


def content_column(features: Mapping[str, Any]) -> str | None:
    """The column that says what an example *is* where nobody says what is read: its image, its text or its tokens."""
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            return name
    for name, feature in features.items():
        if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
            return name
    return next((name for name in ("input_ids", "pixel_values") if name in features), None)


def content_ids(values: Any, form: int = FORM) -> np.ndarray:
    """One hash (int64 [N]) per value: of an image's shape and pixels, a text's characters, an array's numbers."""
    return _hashes(_content(value, form) for value in values)


def dataset_ids(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """The ids, int64 [N], of all rows by their content in a column; few rows are in memory at a time."""
    return Identity((column,)).of_dataset(dataset)


def _hashes(contents: Iterator[bytes]) -> np.ndarray:
    hashes = [hashlib.blake2b(content, digest_size=8).digest() for content in contents]
    return np.frombuffer(b"".join(hashes), dtype="<i8")


def _content(value: Any, form: int = FORM) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:  # what the dataset does not decode
        try:
            value = datasets.Image().decode_example(value)
        except UnidentifiedImageError:  # sound
            value = _content_of_file(value)
    if isinstance(value, Image):
        return _of_image(value, form)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        return _of_parts(value)
    if form == 1 and array.dtype == object:
        return repr(value).encode()
    if array.dtype.kind in "biuf" or form == 1:
        return repr(array.shape).encode() + array.tobytes()
    return _of_parts(value)


def _content_of_file(encoded: Mapping[str, Any]) -> Any:
    """Return the bytes of a file, wherever it lies; what the dataset says of it if it isn't here."""
    path, content = encoded["path"], encoded["bytes"]
    if content is None and path is not None and Path(path).is_file():
        return Path(path).read_bytes()
    return encoded if content is None else content


def _of_image(image: Image, form: int) -> bytes:
    if form > 1 and image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    tag = b"" if form == 1 or image.mode in PLAIN_MODES else image.mode.encode()
    pixels = np.asarray(image)
    return tag + repr(pixels.shape).encode() + pixels.tobytes()


def _of_parts(value: Any, depth: int = 0) -> bytes:
    """Bytes that no other value has, of values that are neither text nor image nor array."""
    if depth > DEEPEST:
        raise UserError(f"a value of the dataset holds lists more than {DEEPEST} deep: flatten the column first")
    encoded = getattr(value, "_hf_encoded", None)  # of sound and video, decoded when they are asked
    if encoded is not None:
        value = _content_of_file(encoded)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        parts = [part for name in sorted(value) for part in (name, value[name])]
    elif isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, Image):
        return b"image" + _of_image(value, FORM)
    elif isinstance(value, (bytes, bytearray)):
        return b"bytes" + bytes(value)
    elif value is None or isinstance(value, (str, bool, int, float)) or type(value).__module__ in KNOWN_BY_REPR:
        return f"{type(value).__name__} {value!r}".encode(errors="surrogatepass")
    else:
        raise UserError(
            f"nothing tells examples apart by values of type {type(value).__name__}: let the preprocessor read "
            "columns of images, texts, numbers or bytes, or remove that column"
        )
    kind = b"struct" if isinstance(value, Mapping) else b"list"
    digests = (hashlib.blake2b(_of_parts(part, depth + 1), digest_size=16).digest() for part in parts)
    return kind + b"".join(digests)


KNOWN_BY_REPR = ("datetime", "decimal", "uuid", "numpy", "pandas._libs.tslibs.timestamps")


class IdSummary(NamedTuple):
    """What a record says of the ids of its rows: their fingerprint, and N less the number of distinct ones."""

    fingerprint: str
    repeated: int


def summarized_ids(ids: Any, folder: str | Path | None = None) -> IdSummary:
    """Summarize int64 [N], as an array or an Arrow column; sorted in a file in ``folder``, if given, not in memory."""
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    total = sum(map(len, chunks))
    with ExitStack() as stack:
        if folder is None or total == 0:
            everything = np.empty(total, "<i8")
        else:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            everything = np.memmap(file, "<i8", "w+", shape=(total,))
        start = 0
        for chunk in chunks:
            everything[start : start + len(chunk)] = np.asarray(chunk)
            start += len(chunk)
        everything.sort()
        digest, repeated, last = hashlib.blake2b(digest_size=8), 0, None
        for start in range(0, total, SORTED_AT_ONCE):
            block = everything[start : start + SORTED_AT_ONCE]
            digest.update(np.ascontiguousarray(block).data)
            repeated += int((block[1:] == block[:-1]).sum()) + int(last is not None and last == block[0])
            last = block[-1]
    return IdSummary(digest.hexdigest(), repeated)


def fingerprint(ids: np.ndarray) -> str:
    """Hash (16 hexadecimal digits) of a set of examples: the same in whatever order they are."""
    return summarized_ids(np.asarray(ids)).fingerprint


def check_unseen(rows: datasets.Dataset, trained: datasets.Dataset, what: str, whose: str) -> None:
    """Raise a UserError if what calibrates sets was trained on, as far as the examples' content tells.

    Args:
        rows: that calibrate.
        trained: with the same columns; nothing is known of others.
        what, whose: names of the two.
    """
    identity = Identity.of_features(rows.features)
    if identity is not None and all(name in trained.column_names for name in identity.columns):
        check_unseen_ids(identity.of_dataset(rows), identity.of_dataset(trained), what, whose)


def check_unseen_ids(ids: np.ndarray, trained: np.ndarray, what: str, whose: str) -> None:
    """Raise a UserError if more than a hundredth of some ids are among others: a quantile moves by no more than that.

    There are that many equal examples in many datasets.
    """
    shared = int(np.isin(ids, trained).sum())
    if shared > len(ids) / 100:
        raise UserError(
            f"{shared} of the {len(ids)} examples of {what} are among those {whose}, and a network scores those that "
            "it was trained on better than new ones: calibrate with others"
        )


def class_names(
    features: Mapping[str, Any], likelihood: Likelihood | None = None, per_token: bool = False
) -> list[str] | None:
    """Names of the classes in order, from the label column's feature; ``None`` if it has no names.

    Args:
        features: of the dataset.
        likelihood: of the labels: of one class a row, if not given; labels that are each there or not are named by a
            column of lists, and numbers by none.
        per_token: whether each token has a class, so that lists name them too.
    """
    wanted = "list" if per_token else "single" if likelihood is None else likelihood.classes_in
    if wanted is None:
        return None
    usual = [name for name in LABEL_COLUMNS if name in features]
    columns = usual or [name for name, feature in features.items() if holds_label_lists(name, feature)]
    singles = [getattr(features[name], "feature", None) if wanted == "list" else features[name] for name in columns]
    classes = [list(each.names) for each in singles if isinstance(each, datasets.ClassLabel)]
    return classes[0] if classes and (usual or len(classes) == 1) else None


def origin(dataset: datasets.Dataset | datasets.IterableDataset) -> dict[str, str | None]:
    """A dataset's name and, if it is from the Hub, its repository and commit."""
    sources = [*(dataset.info.download_checksums or ()), ""]
    match = re.match(r"hf://datasets/([^@]+)@([^/]+)/", str(sources[0]))
    repository, revision = match.groups() if match else (None, None)
    return {"name": dataset.info.dataset_name, "repository": repository, "revision": revision}
