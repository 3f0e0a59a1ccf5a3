"""What each of two processes of a launch has to say."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState


def said_by_two(say: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what a function says in two forked gloo processes, called with 0 and 1; they need no port."""
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=_one_of_two, args=(say, rank, folder)) for rank in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in range(2)]


def _one_of_two(say: Callable[[int], Any], rank: int, folder: Path) -> None:
    PartialState._reset_state()  # of the process that this one was forked from
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes}
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    (folder / f"said-{rank}.json").write_text(json.dumps(say(rank)))
    torch.distributed.destroy_process_group()
