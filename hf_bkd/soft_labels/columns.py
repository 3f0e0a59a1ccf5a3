"""The columns that carry soft labels in a `datasets.Dataset`.

| column               | content                                                                                 |
| -------------------- | --------------------------------------------------------------------------------------- |
| `teacher_probs`      | probabilities of classes, or of labels that are each there or not, averaged over the    |
|                      | teacher's draws and tempered: [C], or [V, C] flat for V views; compact storages: see    |
|                      | `storage`                                                                               |
| `teacher_mean`       | of a regression, in its place: the average of the draws' numbers                        |
| `teacher_variance`   | across-draw variance (ddof 1), when kept: shaped as the values, or its sum over them,   |
|                      | one number a view                                                                       |
| `teacher_tokens`     | of a language model, beside the probabilities of some tokens: their ids, [k] a position  |
| `teacher_noise`      | of a regression, where it is known: a number's variance given the draw, averaged over   |
|                      | the draws, shaped as the means                                                          |
| `teacher_mean_log_   | of classes, when asked for: logarithms of the draws' probabilities (less than 2**-25    |
| probs`               | count as that), averaged over the draws and shaped as the values: t' for t with         |
|                      | abs(t' - t) <= 2**-11 abs(t) + 2**-25, or t itself beside float32                       |
| `teacher_provenance` | a `ClassLabel` with one name: the JSON record of what made the labels (`record`)         |
| `example_id`         | hash of the row's content, by which labels and examples recognize each other            |

Labels of a named teacher end in `__NAME`. `teacher_probs` is a list of fixed length, or for `top_k` a struct of such
lists. One label for each token makes these lists of lists, one for each position of the network's input that isn't
masked, special tokens included, as the teacher's tokenizer makes them; of a language model, one for each entry of
`input_ids`, which is of the token after it, zeros where that isn't taught. The record sits in a feature, not beside
the table, so that it travels wherever the rows go: `select`, `map`, `save_to_disk`, parquet, the Hub.
"""

from collections.abc import Mapping
from typing import Any

from ..data.columns import EXAMPLE_ID, RECORD, RENAMED, VALUES, is_soft_label_column
from ..utils.errors import UserError
from .record import LabelRecord, decode_record


def column(kind: str, teacher: str | None = None) -> str:
    """Name of a soft-label column, of the only teacher or of the one called ``teacher``."""
    return kind if teacher is None else f"{kind}__{teacher}"


def is_record_column(name: str) -> bool:
    """Whether a column's feature holds the record of what made labels."""
    return name.partition("__")[0] == RECORD


def soft_label_columns(dataset: Any) -> list[str]:
    """Names of a dataset's columns that carry soft labels; none of a dataset that names no columns."""
    return [name for name in getattr(dataset, "column_names", None) or [] if is_soft_label_column(name)]


def teachers_of(column_names: list[str]) -> list[str | None]:
    """Names of the teachers whose labels are there, in order; ``None`` stands for an unnamed one."""
    parts = [name.partition("__") for name in column_names]
    return list(dict.fromkeys(teacher if separator else None for kind, separator, teacher in parts if kind in VALUES))


def read_record(features: Mapping[str, Any], teacher: str | None = None) -> LabelRecord | None:
    """The record of what made the labels; ``None`` if the columns were added by hand."""
    feature = features.get(column(RECORD, teacher))
    return None if feature is None else decode_record(feature)


def value_column(features: Mapping[str, Any], teacher: str | None = None) -> str:
    """Name of the column of a teacher's probabilities, or of a regression's means.

    Raises:
        UserError: there is none.
    """
    record = read_record(features, teacher)
    kinds = VALUES if record is None else (record.likelihood.column,)
    names = [column(kind, teacher) for kind in kinds]
    name = next((name for name in names if name in features), None)
    if name is None:
        raise UserError(f"the dataset has no column {names[0]}; add it with add_soft_labels(dataset, teacher)")
    return name


def check_reserved(features: Mapping[str, Any]) -> None:
    """UserError if a column has the name of soft labels and is the user's own: no record of ours stands beside it."""
    records = [name for name in features if is_record_column(name) and len(getattr(features[name], "names", ())) == 1]
    recorded = {name.partition("__")[2] for name in records}
    for name in records:
        decode_record(features[name])
    for name in filter(is_soft_label_column, features):
        ours = bool(recorded) if name == EXAMPLE_ID else name.partition("__")[2] in recorded
        if not ours:
            raise UserError(
                f"the dataset has a column {name} of its own, a name that soft labels need: pass "
                f"dataset.rename_column({name!r}, {RENAMED + name!r})"
            )
