"""Randomness from a seed, which leaves all else as it was."""

import random

import numpy as np
import pytest
import torch

from hf_bkd.utils.seeding import seeded


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_draws_in_the_block_are_the_seeds_and_those_after_it_as_if_it_had_not_been():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(5, torch.device("cpu")):
        inside = draws()
    assert draws() == expected
    with seeded(5, torch.device("cpu")):
        assert draws() == inside
    assert inside[2] == torch.rand((), generator=torch.Generator().manual_seed(5)).item()


def test_a_seed_for_the_cpu_leaves_the_generators_of_gpus_alone(monkeypatch):
    """A student trains on one while its teacher answers on the CPU."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generator was seeded"))
    with seeded(5, torch.device("cpu")):
        torch.rand(())
