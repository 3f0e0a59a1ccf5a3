"""What the processes of one run have to agree on."""

from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def decided_by_main(question: Callable[[], Any]) -> Any:
    """The main process' answer in every process: another one may look at a file later, when it is already there."""
    return broadcast_object_list([question() if PartialState().is_main_process else None])[0]
