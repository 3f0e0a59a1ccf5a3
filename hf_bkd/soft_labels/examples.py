"""A dataset's rows as a teacher gets them: batch by batch, in each view, with the ids of their content."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple, Self

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.columns import is_label, is_soft_label_column
from ..data.preprocessing import Images, Pool, StoredImages, look
from ..data.preprocessors import Preprocessor, called, columns_as_inputs
from ..data.rows import AsStored, Watched, as_stored, read_rows, rows_between, undecoded
from ..data.views import Views
from ..utils.errors import UserError
from .identity import Identity, content_column

Rows = dict[str, Any]
CPU = torch.device("cpu")
AnyDataset = datasets.Dataset | datasets.IterableDataset


class Batch(NamedTuple):
    """Some rows, read and decoded once.

    ids: int64 [B], of their content; their numbers where no column says what an example is.
    keys: int64 [B], of their draws: their ids, or their numbers where they have none or an earlier version began.
    numbers: int64 [B], in the dataset.
    sizes: [channels, height, width] that their images have, if they are images.
    inputs: view -> the network's inputs.
    """

    ids: np.ndarray
    keys: np.ndarray
    numbers: np.ndarray
    sizes: set[tuple[int, int, int]]
    inputs: Callable[[int], dict[str, Tensor]]


class Examples:
    """The rows to label, and how they become inputs.

    Args:
        dataset: the rows.
        preprocessor: rows -> inputs, or ``None`` for the dataset's transform or columns.
        views: need a preprocessor of images.
        inputs: the columns that are inputs as they are, where there is no preprocessor; all of numbers if not given.
        identity: what tells the rows apart; by default all columns that the preprocessor (or the dataset's transform)
            reads of the first row, or that are inputs themselves.
        numbers: of the rows in the dataset that messages speak of; 0, 1, ... if not given.
        draws_by_number: whether draws of rows without image, text or tokens go by the rows' numbers, as they did once.
        left_out: numbers of the rows that the dataset had and that can't be read.

    Raises:
        UserError: views without a number or of something else than images, or a mixing view of a streamed dataset.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        preprocessor: Preprocessor | None,
        views: Views | None,
        inputs: tuple[str, ...] | None = None,
        identity: Identity | None = None,
        numbers: np.ndarray | None = None,
        draws_by_number: bool = False,
        left_out: Sequence[int] = (),
    ):
        self.dataset, self.preprocessor, self.views = dataset, preprocessor, views
        self.inputs, self.numbers, self.draws_by_number = inputs, numbers, draws_by_number
        self.left_out, self._whole = list(left_out), self
        self.streamed = isinstance(dataset, datasets.IterableDataset)
        self.num_rows = None if self.streamed else len(dataset)
        self.reads = preprocessor is not None and preprocessor.kind != "function"  # and nothing else than its columns
        self.content = preprocessor.columns[0] if self.reads else content_column(dataset.features)
        if identity is not None:
            self.identity = identity
        self.are_images = isinstance(dataset.features.get(self.content), datasets.Image)
        if views is not None:
            self._check_views()

    def _check_views(self) -> None:
        if self.views.num_views is None:
            raise UserError("views that are labeled need a number: pass Views(..., num_views=V)")
        if self.preprocessor is None or self.preprocessor.of_pictures is None:
            raise UserError(
                "views are made of images: pass a dataset that has some and a network that reads them, or "
                "preprocessor=ImagePreprocessor(...)"
            )
        if self.views.mixing is not None and self.streamed:
            raise UserError(
                f"{type(self.views.mixing).__name__} mixes each example with any other one, which a streamed dataset "
                "can't deliver: load it without streaming"
            )

    @property
    def num_views(self) -> int:
        """V, 1 for the examples as they are."""
        return 1 if self.views is None else self.views.num_views

    @property
    def settings(self) -> dict[str, Any]:
        """What the record says of preprocessing, views and rows that can't be read, as JSON."""
        return {
            "preprocessing": None if self.preprocessor is None else self.preprocessor.to_dict() or None,
            "views": None if self.views is None else self.views.to_dict(),
            **({"left_out": self.left_out} if self.left_out else {}),
        }

    def select(self, rows: np.ndarray) -> Self:
        """The examples of some rows, which are mixed with any of all rows, as whoever is trained on all sees them."""
        numbers = rows if self.numbers is None else self.numbers[rows]
        chosen = self._changed(self.dataset.select(rows), self.identity, numbers, self.draws_by_number)
        chosen._whole = self._whole
        return chosen

    def known_by(self, identity: Identity | None, draws_by_number: bool) -> Self:
        """The same examples with another identity, or with draws by another key."""
        return self._changed(self.dataset, identity, self.numbers, draws_by_number)

    def _changed(
        self, dataset: AnyDataset, identity: Identity | None, numbers: np.ndarray | None, draws_by_number: bool
    ) -> Self:
        return type(self)(
            dataset, self.preprocessor, self.views, self.inputs, identity, numbers, draws_by_number, self.left_out
        )

    def less(self, dataset: datasets.Dataset, left_out: Sequence[int]) -> Self:
        """A dataset's rows read in the same way, less those of some numbers; the others keep theirs in messages."""
        numbers = np.setdiff1d(np.arange(len(dataset)), left_out)
        rows = dataset.select(numbers) if len(left_out) else dataset
        return type(self)(rows, self.preprocessor, self.views, self.inputs, None, numbers, left_out=left_out)

    @cached_property
    def identity(self) -> Identity | None:
        """What tells the rows apart; ``None`` if nothing is read of them but labels."""
        features = self.dataset.features
        if self.reads:
            return Identity(self.preprocessor.columns)
        columns = self._columns_read() or set(features)
        own = (name for name in features if not is_label(name, features[name]) and not is_soft_label_column(name))
        columns = tuple(name for name in own if name in columns)
        return Identity(columns) if columns else None

    @property
    def has_ids(self) -> bool:
        """Whether the rows have ids by their content; such that only have numbers had none in form 1 either."""
        return self.identity is not None and len(self.identity.columns) > 0

    def _columns_read(self) -> set[str]:
        """The columns of the first row that become inputs; none if that can't be seen."""
        if self.preprocessor is not None:
            return set(self.preprocessor.columns)
        piece = next((read() for _, read in self.pieces(1)), None)
        if piece is None:
            return set()
        transform = piece.format["format_kwargs"].get("transform") if piece.format["type"] == "custom" else None
        if transform is None:
            return set(self._as_inputs(self._tensors(piece)[:1]))
        numbers = self._numbers(0, 1)
        rows = Watched(read_rows(piece, 0, 1, numbers))
        called(transform, rows, numbers)
        return rows.seen

    def _numbers(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop) if self.numbers is None else self.numbers[start:stop]

    def _tensors(self, piece: datasets.Dataset) -> datasets.Dataset:
        return piece if piece.format["type"] in ("custom", "torch") else piece.with_format("torch")

    def _stored(self, piece: datasets.Dataset) -> AsStored:
        """A piece to read rows of; what else they have than the preprocessor reads is not even decoded."""
        read = [*self.preprocessor.columns, *self.preprocessor.beside] if self.reads else None
        return as_stored(piece if read is None else piece.select_columns(read))

    def pieces(self, size: int) -> Iterator[tuple[int, Callable[[], datasets.Dataset]]]:
        """The number of each piece of ``size`` rows, and a function that reads it."""
        if not self.streamed:
            for number, start in enumerate(range(0, self.num_rows, size)):
                stop = min(start + size, self.num_rows)
                yield number, lambda start=start, stop=stop: rows_between(self.dataset, start, stop)
            return
        stream, features = iter(self.dataset.decode(False)), self.dataset.features
        for number in itertools.count():
            rows = list(itertools.islice(stream, size))
            if not rows:
                return
            yield number, lambda rows=rows: undecoded(rows, features)

    def batches(self, piece: datasets.Dataset, offset: int, size: int, device: torch.device) -> Iterator[Batch]:
        """The rows of a piece that has ``offset`` rows before it, with views made on ``device``."""
        plain, tensors = self._stored(piece), None if self.preprocessor is not None else self._tensors(piece)
        for start in range(0, len(piece), size):
            stop, sizes = min(start + size, len(piece)), set()
            numbers = self._numbers(offset + start, offset + stop)
            rows = read_rows(plain, start, stop, numbers)
            positions = np.arange(offset + start, offset + stop)
            ids = self.identity.ids(rows) if self.has_ids else positions
            if self.are_images:
                sizes = {(len(image.getbands()), image.height, image.width) for image in rows[self.content]}
            if self.views is not None:
                inputs = self._views_of(self.preprocessor.pictures(rows), torch.from_numpy(ids.copy()), device)
            elif self.preprocessor is not None:
                inputs = _always(self._prepared(rows, numbers))
            else:
                inputs = _always(self._as_inputs(tensors[start:stop]))
            keys = positions if self.draws_by_number and self.content is None else ids
            yield Batch(ids, keys, numbers, sizes, inputs)

    def prepare(self, piece: datasets.Dataset, offset: int) -> None:
        """Read the rows of a piece and make inputs of them: what can't be read is raised."""
        numbers = self._numbers(offset, offset + len(piece))
        rows = read_rows(self._stored(piece), 0, len(piece), numbers)
        if self.preprocessor is not None:
            called(self.preprocessor, rows, numbers)
        else:
            self._as_inputs(self._tensors(piece)[:])

    def _prepared(self, rows: Rows, numbers: np.ndarray) -> dict[str, Tensor]:
        """What the preprocessor makes of rows; UserError if it reads columns that the rows' ids don't cover."""
        if self.reads:
            return called(self.preprocessor, rows, numbers)
        watched = Watched(rows)
        inputs = called(self.preprocessor, watched, numbers)
        if self.identity is None or self.identity.form == 1:
            return inputs
        others = sorted(
            name
            for name in watched.seen - set(self.identity.columns)
            if not is_label(name, self.dataset.features[name]) and not is_soft_label_column(name)
        )
        if others:
            raise UserError(
                f"the preprocessor reads column {others[0]} of rows {numbers[0]} to {numbers[-1]} and did not of the "
                "first row, so that ids would not cover it: let it read the same columns of every row"
            )
        return inputs

    def _as_inputs(self, rows: Rows) -> dict[str, Tensor]:
        """What columns become that are inputs as they are."""
        return columns_as_inputs(rows, self.dataset.features, self.inputs)

    def _views_of(self, pictures: Images, ids: Tensor, device: torch.device) -> Callable[[int], dict[str, Tensor]]:
        ids = ids.to(device)
        pixels = pictures.to(device) if isinstance(pictures, Tensor) else [image.to(device) for image in pictures]
        return lambda view: self.preprocessor.of_pictures(look(pixels, ids, self.views, view, self._whole._pool))

    @cached_property
    def _pool(self) -> Pool | None:
        """What examples are mixed with."""
        if self.views.mixing is None:
            return None
        images = StoredImages(self.dataset, self.preprocessor.columns[0], self.preprocessor.mode)
        return Pool.of(self.identity.of_dataset(self.dataset), images)


def ahead(items: Iterable) -> Iterator:
    """The same items, each made while the one before is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, source, end)
            yield item


def _always(inputs: dict[str, Tensor]) -> Callable[[int], dict[str, Tensor]]:
    """The same inputs in whatever view."""
    return lambda view: inputs
