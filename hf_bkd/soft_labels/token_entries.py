"""Log-probabilities of some tokens at each position, in the forms that engines and other trainers write them in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..utils.errors import UserError

TOLERANCE = 1e-2  # of logarithms and sums that somebody rounded


class Entries(NamedTuple):
    """Some tokens of each of T positions and their log-probabilities, one after the other.

    positions: int64 [n], in ascending order.
    ids: int64 [n].
    values: float64 [n].
    """

    positions: np.ndarray
    ids: np.ndarray
    values: np.ndarray

    def where(self, chosen: np.ndarray) -> "Entries":
        """Return those that are chosen, bool or int64 [n]."""
        return Entries(*(each[chosen] for each in self))


def entries_of(log_probs: Iterable, tokens: Iterable | None, mask: Iterable | None, lengths: np.ndarray) -> Entries:
    """Return what is said of all rows; UserError where it isn't as long as the rows."""
    given = {"log-probabilities": log_probs, "tokens": tokens, "mask": mask}
    given = {what: each for what, each in given.items() if each is not None}
    for what, each in given.items():
        if len(each) != len(lengths):
            raise UserError(f"the {what} are of {len(each)} rows, and the dataset has {len(lengths)}: pass as many")
    starts, parts = lengths.cumsum() - lengths, []
    for number, own in enumerate(zip(*given.values(), strict=True)):
        row = dict(zip(given, own, strict=True))
        for what, each in row.items():
            if each is None or len(each) != lengths[number]:
                raise UserError(
                    f"row {number} has {0 if each is None else len(each)} entries of {what}, and {lengths[number]} "
                    "input_ids: cut both alike, or make the input_ids of the ids that the engine was given"
                )
        try:
            made = _of_lists(number, row) if tokens is not None else _of_mappings(number, row)
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(
                f"what row {number} holds can't be read ({error}): its entries must be lists of numbers, those of the "
                "mask as long as those of the tokens"
            ) from error
        parts.append(made._replace(positions=made.positions + starts[number]))
    return Entries(*map(np.concatenate, zip(*parts, strict=True)))


def _of_mappings(number: int, row: dict[str, Sequence]) -> Entries:
    counted, ids, values = [], [], []
    for place, entry in enumerate(row["log-probabilities"]):
        counts = "mask" not in row or np.any(row["mask"][place])
        if entry is not None and not isinstance(entry, Mapping):
            raise UserError(
                f"entry {place} of row {number} is a {type(entry).__name__}, not a mapping from ids to "
                "log-probabilities: pass tokens= too, the ids of each entry"
            )
        for token, value in (entry or {}).items() if counts else ():
            value = value.get("logprob") if isinstance(value, Mapping) else getattr(value, "logprob", value)
            if value is None:  # what Arrow makes of an id that another entry has
                continue
            try:
                ids.append(int(token))
            except ValueError as error:
                raise UserError(
                    f"entry {place} of row {number} names the token {token!r}, not an id: ask the engine for ids, as "
                    "vLLM's prompt_logprobs have them"
                ) from error
            values.append(value)
            counted.append(place)
    return Entries(np.array(counted, np.int64), np.array(ids, np.int64), np.array(values, np.float64))


def _of_lists(number: int, row: dict[str, Sequence]) -> Entries:
    (sizes, ids), (others, values) = (_flat(row[what]) for what in ("tokens", "log-probabilities"))
    wrong = np.flatnonzero(sizes != others)
    if len(wrong):
        place = wrong[0]
        raise UserError(
            f"entry {place} of row {number} has {sizes[place]} tokens, and {others[place]} log-probabilities: pass "
            "one for each token"
        )
    positions, counted = np.repeat(np.arange(len(sizes)), sizes), np.ones(len(ids), bool)
    if "mask" in row:
        flags = [np.broadcast_to(m, n) for m, n in zip(row["mask"], sizes.tolist(), strict=True)]
        counted = np.concatenate(flags).astype(bool)
    made = Entries(positions, ids, values).where(counted)
    odd = made.ids[made.ids != np.round(made.ids)]
    if len(odd):
        raise UserError(f"row {number} names the token {odd[0]:g}, not an id: pass the ids of the vocabulary")
    return made._replace(ids=made.ids.astype(np.int64))


def _flat(entries: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of lists of numbers, and the numbers one after the other."""
    try:
        array = np.asarray(entries, np.float64)
        if array.ndim == 2:
            return np.full(len(array), array.shape[1]), array.ravel()
    except (TypeError, ValueError):
        pass  # they differ in length
    lists = [[] if each is None else each for each in entries]
    return np.array([len(each) for each in lists]), np.array([x for each in lists for x in each], np.float64)


def check_entries(entries: Entries, rows: np.ndarray, num_tokens: int) -> None:
    """Refuse ids that there aren't, and values that are no log-probabilities; rows [T] are the positions'."""
    positions, ids, values = entries
    order = np.lexsort((ids, positions))
    twice = np.zeros(len(ids), bool)
    twice[order[1:]] = (np.diff(positions[order]) == 0) & (np.diff(ids[order]) == 0)
    beyond = (ids < 0) | (ids >= num_tokens)
    problems = {
        f"and the vocabulary has {num_tokens} tokens: pass num_tokens=, the model's vocab_size": beyond,
        "which is no number": np.isnan(values),
        "and none is above 0: pass logarithms of probabilities, not these or logits": values > TOLERANCE,
        "and names it twice in one entry: pass each token once": twice,
    }
    for problem, wrong in problems.items():
        if wrong.any():
            first = np.flatnonzero(wrong)[0]
            raise UserError(
                f"row {rows[positions[first]]} gives the token {ids[first]} the log-probability {values[first]:.4g}, "
                f"{problem}"
            )
