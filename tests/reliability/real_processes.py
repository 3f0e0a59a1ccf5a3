"""Forked processes of this one, which start in no time, and their deaths."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hf_bkd.utils.locks import sole_user


def forked(act: Callable[[], object], log: Path) -> int:
    """Start a process that acts, writes what it prints into a file and ends; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        act()
        status = 0
    except BaseException:
        log.open("a").write(traceback.format_exc())
    finally:
        os._exit(status)


def killed(act: Callable[[], object], log: Path, seconds: float) -> bool:
    """Kill a process that acts after so many seconds; whether it was still alive."""
    process = forked(act, log)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so; the limit is for what never comes to be."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def used_by_another(folder: Path, log: Path) -> Iterator[int]:
    """Have another process, whose id this is, work in a folder."""
    ready = log.with_name("ready")

    def work() -> None:
        with sole_user(folder):
            ready.touch()
            time.sleep(600)

    process = forked(work, log)
    try:
        wait_for(ready.exists)
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        ready.unlink(missing_ok=True)
