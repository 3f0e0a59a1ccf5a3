"""The draws of a teacher's weights, with each of which it can answer as a whole."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..teachers import DeterministicTeacher, EnsembleTeacher, MCDropoutTeacher, Teacher, VariationalTeacher
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.random import named_seed


@dataclass(frozen=True)
class WeightDraw:
    """A network with weights that were drawn, and the temperature of its probabilities.

    Args:
        network: that answers.
        temperature: T_t > 0, the teacher's own.
        drawn: a context in which its weights are the drawn ones.
    """

    network: nn.Module
    temperature: float = 1.0
    drawn: Callable[[], AbstractContextManager] = nullcontext


def weight_draws(teacher: Teacher, num_samples: int | None, k: int, seed: int) -> list[WeightDraw]:
    """List the draws of a teacher's weights of which k answers are sampled.

    Args:
        teacher: of a single network, which is its only draw; an ensemble, whose members they are; or one with a
            posterior that whole weights are drawn from: of MC dropout, IVON, SWAG.
        num_samples: S, draws of such a posterior; half of k if not given, so that each answers twice, or k below 4.
        k: answers to a prompt.
        seed: of the draws.

    Raises:
        UserError: another kind of teacher, one that tempers the average of its draws, or a network without dropout
            where that is what varies.
    """
    if num_samples is not None:
        check_count(num_samples=num_samples)
    draws = _draws(teacher, int(num_samples or (k if k < 4 else k // 2)), seed)
    if len(draws) > 1 and teacher.temperature != 1 and teacher.tempering == "post_average":
        raise UserError(
            f"the teacher's temperature {teacher.temperature:g} is that of the average of its draws, of which none "
            "answers by itself: pass temperature= to generate_responses, and leave the teacher's at 1"
        )
    return draws


def _draws(teacher: Any, num_samples: int, seed: int) -> list[WeightDraw]:
    if isinstance(teacher, EnsembleTeacher):
        own = max(1, num_samples // len(teacher.parts))
        parts = [_draws(each, own, named_seed(seed, f"member {n}")) for n, each in enumerate(teacher.parts)]
        return [
            WeightDraw(each.network, each.temperature * teacher.temperature, each.drawn)
            for each in (draw for part in parts for draw in part)
        ]
    if isinstance(teacher, MCDropoutTeacher):
        check_dropout(teacher.network)
        drawn = partial(_dropped, teacher.network)
    elif isinstance(teacher, VariationalTeacher) and not getattr(teacher, "statistics", None):
        drawn = partial(_with_weights, teacher)
    elif isinstance(teacher, DeterministicTeacher):
        return [WeightDraw(teacher.network, teacher.temperature)]
    else:
        raise UserError(
            f"a {type(teacher).__name__} has no draws of whole weights that answer: take a language model itself, "
            "DeterministicTeacher, EnsembleTeacher, MCDropoutTeacher, SWAGTeacher or VariationalTeacher"
        )
    seeds = [named_seed(seed, f"weights {number}") for number in range(num_samples)]
    return [WeightDraw(teacher.network, teacher.temperature, partial(drawn, own)) for own in seeds]


def check_dropout(network: nn.Module) -> None:
    """Raise a UserError if a network has no modules of dropout, whose units a draw leaves out."""
    if not any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules()):
        raise UserError(
            f"{type(network).__name__} has no dropout modules with a rate above 0, so that all of its draws are the "
            "same: take a network that was trained with some, or an EnsembleTeacher"
        )


@contextmanager
def _dropped(network: nn.Module, seed: int) -> Iterator[None]:
    """Leave out the same units at every token of every answer, as a draw of weights does (Gal and Ghahramani 2016).

    Dropout of attention weights, which are no units, is off.
    """
    masks: dict[str, Tensor] = {}

    def dropped(name: str, module: nn.Dropout, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.ndim > 3:
            return output
        if name not in masks:
            own = torch.Generator().manual_seed(named_seed(seed, name))
            there = torch.rand(output.shape[-1], generator=own) >= module.p
            masks[name] = (there / (1 - module.p)).to(output)
        return output * masks[name]

    handles = [
        module.register_forward_hook(partial(dropped, name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Dropout) and 0 < module.p < 1
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _with_weights(teacher: VariationalTeacher, seed: int) -> Iterator[None]:
    """Put drawn weights into a teacher's network for the block."""
    own = dict(teacher.network.named_parameters())
    drawn = teacher.draw_weights(torch.Generator().manual_seed(seed))
    means = {name: own[name].data for name in drawn}
    try:
        for name, value in drawn.items():
            own[name].data = value.detach()
        yield
    finally:
        for name, value in means.items():
            own[name].data = value
