"""Soft labels: a teacher's opinion of each example, as columns of a dataset that say where they come from."""

from .columns import SoftLabels, attach, read, read_provenance
from .generate import add_soft_labels

__all__ = ["SoftLabels", "add_soft_labels", "attach", "read", "read_provenance"]
