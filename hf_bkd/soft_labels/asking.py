"""A teacher is asked batch by batch; its answers are shared between processes and kept as soon as they are whole."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import find_executable_batch_size, gather_object

from ..data.columns import EXAMPLE_ID
from ..data.rows import reason
from ..models.calling import check_network
from ..utils.checks import check_choice, check_count
from ..utils.errors import UserError
from ..utils.processes import failing_together, processes
from ..utils.progress import progress_bar
from ..utils.random import ExampleGenerator, named_seed
from .belonging import check_class_count, check_identity, class_order
from .examples import Batch, Examples, ahead
from .preparation import NAME as DIGESTS
from .preparation import check_inputs, input_digests, same_inputs
from .shards import Shards
from .storage import STORAGES
from .writing import encoded_table, with_wide_variance

VARIANCES = ("auto", "full", "sum", "none")
SIZES = b"image_sizes"  # of a shard's images, beside its columns
PRECISIONS = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LabelingTeacher(Protocol):
    """What labeling asks of a teacher.

    Two things are optional: its ``device``, where views are made, and ``num_draws(num_samples)``, how many draws it
    averages when asked for S.
    """

    @property
    def num_classes(self) -> int: ...

    def predict(self, inputs: Any, num_samples: int, generator: ExampleGenerator) -> Any: ...

    def describe(self) -> dict[str, Any]:
        """Goes into the labels' record: ``num_classes``, ``temperature``, ``tempering``, ``weights`` and more."""
        ...


@dataclass(frozen=True)
class LabelOptions:
    """How a teacher is asked and what is stored of its answers; see :func:`~hf_bkd.add_soft_labels`.

    ``stream`` is the teacher's name, if it has one: teachers of several names draw independently with one ``seed``.
    ``class_order`` are the places among its classes of the dataset's, where these are in another order.

    Raises:
        UserError: a number below 1, or an unknown storage, variance or precision.
    """

    num_samples: int = 10
    batch_size: int = 512
    seed: int = 0
    storage: str = "float16"
    top_k: int = 10
    variance: str = "auto"
    mixed_precision: str | None = None
    shard_rows: int = 1024
    stream: str | None = None
    class_order: list[int] | None = None

    def __post_init__(self):
        check_count(num_samples=self.num_samples, batch_size=self.batch_size, shard_rows=self.shard_rows)
        check_count(top_k=self.top_k)
        check_choice(STORAGES, storage=self.storage)
        check_choice(VARIANCES, variance=self.variance)
        check_choice(PRECISIONS, mixed_precision=self.mixed_precision)
        if self.variance == "auto":
            object.__setattr__(self, "variance", "full" if self.storage.startswith("float") else "sum")

    @property
    def draw_seed(self) -> int:
        """The seed of the draws, the stream's own."""
        return named_seed(self.seed, self.stream)

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The precision of the teacher's passes."""
        dtype = PRECISIONS[self.mixed_precision]
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class Answers(NamedTuple):
    """What a teacher said of some examples.

    table: the soft-label columns of all rows in order, all but the record.
    sizes: [channels, height, width] that their images have, if they are images.
    """

    table: pa.Table
    sizes: set[tuple[int, ...]]


def device_of(teacher: Any) -> torch.device:
    """Where a teacher's network is; the CPU if it doesn't say."""
    return torch.device(getattr(teacher, "device", "cpu"))


def fitting_batch_size(examples: Examples, teacher: LabelingTeacher, options: LabelOptions) -> int:
    """The batch size, halved until one fits on the GPU; the same in all processes."""
    device = device_of(teacher)
    if device.type != "cuda":
        return options.batch_size
    first = next((read() for _, read in examples.pieces(options.batch_size)), None)
    if first is None:
        return options.batch_size

    @find_executable_batch_size(starting_batch_size=min(options.batch_size, len(first)))
    def largest(size: int) -> int:
        _predict(teacher, next(examples.batches(first, 0, size, device)), examples.num_views, options)
        return size

    return min([options.batch_size, *gather_object([largest()])])


def check_answers(examples: Examples, teacher: LabelingTeacher, options: LabelOptions) -> None:
    """Ask a network's teacher about the first two examples: what doesn't fit comes up before anything is labeled.

    Raises:
        UserError: a teacher of other classes, rows that can't be read or answered, inputs that differ each time, or a
            network that returns probabilities or draws random numbers in evaluation mode.
    """
    check_class_count("the teacher", teacher.num_classes, examples.dataset.features)
    class_order(teacher, examples.dataset.features)
    if not hasattr(teacher, "preprocessor_for"):
        return
    size = min(2, options.batch_size)  # some rows can be read one at a time alone
    piece = next((read() for _, read in examples.pieces(size)), None)
    if piece is None:
        return
    batch, again = (next(examples.batches(piece, 0, size, device_of(teacher))) for _ in range(2))
    _asked(teacher, batch, 1, options)
    inputs = batch.inputs(0)
    if not same_inputs(inputs, again.inputs(0)):
        raise UserError(
            "the preprocessor makes other inputs of the same rows each time, so that nobody could see again what was "
            "labeled: pass the one of evaluation, and augmentations as views="
        )
    check_network(teacher.network, inputs)


def ask(
    examples: Examples,
    teacher: LabelingTeacher,
    options: LabelOptions,
    shards: Shards,
    part: str = "rows",
    bar_name: str | None = "labeling",
) -> Answers:
    """Label all examples, less those whose shards are finished.

    Args:
        examples: the rows.
        teacher: labels them.
        options: how.
        shards: where finished ones are kept, with names that begin with ``part``.
        bar_name: name of the progress bar; no bar if ``None``.
    """
    check_class_count("the teacher", teacher.num_classes, examples.dataset.features)
    options = replace(options, class_order=class_order(teacher, examples.dataset.features))
    names: list[str] = []
    hidden = bar_name is None or not processes().is_main_process
    with failing_together(), progress_bar(disable=hidden, rate="rows") as bar:
        task = bar.add_task(bar_name or "", total=examples.num_rows)
        done: list[dict[str, np.ndarray]] = []
        sizes: set[tuple[int, ...]] = set()
        for name, rows, batch, inputs in ahead(_batches(examples, device_of(teacher), options, shards, part, names)):
            if batch is not None:
                done.append(_asked(teacher, batch, examples.num_views, options))
                sizes |= batch.sizes
            if batch is None or sum(len(answer["ids"]) for answer in done) == rows:
                if done:
                    shards.write(name, _shard(done, sizes, inputs, options))
                done, sizes = [], set()
                bar.advance(task, rows)
    shards.share()
    return _collected(shards, names)


def finished_answers(examples: Examples, options: LabelOptions, shards: Shards, part: str) -> Answers:
    """What a teacher said of all examples when it labeled them earlier."""
    names = []
    for number, read in examples.pieces(options.shard_rows):
        names.append(shard_name(part, number))
        _check_rows(shards, names[-1], read(), number * options.shard_rows, examples)
    return _collected(shards, names)


def shard_name(part: str, number: int) -> str:
    """The name of a piece's shard."""
    return f"{part}-{number:06d}"


def _collected(shards: Shards, names: list[str]) -> Answers:
    if not names:
        raise UserError("the dataset to label is empty")
    tables = [with_wide_variance(shards.read(name)) for name in names]
    sizes = {tuple(size) for table in tables for size in json.loads((table.schema.metadata or {}).get(SIZES, "[]"))}
    return Answers(pa.concat_tables(tables), sizes)


def _batches(
    examples: Examples, device: torch.device, options: LabelOptions, shards: Shards, part: str, names: list[str]
) -> Iterator[tuple[str, int, Batch | None, dict[int, str]]]:
    """Name and rows of the shard that each batch belongs to, and hashes of the inputs of some of the shard's rows.

    There is no batch for a shard that is finished or another process'. All names are added to ``names``.
    """
    state = processes()
    for number, read in examples.pieces(options.shard_rows):
        name, piece, first = shard_name(part, number), read(), number * options.shard_rows
        names.append(name)
        if number % state.num_processes != state.process_index:
            yield name, len(piece), None, {}
        elif name in shards:
            _check_rows(shards, name, piece, first, examples)
            yield name, len(piece), None, {}
        else:
            inputs = {} if shards.folder is None else input_digests(examples, piece, first)
            for batch in examples.batches(piece, first, options.batch_size, device):
                yield name, len(piece), batch, inputs


def _asked(teacher: LabelingTeacher, batch: Batch, num_views: int, options: LabelOptions) -> dict[str, np.ndarray]:
    """:func:`_predict`, with a UserError that names the rows that the teacher can't take."""
    try:
        return _predict(teacher, batch, num_views, options)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"the teacher can't answer rows {batch.numbers[0]} to {batch.numbers[-1]} ({reason(error)}): compare what "
            "the preprocessor makes of them with the inputs that its network takes"
        ) from error


def _predict(teacher: LabelingTeacher, batch: Batch, num_views: int, options: LabelOptions) -> dict[str, np.ndarray]:
    """``probs`` and ``variance`` [B, V, C], and the ids."""
    answers: dict[str, list[np.ndarray]] = {"probs": [], "variance": []}
    for view in range(num_views):
        generator = ExampleGenerator(torch.from_numpy(batch.keys.copy()), options.draw_seed, view)
        with options.autocast(device_of(teacher)):
            prediction = teacher.predict(batch.inputs(view), options.num_samples, generator)
        expected, actual = [len(batch.ids), teacher.num_classes], list(prediction.mean.shape)
        if actual != expected:
            raise UserError(
                f"the teacher answered with probabilities {actual}, and for {expected[0]} examples of "
                f"{expected[1]} classes they would be {expected}: its num_classes or its predict is wrong"
            )
        order = slice(None) if options.class_order is None else options.class_order
        answers["probs"].append(prediction.mean[:, order].float().cpu().numpy())
        if prediction.variance is not None and options.variance != "none":
            variance = prediction.variance[:, order].float()
            variance = variance.sum(dim=-1, keepdim=True) if options.variance == "sum" else variance
            answers["variance"].append(variance.cpu().numpy())
    return {name: np.stack(each, axis=1) for name, each in answers.items() if each} | {
        "ids": batch.ids,
        "numbers": batch.numbers,
    }


def _shard(
    done: list[dict[str, np.ndarray]], sizes: set[tuple[int, ...]], inputs: dict[int, str], options: LabelOptions
) -> pa.Table:
    labels = {name: np.concatenate([each[name] for each in done]) for name in done[0]}
    probs, variance, ids = labels["probs"], labels.get("variance"), labels["ids"]
    table = encoded_table(probs, variance, ids, options.storage, options.top_k, labels["numbers"])
    return table.replace_schema_metadata(
        {SIZES: json.dumps(sorted(sizes))} | ({DIGESTS: json.dumps(inputs)} if inputs else {})
    )


def _check_rows(shards: Shards, name: str, piece: datasets.Dataset, first: int, examples: Examples) -> None:
    """UserError if a finished shard is not of these rows, or not of the inputs that they become now."""
    shard = shards.read(name)
    if len(shard) != len(piece):
        raise UserError(
            f"a finished shard has {len(shard)} rows, and the dataset {len(piece)} in its place: it is of another "
            "dataset; pass another folder"
        )
    if not examples.has_ids:
        return
    check_identity(shard[EXAMPLE_ID].to_numpy(), examples.identity.of_dataset(piece), first + np.arange(len(piece)))
    check_inputs(examples, piece, first, shard, shards.folder)
