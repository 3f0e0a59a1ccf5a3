"""Two processes that share the prompts have the answers of one."""

from hf_bkd.utils.processes import processes
from tests.language.language_helpers import llama
from tests.two_processes import said_by_two

from .response_helpers import answered, prompts


def told(folder):
    """What one process has, in memory and in a folder, as text."""
    small = {"shard_rows": 1, "max_new_tokens": 3, "token_labels": True}
    return [repr(answered(prompts(), llama(), 2, folder=own, **small).to_dict()) for own in (None, folder)]


def test_both_processes_have_the_answers_of_one(tmp_path):
    both = said_by_two(lambda rank: [processes().num_processes, told(tmp_path / "shared")], tmp_path)
    assert both == [[2, told(tmp_path / "alone")]] * 2
