"""How long networks take, as ratios measured in one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..models.calling import Inputs, call_network, evaluation_mode, to_network

ROUNDS = 7


def relative_time(run: Callable[[], Any], reference: Callable[[], Any]) -> float:
    """Seconds of one function over those of another: the median of rounds in which they take turns."""
    rounds = [(_seconds(run), _seconds(reference)) for _ in range(ROUNDS)]
    return statistics.median(mine / other for mine, other in rounds)


@torch.no_grad()
def plain_pass(network: nn.Module, inputs: Inputs) -> None:
    """One pass of a network through a batch."""
    with evaluation_mode(network):
        call_network(network, to_network(inputs, network))


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
