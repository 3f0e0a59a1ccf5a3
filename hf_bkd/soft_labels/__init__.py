"""Soft labels: a teacher's opinion of each example, as columns of a dataset with a record of what made them.

They are made by `labeling`. A teacher is asked about rows as it reads them (`teacher_rows`, `examples`, less
`unreadable_rows`), one shard at a time (`asking`, `shards`, by the `options`), or each fold's teacher about its own
(`cross_fitting`). What it says of a batch is checked in `batch_answers`, and for a language model, whose vocabulary is
sampled (`sampling`), in `next_tokens`. A labeling that is begun again knows its inputs by `input_digests`.

`columns` says what stands in which column, `storage` how values are stored and what that loses, `identity` which
example a row is, `record` and `record_parts` what made the labels; `writing` makes the columns. `reading` reads and
checks them by their `layout` (`lists`, `in_memory`), and `belonging` and `kinds` say whether they are of these
examples, and fit the student.

Others' values come in by `importing` and `importing_tokens` (`token_entries`, `token_positions`). Labels go on by
`joining`, `concatenating`, `packing`, `weighted_rows` and `sharing` (with `pictures`), and `spot_check` asks a teacher
whether they are its own.
"""

from .columns import read_record
from .concatenating import concatenate_soft_labels
from .importing import import_soft_labels
from .importing_tokens import import_token_log_probs
from .in_memory import SoftLabels
from .joining import join_soft_labels
from .labeling import add_soft_labels
from .packing import pack_soft_labels
from .reading import read, read_provenance
from .sharing import push_soft_labels
from .spot_check import check_against_teacher
from .weighted_rows import WeightedRows, weighted_rows
from .writing import attach, only_soft_labels

__all__ = [
    "SoftLabels",
    "WeightedRows",
    "add_soft_labels",
    "attach",
    "check_against_teacher",
    "concatenate_soft_labels",
    "import_soft_labels",
    "import_token_log_probs",
    "join_soft_labels",
    "only_soft_labels",
    "pack_soft_labels",
    "push_soft_labels",
    "read",
    "read_provenance",
    "read_record",
    "weighted_rows",
]
