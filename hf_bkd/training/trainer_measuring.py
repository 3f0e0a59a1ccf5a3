"""The trainer's layer that measures: evaluations and predictions of any network, and the terms of the logged loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from ..likelihoods import Likelihood
from ..losses import LossParts, at_least_one
from ..metrics import convergence_noise
from ..models.calling import call_arguments, logits_of, to_network, unwrapped
from .supervision import network_inputs
from .trainer_reading import ReadingTrainer

UNBOUNDED = "unbounded"  # the share of examples whose loss has no lower bound, with a lambda above 1
LABELED = "labeled"  # beside the loss' terms: the share of each step's items that has a label


class MeasuringTrainer(ReadingTrainer):
    """A `transformers.Trainer` whose predictions are logits, and whose evaluation loss is the mean over the labels.

    Rows without a label (-100) count in no average, however they are distributed over batches and processes. In
    training the loss is logged with its terms.
    """

    _losses: tuple[Tensor, Tensor] | None = None  # of the present evaluation: their sum, and how many labels
    _summed_steps = 0  # since the terms were last logged

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._sums: dict[str, Tensor | float] = {}

    def _outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Any:
        """Return what a model makes of a batch's inputs."""
        inputs = to_network(network_inputs(batch), unwrapped(self.model))
        positional, named = call_arguments(self.model, inputs)
        return model(*positional, **named)

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of the student's outputs."""
        return self.problem.likelihood

    def _labels_of(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Return a batch's labels as the losses take them, if there are some."""
        return self.likelihood.as_columns(batch["labels"]) if "labels" in batch else None

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return loss, logits and labels of a batch; of what else a model returns, nothing is gathered."""
        inputs = self._prepare_inputs(inputs)
        labels, loss = self._labels_of(inputs), None
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self._outputs(model, inputs)
            logits = logits_of(outputs).detach()
            if labels is not None:
                loss = self._evaluation_loss(outputs, logits, labels)
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def _evaluation_loss(self, outputs: Any, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch's labels, and note the sums for the whole evaluation."""
        counts = self.likelihood.labeled(labels).reshape(len(labels), -1).sum(dim=1).to(logits.device)
        if self.compute_loss_func is not None:
            mean = self.compute_loss_func(outputs, labels, num_items_in_batch=counts.sum())
            sums = torch.where(counts > 0, mean.detach() * counts, 0)
        else:
            sums = self.likelihood.label_loss(logits, labels).reshape(len(labels), -1).sum(dim=1)
            mean = sums.sum() / counts.sum()
        self._note_losses(sums, counts)
        return mean.detach()

    def _note_losses(self, sums: Tensor, counts: Tensor) -> None:
        """Add the loss of a batch's labels by their sums and numbers [B]."""
        sums, counts = self.accelerator.gather_for_metrics((sums, counts))
        if self.args.logging_nan_inf_filter and (finite := sums.isfinite()).any():
            sums, counts = sums[finite], counts[finite]
        total, number = self._losses or (0, 0)
        self._losses = total + sums.sum(), number + counts.sum()

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer.evaluate`.

        Raises:
            UserError: no row has a label, so that there is nothing to measure.
        """
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        given = self.eval_dataset[given] if isinstance(given, str) else given
        if given is None or isinstance(given, dict):  # each of several comes here by itself
            return super().evaluate(eval_dataset, *args, **kwargs)
        with self._reading(given):
            self._check_measured(given)
            return super().evaluate(eval_dataset, *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer.evaluation_loop`, whose loss is a mean of batches' means; arrays become lists."""
        self._losses = None
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        name = f"{metric_key_prefix}_loss"
        if name in output.metrics and self._losses is not None:
            total, number = (value.item() for value in self._losses)
            output.metrics[name] = total / number if number else float("nan")
        return output._replace(metrics=_as_json(output.metrics))

    def _metrics_of(self, prediction: EvalPrediction) -> dict[str, float]:
        """Compute the likelihood's measures of the rows, or positions, that have a label; none if no row has."""
        outputs, labels = (torch.cat(batches_of(each)) for each in (prediction.predictions, prediction.label_ids))
        return self.likelihood.measures(self.likelihood.prediction(outputs.double()), labels)

    def evaluations(self) -> tuple[list[float], list[float]]:
        """Return the epochs and the headline measures of the evaluations so far.

        It is accuracy for classes, mean average precision for labels that are each there or not, and for numbers the
        root mean squared error.
        """
        name = f"eval_{self.likelihood.headline}"
        by_step = {entry["step"]: entry for entry in self.state.log_history if name in entry}
        logged = list(by_step.values())  # one a step, however often it was asked for
        return [entry["epoch"] for entry in logged], [entry[name] for entry in logged]

    def noise_window(self) -> int:
        """Return how many of the last evaluations the convergence noise is taken over."""
        return min(self.args.noise_epochs, len(self.evaluations()[1]) // 2)

    def convergence_noise(self) -> float | None:
        """Return the standard deviation (ddof 1) of the :meth:`evaluations` in the noise window, if there are 4."""
        window = self.noise_window()
        return convergence_noise(self.evaluations()[1], window) if window >= 2 else None

    # The terms of the loss, which stay on the device until they are logged

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


def _as_json(value: Any) -> Any:
    """Return metrics of the caller's as checkpoints and logs can hold them: numbers, lists and dicts."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic, Tensor)) else value


def batches_of(values: Any) -> list[Tensor]:
    """Return arrays of predictions or labels as tensors: several with ``eval_do_concat_batches=False``."""
    return [torch.as_tensor(each) for each in (values if isinstance(values, list) else [values])]
