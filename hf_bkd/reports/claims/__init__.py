"""Claims of a paper as checks: what a formula predicts beside what was measured, on a page with pictures."""

from .claim import Check, Claim, Figure, Panel, Series
from .command import ClaimArguments, main

__all__ = ["Check", "Claim", "ClaimArguments", "Figure", "Panel", "Series", "main"]
