"""The processes of one run and their common decisions."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object


def processes() -> PartialState:
    """Return accelerate's state of this run, also of several processes on a CPU, which it would take for one each."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return PartialState(cpu=True) if several and not torch.accelerator.is_available() else PartialState()


def decided_by_main(question: Callable[[], Any]) -> Any:
    """Return the main process' answer in every process: a file that it looks at may be there by the time of others.

    What the question raises is raised in every process.
    """
    answer = None
    with failing_together():
        if processes().is_main_process:
            answer = question()
    return broadcast_object_list([answer])[0]


@contextmanager
def failing_together() -> Iterator[None]:
    """Raise what the block raises in any process in all of them, so that none waits for one that has ended.

    All processes of the run enter the block, and within it none waits for another.
    """
    own = None
    try:
        yield
    except Exception as error:
        own = error
    if processes().num_processes > 1:
        raised = gather_object([None if own is None else portable(own)])
        own = own or next((error for error in raised if error is not None), None)
    if own is not None:
        raise own


def portable(error: Exception) -> Exception:
    """Return an error, or one of the same words where it can't be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("\n".join([repr(error), *getattr(error, "__notes__", ())]))
