"""A teacher is asked about all rows, shard by shard, by a plan of all that decides the labels."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..data.columns import BESIDE, EXAMPLE_ID
from ..likelihoods import CATEGORICAL
from ..utils.errors import UserError
from ..utils.processes import failing_together, processes
from ..utils.progress import progress_bar
from .batch_answers import asked, check_teacher, device_of
from .belonging import check_identity
from .examples import Batch, Examples, ahead
from .identity import Identity
from .input_digests import NAME as DIGESTS
from .input_digests import check_inputs, input_digests
from .next_tokens import table_of_next_tokens
from .options import LabelingTeacher, LabelOptions
from .record_parts import NEXT_TOKENS
from .shards import Shards
from .storage import AUTO, LARGEST
from .writing import encoded_table, with_wide_variance

SIZES = b"image_sizes"  # of a shard's images, beside its columns


class Answers(NamedTuple):
    """What a teacher said of some examples.

    table: the soft-label columns of all rows in order, all but the record.
    sizes: [channels, height, width] that their images have, if they are images.
    """

    table: pa.Table
    sizes: set[tuple[int, ...]]


class Made(NamedTuple):
    """What a labeling made: of which examples, the columns, how and by whom; how they were cross-fitted, if so.

    ``class_names`` are the teacher's, where it knows them.
    """

    examples: Examples
    answers: Answers
    options: LabelOptions
    teacher: dict[str, Any]
    folds: dict[str, Any] | None = None
    class_names: list[str] | None = None


def plan_of(
    examples: Examples, options: LabelOptions, teacher: dict[str, Any] | None, folds: int | None
) -> dict[str, Any]:
    """All that decides the labels, as JSON; ``teacher`` is ``None`` where each fold has its own."""
    dataset, settled = examples.dataset, asdict(options)
    if options.storage == AUTO:  # of teachers that are fitted later
        settled["storage"] = CATEGORICAL.storages[0]
    settled["top_k"] = settled["top_k"] or LARGEST["top_k"]
    for name in ("positions", "mean_log_probs"):
        if not settled[name]:  # as in folders of earlier versions
            del settled[name]
    return {
        "teacher": teacher,
        "folds": folds,
        "rows": examples.num_rows,
        "dataset": dataset.info.dataset_name,
        "split": None if dataset.split is None else str(dataset.split),
        "identity": examples.identity.to_json() if examples.has_ids else None,
        "draws": "by id" if examples.has_ids else "by number",
        **settled,
        **examples.settings,
    }


def as_begun(examples: Examples, options: LabelOptions, shards: Shards) -> tuple[Examples, LabelOptions]:
    """Examples and options as those shards know them: in a folder of an earlier version by its ids and draws."""
    if not shards.unsaid:
        return examples, options
    identity = examples.identity
    if "identity" in shards.unsaid:
        identity = Identity(() if examples.content is None else (examples.content,), form=1)
    if "stream" in shards.unsaid:
        options = replace(options, stream=None)
    return examples.known_by(identity, draws_by_number="draws" in shards.unsaid), options


def ask(
    examples: Examples,
    teacher: LabelingTeacher,
    options: LabelOptions,
    shards: Shards,
    part: str,
    bar_name: str | None,
) -> Answers:
    """Label all examples, less those whose shards are finished.

    Args:
        examples: the rows.
        teacher: labels them.
        options: how.
        shards: where finished ones are kept, with names that begin with ``part``.
        bar_name: name of the progress bar; no bar if ``None``.
    """
    options = replace(options, class_order=check_teacher(examples, teacher))
    names: list[str] = []
    hidden = bar_name is None or not processes().is_main_process
    with failing_together(), progress_bar(disable=hidden, rate="rows") as bar:
        task = bar.add_task(bar_name or "", total=examples.num_rows)
        done: list[dict[str, np.ndarray]] = []
        sizes: set[tuple[int, ...]] = set()
        for name, rows, batch, inputs in ahead(_batches(examples, device_of(teacher), options, shards, part, names)):
            if batch is not None:
                done.append(asked(teacher, batch, examples.num_views, options))
                sizes |= batch.sizes
            if batch is None or sum(len(answer["ids"]) for answer in done) == rows:
                if done:
                    shards.write(name, _shard(done, sizes, inputs, options, teacher.num_classes))
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


def _shard(
    done: list[dict[str, np.ndarray]],
    sizes: set[tuple[int, ...]],
    inputs: dict[int, str],
    options: LabelOptions,
    num_classes: int,
) -> pa.Table:
    labels = {name: np.concatenate([each[name] for each in done]) for name in done[0]}
    if options.positions == NEXT_TOKENS:
        table = table_of_next_tokens(labels, num_classes, options.storage)
    else:
        beside = {kind: labels[kind] for kind in BESIDE if kind in labels}
        settings = options.storage, options.top_k, labels["numbers"], options.likelihood, labels.get("lengths")
        table = encoded_table(labels["values"], beside, labels["ids"], *settings)
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
