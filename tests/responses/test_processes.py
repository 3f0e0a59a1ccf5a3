"""Two processes that share the prompts have the answers of one."""

import json
import multiprocessing
import os
import socket

from accelerate import PartialState

from hf_bkd.utils.processes import processes
from tests.language.language_helpers import llama

from .response_helpers import answered, prompts


def told(folder):
    """What one process has, in memory and in a folder, as text."""
    small = {"shard_rows": 1, "max_new_tokens": 3}
    return [repr(answered(prompts(), llama(), 2, folder=own, **small).to_dict()) for own in (None, folder)]


def one_of_two(rank, port, folder):
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **address}
    PartialState._reset_state()
    state = processes()
    said = {"world_size": state.num_processes, "answers": told(folder / "shared")}
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    state.destroy_process_group()


def test_both_processes_have_the_answers_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=one_of_two, args=(rank, port, tmp_path)) for rank in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
        assert each.exitcode == 0
    expected = told(tmp_path / "alone")
    for rank in range(2):
        said = json.loads((tmp_path / f"said-{rank}.json").read_text())
        assert said["world_size"] == 2 and said["answers"] == expected
