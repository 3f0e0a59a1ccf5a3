"""Nothing in a test may reach the Hub, and all of them run on the CPU with one thread's arithmetic."""

import contextlib
import functools
import gc
import logging
import os
import sys
import threading
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # or accelerate sets more, and a forked child waits for threads that it hasn't
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of processes

gc.disable()  # until all is imported: a quarter of the time that takes

import pytest
import tqdm
from _pytest.logging import caplog_handler_key

# no lock of progress bars is shared with forked children: one that is killed while it holds it would block all others
tqdm.tqdm.set_lock(threading.RLock())
tqdm.tqdm.monitor_interval = 0  # nor does another thread hold one in the moment of a fork


class Imported:
    """Exempts what was imported from garbage collection."""

    modules = 0

    def exempt(self) -> None:
        if len(sys.modules) > self.modules + 20:
            if gc.isenabled():
                gc.collect()
            gc.freeze()
            self.modules = len(sys.modules)


IMPORTED = Imported()


def pytest_collection_finish(session):
    import torch  # which the process that hands out the tests does without

    IMPORTED.exempt()
    gc.enable()
    keep_logs_where_asked(session.config.pluginmanager.get_plugin("logging-plugin"))
    for device in (torch.cuda, torch.xpu, torch.mtia):
        if not device.is_available():  # each seed would be kept for it, with a stack trace: 0.6 ms a training
            device.manual_seed_all = lambda seed: None
    if "hypothesis" in sys.modules:
        from hypothesis.internal.conjecture import providers

        # constants of all modules that happen to be imported would be among what is drawn: other cases in each process
        providers._get_local_constants = lambda: providers._local_constants
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


def keep_logs_where_asked(plugin) -> None:
    """Spare tests without ``caplog`` six walks through all loggers of all libraries, a third of pytest's own time."""
    own = plugin._runtest_for
    logging.getLogger().addHandler(logging.NullHandler())  # as with it: what is logged is not printed instead

    def runtest(item, when: str):
        if "caplog" in item.fixturenames:
            return own(item, when)
        item.stash.setdefault(caplog_handler_key, plugin.caplog_handler)
        return contextlib.nullcontext()

    plugin._runtest_for = runtest


@pytest.fixture(scope="module")
def blank_pictures():
    """For the tests of a module that draw pictures without looking at them; those of `reports` do."""
    from tests.pictures import blank

    with blank():
        yield


@pytest.fixture(autouse=True)
def _same_arithmetic():
    import torch

    IMPORTED.exempt()
    torch.manual_seed(0)
    torch.set_num_threads(1)
