"""Nothing in a test may reach the Hub, and all of them run on the CPU with one thread's arithmetic."""

import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # or accelerate sets more, and a forked child waits for threads that it hasn't
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of processes

import pytest
import torch


def pytest_collection_finish():
    """Exempt what was imported from garbage collection, which each training asks for: 0.3 s, for steps of 0.02 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_arithmetic():
    torch.manual_seed(0)
    torch.set_num_threads(1)
