"""Log-probabilities of tokens that somebody else's engine computed become a language model's soft labels."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np

from ..data.preprocessors.next_tokens import PACKED, NextTokenPreparation
from ..data.preprocessors.texts import vocabulary_hash
from ..data.preprocessors.word_labels import hash_of_tokens
from ..likelihoods import UNLABELED
from ..utils.checks import check_choice, check_count, check_positive
from ..utils.errors import UserError
from .columns import check_reserved
from .identity import Identity, summarized_ids
from .layout import Layout
from .next_tokens import table_of_next_tokens
from .record import make_record
from .record_parts import NEXT_TOKENS
from .token_entries import TOLERANCE, Entries, check_entries, entries_of
from .token_positions import check_positions
from .writing import attach_table

logger = logging.getLogger(__name__)

PREDICTS = ("own", "next")
WHOLE = 1e-4  # what is missing to one of probabilities that were made to sum to it
LEAST = 2.0**-24  # what float16 tells from 0, which is no entry
FEW = 8  # positions whose labels may sum to one by chance


def import_token_log_probs(
    dataset: datasets.Dataset,
    log_probs: str | Sequence,
    tokens: str | Sequence | None = None,
    mask: str | Sequence | None = None,
    *,
    predicts: str,
    processing_class: Any = None,
    num_tokens: int | None = None,
    temperature: float = 1.0,
    made_by: str = "",
    name: str | None = None,
) -> datasets.Dataset:
    """Give rows of tokens the next-token soft labels that an engine's log-probabilities of some tokens say.

    They are stored as ``"top_k"`` of as many tokens as a position has at most; what is missing to one is all other
    tokens' together. Positions whose next token isn't taught get none.

    Args:
        dataset: N rows with ``input_ids`` of L tokens, and ``labels`` that are -100 where nothing is taught.
        log_probs: of each row L entries, or the name of the column that holds them. An entry is a mapping from ids to
            log-probabilities (numbers, or objects or mappings with a ``logprob``, as vLLM has them), or ``None``; with
            ``tokens`` a list of log-probabilities. Those of -inf don't count.
        tokens: the ids of each entry, in the same order, or the name of their column.
        mask: 1 of what counts and 0 of what doesn't, for each log-probability or for each entry; or its column's name.
        predicts: ``"own"`` if an entry is of the token that it stands at, so that the first row's is ``None``, as of
            vLLM's prompts; ``"next"`` if it is of the token after it.
        processing_class: the tokenizer, whose hash is recorded, so that students of another one are refused.
        num_tokens: V, of the model that made them; as many as the tokenizer has if not given.
        temperature: T > 0, at which they were made.
        made_by: what made them, for the record.
        name: the teacher's name, when a dataset carries labels of several.

    Returns:
        The dataset with ``teacher_tokens``, ``teacher_probs``, ``example_id`` and the record.

    Raises:
        UserError: rows or entries of another length, ids beyond the vocabulary or twice in an entry, log-probabilities
            above 0, sums of probabilities above 1, a taught token that nothing is said of, or entries that fit the
            tokens one place to the left or right better.
    """
    check_choice(PREDICTS, predicts=predicts)
    check_positive(temperature=temperature)
    _check_rows(dataset)
    if num_tokens is None and processing_class is None:
        raise UserError("nothing says how large the vocabulary is: pass processing_class=, the model's tokenizer")
    num_tokens = len(processing_class) if num_tokens is None else num_tokens
    check_count(2, num_tokens=num_tokens)
    columns = [each for each in ("input_ids", "attention_mask", "labels") if each in dataset.column_names]
    lengths, taught = _taught(dataset, columns, num_tokens)
    entries = entries_of(*(_column(dataset, each) for each in (log_probs, tokens, mask)), lengths)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    check_entries(entries, rows, num_tokens)
    if predicts == "own":
        entries = entries._replace(positions=entries.positions - 1)  # of a row's first token: to an untaught place
    entries = entries.where(taught[entries.positions] & (entries.values > -np.inf))
    _check_all_there(entries, taught, rows, lengths, predicts)
    classes, probs = _widened(entries, rows, num_tokens)
    identity = Identity(tuple(each for each in columns if each != "labels"))
    ids = identity.of_dataset(dataset)
    stored = {"classes": classes.astype(np.uint16 if num_tokens <= 2**16 else np.int32), "probs": probs}
    facts = {"lengths": lengths, "numbers": np.arange(len(lengths)), "ids": ids}
    table = table_of_next_tokens(stored | facts, num_tokens, "top_k")
    digest = hashlib.sha256(classes.tobytes() + probs.tobytes()).hexdigest()[:16]
    teacher = {"method": "imported", "num_classes": num_tokens, "made_by": made_by, "kind": "log_probs"}
    teacher |= {"temperature": float(temperature), "tempering": "per_sample", "weights": digest}
    record = make_record(
        teacher,
        dataset,
        num_samples=1,
        seed=0,
        storage="top_k",
        identity=identity,
        ids=summarized_ids(ids),
        positions=NEXT_TOKENS,
        tokenizer=_hash_of(processing_class),
    )
    labeled = attach_table(dataset, table, record, name)
    other = next(each for each in PREDICTS if each != predicts)
    check_positions(labeled, Layout.of(labeled.features, name), f"pass predicts={other!r}, or the rows they are of")
    return labeled


def _check_rows(dataset: Any) -> None:
    """Raise a UserError unless log-probabilities of tokens can be given to a dataset's rows."""
    if not isinstance(dataset, datasets.Dataset):
        raise UserError("only whole datasets are given log-probabilities: load it without streaming")
    if "input_ids" not in dataset.column_names:
        raise UserError(
            "log-probabilities belong to tokens, and the dataset has no input_ids: pass "
            "hf_bkd.tokenized(dataset, tokenizer), or add the ids that the engine was given"
        )
    packed = next((each for each in PACKED if each in dataset.column_names), None)
    if packed is not None:
        raise UserError(f"the rows are packed, as their column {packed} says: import first, then pack_soft_labels")
    if not len(dataset):
        raise UserError("the dataset to label is empty")
    check_reserved(dataset.features)


def _hash_of(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    return hash_of_tokens(tokenizer, vocabulary_hash(tokenizer))


def _column(dataset: datasets.Dataset, given: Any) -> Iterable | None:
    if not isinstance(given, str):
        return given
    if given not in dataset.column_names:
        raise UserError(f"the dataset has no column {given!r}; it has {', '.join(dataset.column_names)}")
    return dataset.with_format(None)[given]


def _taught(dataset: datasets.Dataset, columns: list[str], num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths [N] of the rows, and of which of their T positions the next token is taught, bool [T]."""
    prepare, lengths, taught = NextTokenPreparation(0, True), [], []
    for number, row in enumerate(dataset.with_format(None).select_columns(columns)):
        made = prepare({name: [value] for name, value in row.items()})
        highest = int(made["input_ids"].max())
        if highest >= num_tokens:
            raise UserError(
                f"row {number} has the token {highest}, and the vocabulary {num_tokens}: pass num_tokens=, the "
                "vocab_size of the model that made the log-probabilities"
            )
        lengths.append(len(row["input_ids"]))
        taught.append(np.append(made["labels"][0, 1:].numpy() != UNLABELED, False))
    return np.array(lengths), np.concatenate(taught)


def _check_all_there(
    entries: Entries, taught: np.ndarray, rows: np.ndarray, lengths: np.ndarray, predicts: str
) -> None:
    counts = np.bincount(entries.positions, minlength=len(taught))
    missing = np.flatnonzero(taught & (counts == 0))
    if not taught.any():
        raise UserError("no token of the rows is taught, all of their labels are -100: see hf_bkd.tokenized")
    if len(missing):
        row = rows[missing[0]]
        token = missing[0] - (lengths.cumsum() - lengths)[row] + 1
        stands = "after the one that it stands at" if predicts == "own" else "that it stands at"
        other = next(each for each in PREDICTS if each != predicts)
        raise UserError(
            f"row {row} teaches its token {token}, and no log-probability is of it: give it the label -100, or pass "
            f"predicts={other!r} if an entry is of the token {stands}"
        )


def _widened(entries: Entries, rows: np.ndarray, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and probabilities float16 [T, 1, k], the largest first; other ids with 0 where there are fewer."""
    total = len(rows)
    positions, ids, values = entries.where(np.lexsort((-entries.values, entries.positions)))
    probs = np.exp(np.minimum(values, 0))
    counts = np.bincount(positions, minlength=total)
    sums = np.bincount(positions, probs, minlength=total)
    wrong = np.flatnonzero(sums > 1 + TOLERANCE)
    if len(wrong):
        raise UserError(
            f"the probabilities of an entry of row {rows[wrong[0]]} sum to {sums[wrong[0]]:.4g} ({len(wrong)} such "
            "entries): pass log-probabilities over the whole vocabulary"
        )
    there = counts > 0
    if there.sum() >= FEW and counts.max() < num_tokens and (sums[there] > 1 - WHOLE).all():
        logger.warning(
            "the probabilities of all %d entries sum to 1 over %d of %d tokens: if they were renormalized over these, "
            "students learn that no other token can come; import what the model itself says",
            there.sum(),
            counts.max(),
            num_tokens,
        )
    width = int(counts.max())
    places = np.arange(len(positions)) - (counts.cumsum() - counts)[positions]
    wide_ids, wide = np.zeros((total, width), np.int64), np.zeros((total, width), np.float16)
    wide_ids[positions, places] = ids
    wide[positions, places] = np.maximum(probs / np.maximum(sums, 1)[positions], LEAST)
    used = np.zeros((total, width), bool)
    used[positions[ids < width], ids[ids < width]] = True
    free = used.argsort(axis=1, kind="stable")  # ids below k, those that the entry lacks first
    at = np.arange(width) - counts[:, None]
    wide_ids = np.where(at < 0, wide_ids, np.take_along_axis(free, at.clip(0), axis=1))
    return wide_ids[:, None], wide[:, None]
