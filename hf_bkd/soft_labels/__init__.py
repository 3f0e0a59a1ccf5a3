"""Soft labels: a teacher's opinion of each example, as columns of a dataset that say where they come from."""

from .belonging import check_against_teacher
from .columns import SoftLabels, attach, only_soft_labels, read
from .generate import add_soft_labels
from .importing import import_soft_labels
from .joining import join_soft_labels
from .layout import read_provenance
from .sharing import push_soft_labels

__all__ = [
    "SoftLabels",
    "add_soft_labels",
    "attach",
    "check_against_teacher",
    "import_soft_labels",
    "join_soft_labels",
    "only_soft_labels",
    "push_soft_labels",
    "read",
    "read_provenance",
]
