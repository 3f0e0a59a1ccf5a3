"""The mean logarithms of teachers' draws, which a Dirichlet student is taught: stored, or those of their variance."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.columns import LOG_PROBS, VARIANCE
from ..dirichlet import matched_log_probs
from ..soft_labels.reading import Stored
from ..utils.errors import UserError
from .classes import in_order
from .draw_variance import StoredVariance, check_temperature_of_draws, from_batch

ASKED = "distance='dirichlet'"

LARGEST_LOGIT = 40.0  # of a student that begins: exp(40) is a precision that no draws have

logger = logging.getLogger(__name__)


def check_concentrations(logits: Tensor | None) -> None:
    """Raise a UserError if the exponentials of a student's first logits are no concentrations to begin with."""
    largest = 0.0 if logits is None or not logits.numel() else logits.max().item()
    if not largest <= LARGEST_LOGIT:
        raise UserError(
            f"{ASKED} takes exp(logits) for concentrations, and the student's logits reach {largest:.3g} before it is "
            "trained: give it a new last layer, or scale the weights of the one that it has"
        )


class DrawLogProbs:
    """The mean logarithms [..., M, C] of the draws of M teachers.

    Where they are not stored, they are those of the Dirichlet with the labels' mean and variance, see
    :func:`~hf_bkd.dirichlet.matched_log_probs`.

    Args:
        dataset: the training set.
        stored: its labels, by column.
        orders: of each column's classes, that of the student's outputs.

    Raises:
        UserError: labels with neither, or at another temperature than their draws.
    """

    def __init__(self, dataset: Any, stored: Mapping[str, Stored], orders: Mapping[str, Sequence[int] | None]):
        self.orders, self.known, self.matched = orders, {}, {}
        there = dataset.column_names or ()
        for name, labels in stored.items():
            logs, variance = (labels.layout.beside(kind) for kind in (LOG_PROBS, VARIANCE))
            if logs in there:
                check_temperature_of_draws(labels, ASKED)
                self.known[name] = logs
            elif variance in there:
                self.matched[name] = StoredVariance(dataset, labels, ASKED)
                logger.info("%s is not there: a Dirichlet is matched to %s and %s", logs, name, variance)
            else:
                raise UserError(
                    f"{ASKED} learns how much a teacher's draws disagree, and beside {name} there is neither "
                    f"{logs} nor {variance}: label with a teacher that draws, and "
                    "add_soft_labels(..., mean_log_probs=True)"
                )
        self.columns = {self.known[name]: stored[name].layout for name in self.known}
        self.columns |= {each.column: each.layout for each in self.matched.values()}
        self.likelihood = next(iter(stored.values())).layout.likelihood

    def __call__(self, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        """Return the logarithms for the teachers' probabilities [..., M, C], zeros where these are."""
        logs = [self._of(name, batch, each) for name, each in zip(self.orders, probs.unbind(dim=-2), strict=True)]
        return torch.stack(logs, dim=-2)

    def _of(self, name: str, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        if name in self.known:
            return in_order(torch.as_tensor(from_batch(batch, self.known[name])).to(probs), self.orders[name])
        stored = self.matched[name]
        variance = stored.of(batch, probs)
        if stored.layout.record.teacher.exact_moments is True:
            spread = self.likelihood.label_variance(probs)
        else:
            spread = self.likelihood.scattered_variance(probs, variance, stored.layout.num_draws)
        logs = matched_log_probs(probs, variance, spread).to(probs)
        return logs.masked_fill(~probs.ne(0).any(dim=-1, keepdim=True), 0)
