"""Randomness that networks draw for themselves, from whichever library: taken from a seed, or left as it was."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def unmoved_randomness(devices: Sequence[torch.device | int] | None = None) -> Iterator[None]:
    """Put the states of Python's, numpy's and torch's global random generators back after the block.

    Args:
        devices: GPUs whose generators are put back beside the host's; all, where any is in use, if not given.
    """
    python, numpy = random.getstate(), np.random.get_state()
    if devices is None:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def drawn_seed(generator: torch.Generator | None) -> int:
    """Draw a seed for :func:`seeded` from a generator, or from torch's global one."""
    device = "cpu" if generator is None else generator.device
    return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let all that torch, numpy and Python draw for themselves in the block come from a seed; their states come back.

    Args:
        seed: 0 .. 2**63 - 1.
        device: whose generator is seeded beside the host's; those of GPUs are left alone if it is the CPU.
    """
    on_cpu = device.type == "cpu"
    with unmoved_randomness([] if on_cpu else None):
        (torch.default_generator if on_cpu else torch).manual_seed(seed)  # torch's own moves all GPUs' generators
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
