"""The processes of one run and their common decisions."""

import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def processes() -> PartialState:
    """Return accelerate's state of this run, also of several processes on a CPU, which it would take for one each."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return PartialState(cpu=True) if several and not torch.accelerator.is_available() else PartialState()


def decided_by_main(question: Callable[[], Any]) -> Any:
    """Return the main process' answer in every process: a file that it looks at may be there by the time of others."""
    return broadcast_object_list([question() if processes().is_main_process else None])[0]
