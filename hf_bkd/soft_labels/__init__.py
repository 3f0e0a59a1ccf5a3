"""Soft labels: a teacher's opinion of each example, as columns of a dataset with a record of what made them."""

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
