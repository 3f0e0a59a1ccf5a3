"""`hf-bkd teacher fit`: from a trained network, or the name of an architecture, to a saved teacher."""

from .command import fit

__all__ = ["fit"]
