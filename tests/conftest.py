"""Nothing in a test may reach the Hub, and all of them run on the CPU with one thread's arithmetic."""

import functools
import gc
import os
import sys
import threading
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # or accelerate sets more, and a forked child waits for threads that it hasn't
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of processes

import pytest
import torch
import tqdm

# no lock of progress bars is shared with forked children: one that is killed while it holds it would block all others
tqdm.tqdm.set_lock(threading.RLock())
tqdm.tqdm.monitor_interval = 0  # nor does another thread hold one in the moment of a fork


class Imported:
    """Exempts what was imported from garbage collection."""

    modules = 0

    def exempt(self) -> None:
        if len(sys.modules) > self.modules + 20:
            gc.collect()
            gc.freeze()
            self.modules = len(sys.modules)


IMPORTED = Imported()
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():  # each seed would be kept for it, with a stack trace: 0.6 ms a training and example
        device.manual_seed_all = lambda seed: None


def pytest_collection_finish():
    IMPORTED.exempt()
    if "accelerate" in sys.modules:
        from accelerate.utils import imports, memory

        # a training asks 14 times which packages there are, and twice for a garbage collection
        imports._is_package_available = functools.cache(imports._is_package_available)
        memory.clear_device_cache = lambda garbage_collection=False: None
    if "datasets" in sys.modules:
        from datasets import arrow_dataset, fingerprint

        # each dataset is pickled for its fingerprint, which names files of a cache that no test looks for
        arrow_dataset.generate_fingerprint = lambda dataset: fingerprint.generate_random_fingerprint()
        fingerprint.update_fingerprint = lambda *_: fingerprint.generate_random_fingerprint()
        if "torchvision" in sys.modules:  # which has no VideoReader any more; datasets asks for each value
            vars(sys.modules["torchvision"].io).setdefault("VideoReader", type("VideoReader", (), {}))


@pytest.fixture(scope="module")
def blank_pictures():
    """For the tests of a module that draw pictures without looking at them; those of `reports` do."""
    from tests.pictures import blank

    with blank():
        yield


@pytest.fixture(autouse=True)
def _same_arithmetic():
    IMPORTED.exempt()
    torch.manual_seed(0)
    torch.set_num_threads(1)
