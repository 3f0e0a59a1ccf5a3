"""What a training passes through in its last part, gathered step by step: the moments that SWAG's posterior needs."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..models.posterior_state import COUNT, DEVIATIONS, MEAN, SQUARES
from ..utils.checks import check_count, check_positive
from ..utils.errors import UserError

OWN = {MEAN, SQUARES, DEVIATIONS, COUNT}


class Moments(NamedTuple):
    """The moments of a network's snapshots, by the name of each trained parameter.

    mean: of the snapshots, in the parameter's shape.
    variance: of each weight between them (its second moment less the squared mean), >= 0.
    deviations: of the last K snapshots from the mean as it was when each was taken, [K, *shape].
    count: how many snapshots there were.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    deviations: dict[str, Tensor]
    count: int


class SnapshotCallback(TrainerCallback):
    """Gathers snapshots of the weights in the last part of a training, at a constant learning rate.

    The moments are kept in the optimizer's state, so that checkpoints hold them: a training that is resumed gathers
    the same as one that was never interrupted.

    Args:
        start: share in [0, 1) of the steps after which snapshots are taken.
        snapshots: how many are asked for; fewer where there are fewer steps.
        rank: K >= 0, how many of the last deviations are kept.
        rate: of the constant learning rate, as a share > 0 of the peak that the training's schedule has.

    Raises:
        UserError: an argument out of its range, or a training of fewer than two snapshots.
    """

    def __init__(self, start: float = 0.75, snapshots: int = 40, rank: int = 20, rate: float = 0.5):
        if not 0 <= start < 1:
            raise UserError(f"start is the share of a training before its snapshots, in [0, 1), and it is {start}")
        check_count(snapshots=snapshots)
        check_count(0, rank=rank)
        check_positive(rate=rate)
        self.start, self.snapshots, self.rank, self.rate = start, snapshots, rank, rate
        self._optimizer: torch.optim.Optimizer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **others: Any) -> None:
        """Refuse a training that is too short, before it begins."""
        self._optimizer = getattr(optimizer, "optimizer", optimizer)
        first, every = self._when(state.max_steps)
        if state.max_steps - first < every + 1:
            raise UserError(
                f"a training of {state.max_steps} steps has fewer than two snapshots after a share of {self.start:g}: "
                "train longer, or begin earlier"
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Hold the learning rate in the last part."""
        if state.global_step >= self._when(state.max_steps)[0]:
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate * group.get("initial_lr", args.learning_rate)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Take a snapshot when it is time."""
        first, every = self._when(state.max_steps)
        since = state.global_step - first
        if since <= 0 or since % every:
            return
        known = self._optimizer.state
        keeps_none = not any(each.keys() - OWN for each in known.values())  # of any, as SGD without momentum
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in known or (keeps_none and parameter.requires_grad):
                    self._add(self._optimizer.state[parameter], parameter)

    def _when(self, steps: int) -> tuple[int, int]:
        """Return how many steps come before the first snapshot's period, and the steps of a period."""
        first = math.floor(self.start * steps)
        return first, max((steps - first) // self.snapshots, 1)

    def _add(self, state: dict[str, Any], weight: Tensor) -> None:
        count = state.get(COUNT, 0)
        if not count:
            state[MEAN], state[SQUARES] = torch.zeros_like(weight), torch.zeros_like(weight)
            state[DEVIATIONS] = weight.new_zeros((self.rank, *weight.shape))
        mean = state[MEAN]
        before = weight - mean
        mean += before / (count + 1)
        state[SQUARES] += before * (weight - mean)  # the sum of squared deviations (Welford 1962)
        if self.rank:
            state[DEVIATIONS][count % self.rank] = weight - mean
        state[COUNT] = count + 1

    def moments(self, network: nn.Module) -> Moments:
        """Return what was gathered of a network's parameters, those that were trained.

        Raises:
            UserError: fewer than two snapshots were taken.
        """
        states = {} if self._optimizer is None else self._optimizer.state
        known = {name: states[p] for name, p in network.named_parameters() if COUNT in states.get(p, ())}
        count = min((state[COUNT] for state in known.values()), default=0)
        if count < 2:
            raise UserError(
                f"{count} snapshots of the weights were taken, and a variance needs at least two: train longer, or "
                "begin earlier"
            )
        return Moments(
            {name: state[MEAN].clone() for name, state in known.items()},
            {name: state[SQUARES] / state[COUNT] for name, state in known.items()},
            {name: state[DEVIATIONS][: state[COUNT]].clone() for name, state in known.items()},
            count,
        )
