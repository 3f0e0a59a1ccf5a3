"""The Trainer that trains a student towards soft labels, stored ones or those of a teacher beside it."""

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import EvalPrediction

from ..losses import LossParts, distillation_loss, temperature_factor
from ..metrics import classification_metrics, convergence_noise
from ..models.calling import call_arguments, logits_of
from ..models.variational_layers import GaussianWeights, gaussian_kl
from ..soft_labels.columns import is_soft_label_column, soft_label_columns
from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments
from .card import write_training_card
from .checkpoints import writing
from .preparation import check_mixed, own_config, own_dataset
from .resuming import ResumableTrainer
from .supervision import Collator, OnlineTeacher, StoredLabels, network_inputs


class DistillationTrainer(ResumableTrainer):
    """A `transformers.Trainer` whose loss reads the soft-label columns of its training set.

    It works with any model that returns logits (a tensor, a tuple, a dict or a transformers output), and with
    `datasets.Dataset` and :class:`~hf_bkd.BatchedDataset` alike; labels of augmented views need the latter, which
    shows the view that each epoch's labels were made for. ``online_teacher=True`` asks ``teacher`` at each step.

    With ``kd_lambda=0`` it is a plain classification trainer; a network with variational layers is trained on its
    evidence lower bound, the KL divergence divided by the number of training examples, and
    ``optimizers=(IVON(...), None)`` trains a posterior of any network (without clipping gradients: it reads the
    curvature from them). Each evaluation computes accuracy, NLL, ECE and Brier score unless ``compute_metrics`` is
    given; the end of the training logs ``convergence_noise``.

    The logged loss is the minimized one; ``cross_entropy`` and ``distillation`` beside it are its two terms before
    they are weighted.

    Of what it is given, training changes the model's weights alone: ``args``, the model's config and a
    :class:`~hf_bkd.BatchedDataset` are copied, and ``trainer.args`` holds what is in effect.

    Raises:
        UserError: soft labels that are missing though ``kd_lambda`` > 0, that don't belong to the dataset, that have
            another number of classes than the model, that can't be brought to ``teacher_temperature``, or that have
            no variance though lambda is adaptive; worker processes that can't read the dataset.
    """

    args: DistillationTrainingArguments

    def __init__(
        self,
        model: nn.Module | None = None,
        args: DistillationTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        compute_metrics: Any = None,
        teacher: Any = None,
        **kwargs: Any,
    ):
        args = DistillationTrainingArguments("distilled") if args is None else copy(args)
        train_dataset = own_dataset(train_dataset, args)
        own_config(model)
        # the loss below smooths labels itself, and the Trainer would ask the model for a config to do so
        smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics or _compute_metrics,
            **kwargs,
        )
        args.label_smoothing_factor = smoothing
        self.label_names = self.label_names or ["labels"]  # also of a model whose forward doesn't take them
        # the loss below divides by the number of items itself; without this the Trainer would not count them
        self.model_accepts_loss_kwargs = True
        self._source: StoredLabels | OnlineTeacher | None = None
        if train_dataset is not None and args.kd_lambda > 0:
            num_labels = getattr(getattr(self.model, "config", None), "num_labels", None)
            if args.online_teacher:
                self._source = OnlineTeacher(teacher, train_dataset, args, num_labels)
            else:
                self._source = StoredLabels(train_dataset, args, num_labels)
            check_mixed(train_dataset, self._source)
        self.data_collator = Collator(self.data_collator, self._source)
        evaluated = eval_dataset.values() if isinstance(eval_dataset, dict) else (eval_dataset,)
        devices = {getattr(each, "device", torch.device("cpu")).type for each in (train_dataset, *evaluated)}
        if devices != {"cpu"}:
            args.dataloader_pin_memory = False  # only what is in the CPU's memory can be pinned
        if hasattr(train_dataset, "set_epoch"):
            self.add_callback(_SetEpoch(train_dataset))
        self._ivon = self.optimizer if hasattr(self.optimizer, "perturb") else None  # known by what it can do
        if self._ivon is not None:
            args.max_grad_norm = 0.0  # it reads the curvature from gradients, which clipping would shrink
            self.add_callback(_DrawWeights(self._ivon))
        self._sums: dict[str, Tensor | float] = {}
        self._summed_steps = 0

    @property
    def teacher_temperature(self) -> float:
        """T_t that the loss uses: the argument, or what the stored labels say."""
        if self._source is not None:
            return self._source.temperature
        return self.args.teacher_temperature or 1.0

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        own = soft_label_columns(self.train_dataset)
        self._signature_columns += [name for name in own if name not in self._signature_columns]

    def _get_collator_with_removed_columns(self, data_collator: Collator, description: str | None = None) -> Collator:
        per_example = super()._get_collator_with_removed_columns(data_collator.per_example, description)
        return replace(data_collator, per_example=per_example)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Exclude variational layers, which have their prior in place of weight decay."""
        layers = [name for name, module in model.named_modules() if isinstance(module, GaussianWeights)]
        return [name for name in super().get_decay_parameter_names(model) if name.rpartition(".")[0] not in layers]

    # The loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Return the micro-batches of a step and the number of their examples, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._summed_steps += bool(batches)  # a stream that is at its end has none
        counts = [self._count_items(batch) for batch in batches]
        num_items = torch.as_tensor(sum(counts), device=device) if counts else None
        if num_items is not None and self.args.world_size > 1:
            num_items = self.accelerator.gather(num_items).sum()
        return batches, num_items

    def _count_items(self, batch: dict[str, Tensor]) -> Tensor | int:
        masked = self._source is not None and self._source.reads_labels and _labels(batch).ndim > 1
        if self._source is None or masked:
            return (_labels(batch) != -100).sum()
        return self._source.count(batch)  # an example without a label is taught by its soft label

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Compute `losses.distillation_loss` in training, cross-entropy with the labels in evaluation."""
        batch, labels = inputs, inputs.get("labels")
        positional, named = call_arguments(self.model, network_inputs(batch))
        logits = logits_of(model(*positional, **named))
        if not self.model.training:
            loss = distillation_loss(logits, labels, None, kd_lambda=0).total
            return (loss, {"logits": logits}) if return_outputs else loss

        args, factor = self.args, 1.0
        target, kd_lambda = None, 0.0
        if self._source is not None:
            target = self._source.target(batch, logits)
            kd_lambda = self._source.kd_lambda(batch, target)
            factor = temperature_factor(args.temperature_scale, self.teacher_temperature, args.student_temperature)
        scales = args.student_temperature, factor, args.label_smoothing_factor
        parts = distillation_loss(logits, labels, target, kd_lambda, *scales, num_items_in_batch)
        loss = parts.total
        complexity = gaussian_kl(self.model)
        if complexity is not None:
            share = 1.0 if num_items_in_batch is None else self._count_items(batch) / num_items_in_batch.clamp_min(1)
            loss = loss + self._kl_weight() * share * complexity / len(self.train_dataset)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        self._note(parts)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _kl_weight(self) -> float:
        since_warmup = self.state.global_step / self.state.max_steps - self.args.kl_warmup
        if not self.args.kl_annealing:
            return float(since_warmup >= 0)
        return min(max(since_warmup / self.args.kl_annealing, 0.0), 1.0)

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        """Keep the dataset's order, so that predictions are its rows', also where training groups them by length."""

    def prediction_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Predict as `Trainer.prediction_step`, without the soft labels."""
        inputs = {name: value for name, value in inputs.items() if not is_soft_label_column(name)}
        return super().prediction_step(model, inputs, *args, **kwargs)

    # What is logged

    def _note(self, parts: LossParts) -> None:
        """Sum up the loss' terms on the device, where they stay until something is logged."""
        for name, value in (("cross_entropy", parts.cross_entropy), ("distillation", parts.distillation)):
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer.log`, the loss with its two terms."""
        if "loss" in logs and self._sums:
            for name, value in self._sums.items():
                logs[name] = sum(self._of_each_process(value)) / self._summed_steps
            self._sums, self._summed_steps = {}, 0
        super().log(logs, start_time)

    def _progress(self) -> dict[str, Any]:
        """Add the terms of the loss that are not logged yet, and how many batches a teacher was asked for."""
        return super()._progress() | {
            "terms": {name: self._of_each_process(value) for name, value in self._sums.items()},
            "term_steps": self._summed_steps,
            "teacher_batches": getattr(self._source, "num_batches", 0),
        }

    def _go_on_from(self, progress: dict[str, Any]) -> None:
        """Restore what :meth:`_progress` returned."""
        super()._go_on_from(progress)
        share = progress["processes"] / self.args.world_size
        self._sums = {name: share * self._of_this_process(values) for name, values in progress["terms"].items()}
        self._summed_steps = progress["term_steps"]
        if isinstance(self._source, OnlineTeacher):
            self._source.num_batches = progress["teacher_batches"]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer.train`; ``True`` resumes from the last complete checkpoint, or starts if there is none.

        Raises:
            UserError: the checkpoint is not complete, or of another model; the disk of the checkpoints is full.
        """
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self._ivon is not None:
                self._ivon.restore()  # the means, should a step have failed
        noise = self.convergence_noise()
        if noise is not None:
            self.log({"convergence_noise": noise})
        return output

    def create_model_card(self, model_name: str | None = None, **kwargs: Any) -> None:
        """Write the card that :meth:`push_to_hub` uploads with the student, and its curve; see `training.card`."""
        if self.is_world_process_zero():
            write_training_card(self, self._source, model_name, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save without the Hub's token, which transformers would save, and push, with the other arguments."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            with writing(output_dir or self.args.output_dir):
                super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def evaluations(self) -> tuple[list[float], list[float]]:
        """Return the epochs and the accuracies of the evaluations so far."""
        by_step = {entry["step"]: entry for entry in self.state.log_history if "eval_accuracy" in entry}
        logged = list(by_step.values())  # one a step, however often it was asked for
        return [entry["epoch"] for entry in logged], [entry["eval_accuracy"] for entry in logged]

    def noise_window(self) -> int:
        """Return how many of the last evaluations the convergence noise is taken over."""
        return min(self.args.noise_epochs, len(self.evaluations()[1]) // 2)

    def convergence_noise(self) -> float | None:
        """Return the standard deviation (ddof 1) of accuracy in the noise window; ``None`` below 4 evaluations."""
        window = self.noise_window()
        return convergence_noise(self.evaluations()[1], window) if window >= 2 else None


class _SetEpoch(TrainerCallback):
    """A callback that sets the dataset's epoch, and so its view: accelerate does so in one process, not in several."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


class _DrawWeights(TrainerCallback):
    """A callback that draws the weights that all micro-batches of a step see; between steps they are the means."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer.perturb()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer.restore()  # where the step was skipped


def _labels(batch: dict[str, Tensor]) -> Tensor:
    if "labels" not in batch:
        raise UserError(
            f"the training batches have no labels column (only {', '.join(batch)}): name it 'label' or 'labels', or "
            "train with kd_lambda=1"
        )
    return batch["labels"]


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    known = labels != -100
    return classification_metrics(logits[known].double().softmax(dim=-1), labels[known])
