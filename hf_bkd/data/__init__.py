"""Datasets and the preprocessing that turns their rows into the inputs of networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading import load_splits

__all__ = ["load_splits"]


if not TYPE_CHECKING:  # a checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        """Import ``load_splits`` when it is first used, for augmentations and views need no datasets library."""
        if name != "load_splits":
            raise AttributeError(f"module 'hf_bkd.data' has no attribute {name!r}")
        from .loading import load_splits

        return load_splits
