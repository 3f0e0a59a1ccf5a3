"""Datasets and the preprocessing that turns their rows into the inputs of networks."""

from .loading import load_splits

__all__ = ["load_splits"]
