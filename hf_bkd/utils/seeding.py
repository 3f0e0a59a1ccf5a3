"""Randomness that networks draw for themselves, from whichever library, is taken from a seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let all that torch, numpy and Python draw for themselves in the block come from a seed; their states come back.

    Args:
        seed: 0 .. 2**63 - 1.
        device: whose generator is seeded beside the host's.
    """
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
