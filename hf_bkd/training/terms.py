"""The terms of the loss in what a trainer logs."""

from typing import Any

import torch
from torch import Tensor

from ..losses import LossParts, at_least_one
from .trainer_evaluating import EvaluatingTrainer

UNBOUNDED = "unbounded"  # the share of examples whose loss has no lower bound, with a lambda above 1
LABELED = "labeled"  # beside the loss' terms: the share of each step's items that has a label


class TermsTrainer(EvaluatingTrainer):
    """A `transformers.Trainer` that logs the loss with its terms, which stay on the device until then."""

    _summed_steps = 0  # since the terms were last logged

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._sums: dict[str, Tensor | float] = {}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Return the micro-batches of a step as `Trainer.get_batch_samples`, and count the step."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._summed_steps += bool(batches)  # a stream that is at its end has none
        return batches, num_items

    def _note_terms(self, parts: LossParts, labels: Tensor | None, num_items: Tensor | int) -> None:
        """Add the terms of a batch's loss, of the items that its step has."""
        terms = {self.likelihood.label_term: parts.cross_entropy, "distillation": parts.distillation}
        terms |= {UNBOUNDED: parts.unbounded, "kd_lambda": parts.kd_lambda}
        if parts.cross_entropy is not None:
            terms[LABELED] = self.likelihood.labeled(labels).sum() / at_least_one(num_items)
        for name, value in terms.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer.log`, the loss with its terms."""
        if "loss" in logs and self._sums:
            totals = {name: sum(self._of_each_process(value)) for name, value in self._sums.items()}
            labeled = totals.pop(LABELED, self._summed_steps)
            for name, total in totals.items():
                number = labeled if name in (self.likelihood.label_term, UNBOUNDED) else self._summed_steps
                logs |= {name: total / number} if number else {}
            self._sums, self._summed_steps = {}, 0
        super().log(logs, start_time)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Begin as `Trainer` does, with no terms of a training that failed (for want of memory) before."""
        self._sums, self._summed_steps = {}, 0
        return super()._init_training_state(*args, **kwargs)

    def _progress(self) -> dict[str, Any]:
        """Add the terms that are not logged yet."""
        terms = {name: self._of_each_process(value) for name, value in self._sums.items()}
        return super()._progress() | {"terms": terms, "term_steps": self._summed_steps}

    def _go_on_from(self, progress: dict[str, Any]) -> None:
        super()._go_on_from(progress)
        share = progress["processes"] / self.args.world_size
        self._sums = {name: share * self._of_this_process(values) for name, values in progress["terms"].items()}
        self._summed_steps = progress["term_steps"]
        self._sums.setdefault(LABELED, self._summed_steps / self.args.world_size)  # an older checkpoint has none
