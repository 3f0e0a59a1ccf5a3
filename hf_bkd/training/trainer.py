"""The Trainer that trains a student towards soft labels, stored ones or those of a teacher beside it."""

from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..distances import distance_of
from ..losses import LossParts, distillation_loss, mean_of, temperature_factor
from ..models.calling import logits_of, unwrapped
from ..models.problem_types import name_dirichlet
from ..models.variational_layers import GaussianWeights, gaussian_kl
from ..utils.files import writing
from .arguments import WEIGHTS, DistillationTrainingArguments
from .card import write_training_card
from .given import check_can_be_saved, check_trained, own_config
from .online_teacher import OnlineTeacher
from .saving import name_classes, name_problem, save_student_files, state_to_save, warn_if_not_rebuilt
from .settings import (
    check_best_metric,
    check_hardware,
    check_language_model,
    check_loss,
    check_metrics,
    check_network_settings,
    check_optimizer,
    check_spread,
)
from .trainer_next_tokens import NextTokenTrainer
from .trainer_standardizing import StandardizingTrainer


class DistillationTrainer(NextTokenTrainer, StandardizingTrainer):
    """A `transformers.Trainer` whose loss reads the soft-label columns of its training set.

    It works with any model that returns logits (a tensor, a tuple, a dict or a transformers output). Rows of a
    `datasets.Dataset`, or of a stream, are read and prepared when they are asked for, each dataset by the student's
    own preprocessor (see :func:`~hf_bkd.data.preprocessors.preprocessor_for`), or as they are where their columns are
    its inputs already; a :class:`~hf_bkd.BatchedDataset`, a dataset with a transform, and rows that the caller's
    ``data_collator`` reads are left to these. Labels of augmented views show the view that each epoch's labels were
    made for. ``online_teacher=True`` asks ``teacher`` at each step about the same rows, by its own preprocessor.

    Classes of labels, soft labels and teacher are matched with the student's by name, wherever names are known.

    A student may predict one of C classes, for each example or each token, labels that are each there or not, or
    numbers: its config's ``problem_type`` says which, the argument of that name, the soft labels, or else the labels.
    A regression student with two outputs for each number predicts its mean and the logarithm of its variance. A causal
    language model learns each next token, some at a time (see `trainer_next_tokens`).

    With ``kd_lambda=0`` it is a plain trainer towards the labels, which takes a ``compute_loss_func``; a network with
    variational layers is trained on its evidence lower bound, the KL divergence divided by the number of training
    examples (of labeled tokens), and ``optimizers=(IVON(...), None)`` trains a posterior of any network (without
    clipping gradients: it reads the curvature from them). Each evaluation computes accuracy, NLL, ECE and Brier
    score, or what `metrics` has for other problems, unless ``compute_metrics`` is given; the end of the training logs
    ``convergence_noise``.

    The logged loss is the minimized one; ``cross_entropy`` (``label_loss`` of numbers) and ``distillation`` beside it
    are its two terms before they are weighted, the former as the mean over the rows that have a label. Beside them are
    the mean ``kd_lambda`` of one by example, and the share of losses that are ``unbounded`` with one above 1.

    Of what it is given, training changes the model's weights alone: ``args``, the model's config and a
    :class:`~hf_bkd.BatchedDataset` are copied, and ``trainer.args`` holds what is in effect.

    Args (those of `transformers.Trainer`, and):
        processing_class: the student's tokenizer, image processor or feature extractor, which is saved with it, or an
            :class:`~hf_bkd.ImagePreprocessor`, a transform of one image, or a function from rows to inputs; what is
            found beside its weights if not given.
        preprocessor: makes the student's inputs, if that is not ``processing_class``.
        teacher: of ``online_teacher=True``.

    Raises:
        UserError: nothing says how rows become inputs; a student that can't take them, or has no logits for each row;
            labels that are missing though the loss reads them, or not of the student's classes; ``compute_loss_func``
            with ``kd_lambda`` > 0; soft labels that are missing though ``kd_lambda`` > 0, that don't belong to the
            dataset, that have other classes than the model, that can't be brought to ``teacher_temperature``, that
            have no variance though lambda is adaptive, or that are not cross-fitted though it is bias-aware; worker
            processes that can't read the dataset.
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
        processing_class: Any = None,
        preprocessor: Any = None,
        compute_loss_func: Any = None,
        **kwargs: Any,
    ):
        args = DistillationTrainingArguments("distilled") if args is None else copy(args)
        check_loss(compute_loss_func, args)
        check_language_model(model, args, compute_loss_func, compute_metrics)
        check_metrics(args, compute_metrics, kwargs.get("preprocess_logits_for_metrics"))
        check_hardware(args)
        own_config(model)
        check_can_be_saved(model)
        # the loss below smooths labels itself, and the Trainer would ask the model for a config to do so
        smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics or self._metrics_of,
            processing_class=processing_class if hasattr(processing_class, "save_pretrained") else None,
            compute_loss_func=compute_loss_func,
            **kwargs,
        )
        args.label_smoothing_factor = smoothing
        check_spread(self)
        check_network_settings(self.model, args)
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            check_optimizer(self.model, args)
        self.label_names = ["labels"]  # whatever the dataset, or the model's forward, calls them
        # the loss below divides by the number of items itself; without this the Trainer would not count them
        self.model_accepts_loss_kwargs = True
        self._read_data(teacher, processing_class if preprocessor is None else preprocessor, data_collator is None)
        check_best_metric(args, eval_dataset, compute_metrics, self.problem)
        self._ivon = self.optimizer if hasattr(self.optimizer, "perturb") else None  # known by what it can do
        if self._ivon is not None:
            args.max_grad_norm = 0.0  # it reads the curvature from gradients, which clipping would shrink
            self.add_callback(_DrawWeights(self._ivon))
        self._distance = distance_of(args.distance, **{name: getattr(args, name) for name in WEIGHTS})

    @property
    def teacher_temperature(self) -> float:
        """T_t that the loss uses: the argument, or what the stored labels say."""
        if self._source is not None:
            return self._source.temperature
        return self.args.teacher_temperature or 1.0

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Exclude variational layers, which have their prior in place of weight decay."""
        layers = [name for name, module in model.named_modules() if isinstance(module, GaussianWeights)]
        return [name for name in super().get_decay_parameter_names(model) if name.rpartition(".")[0] not in layers]

    # The loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Return the micro-batches of a step and the number of their examples, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [self._count_items(batch) for batch in batches]
        num_items = torch.as_tensor(sum(counts), device=device) if counts else None
        if num_items is not None and self.args.world_size > 1:
            num_items = self.accelerator.gather(num_items).sum()
        return batches, num_items

    def _count_items(self, batch: dict[str, Tensor]) -> Tensor | int:
        labels = self._labels_of(batch)
        if self._source is None or (self.problem.per_token and labels is not None):
            return self.likelihood.labeled(labels).sum()
        return self._source.count(batch)  # an example without a label is taught by its soft label

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Compute `losses.distillation_loss` in training, the loss of the labels alone in evaluation.

        With ``kd_lambda=0`` a ``compute_loss_func`` takes the place of either; it is called as `Trainer` calls it.
        """
        if self.problem.next_tokens:
            loss, parts = self._next_token_loss(model, inputs, num_items_in_batch)
            logits = logits_of(self._outputs(model, inputs)) if return_outputs else None
        else:
            outputs, labels = self._outputs(model, inputs), self._labels_of(inputs)
            logits = logits_of(outputs)
            if self.compute_loss_func is not None:
                loss, parts = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch), None
            elif not self.model.training:
                loss, parts = distillation_loss(logits, labels, None, 0, likelihood=self.likelihood).total, None
            else:
                others = (logits_of(self._outputs(model, inputs)) for _ in range(1, self.args.dropout_masks))
                parts = self._loss_parts([logits, *others], inputs, num_items_in_batch)
                loss = parts.total
        if self.model.training:
            loss = self._of_all_processes(loss, inputs, num_items_in_batch)
            if parts is not None:
                number = self._count_items(inputs) if num_items_in_batch is None else num_items_in_batch
                self._note_terms(parts, self._labels_of(inputs), number)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _loss_parts(self, passes: list[Tensor], batch: dict[str, Tensor], num_items: Tensor | None) -> LossParts:
        args, factor, target, kd_lambda = self.args, 1.0, None, 0.0
        if self._source is not None:
            of_draws = args.distance == "dirichlet"
            target = self._source.log_probs(batch) if of_draws else self._source.target(batch, passes[0])
            kd_lambda = self._source.kd_lambda(batch, target)
            same = args.distance == "standardized"  # which brings the target to the student's
            of_target = args.student_temperature if same else self.teacher_temperature
            factor = temperature_factor(args.temperature_scale, of_target, args.student_temperature)
        scales = args.student_temperature, factor, args.label_smoothing_factor
        given = self._labels_of(batch), target, kd_lambda, *scales, num_items, self.learned, self._distance
        return mean_of([distillation_loss(logits, *given) for logits in passes])

    def _of_all_processes(self, loss: Tensor, batch: dict[str, Tensor], num_items: Tensor | None) -> Tensor:
        """Add a variational network's KL divergence, and scale what will be averaged over the processes."""
        complexity = gaussian_kl(self.model)
        if complexity is not None:
            share = 1.0 if num_items is None else self._count_items(batch) / num_items.clamp_min(1)
            examples = self.num_train_items * self.likelihood.nats(self.problem.num_values or 1)
            loss = loss + self._kl_weight() * share * complexity / examples
        return loss if num_items is None else loss * self.accelerator.num_processes

    def _kl_weight(self) -> float:
        since_warmup = self.state.global_step / self.state.max_steps - self.args.kl_warmup
        if not self.args.kl_annealing:
            return float(since_warmup >= 0)
        return min(max(since_warmup / self.args.kl_annealing, 0.0), 1.0)

    # What goes with a checkpoint, how it trains, and what it leaves

    def _progress(self) -> dict[str, Any]:
        """Add how many batches a teacher was asked for."""
        return super()._progress() | {"teacher_batches": getattr(self._source, "num_batches", 0)}

    def _go_on_from(self, progress: dict[str, Any]) -> None:
        """Restore what :meth:`_progress` returned."""
        super()._go_on_from(progress)
        if isinstance(self._source, OnlineTeacher):
            self._source.num_batches = progress["teacher_batches"]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer.train`; ``True`` resumes from the last complete checkpoint, or starts if there is none.

        Raises:
            UserError: the checkpoint is not complete, or of another model; the disk of the checkpoints is full.
        """
        check_trained(self.model)
        name_dirichlet(self.model, self._source is not None and self.args.distance == "dirichlet")
        warn_if_not_rebuilt(unwrapped(self.model, keep_adapters=True))
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self._ivon is not None:
                self._ivon.restore()  # the means, should a step have failed
        if (noise := self.convergence_noise()) is not None:
            self.log({"convergence_noise": noise})
        return output

    def create_model_card(self, model_name: str | None = None, **kwargs: Any) -> None:
        """Write the card that :meth:`push_to_hub` uploads with the student, and its curve; see `training.card`."""
        if self.is_world_process_zero():
            with writing(self.args.output_dir):
                write_training_card(self, self._source, model_name, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save what loads without us, and without the Hub's token, which transformers would save, and push, too."""
        token, self.args.hub_token = self.args.hub_token, None
        folder = output_dir or self.args.output_dir
        try:
            with writing(folder):
                name_classes(self.model, self.output_names)
                if self.likelihood.independent:
                    name_problem(self.model, self.likelihood.problem_type)
                is_checkpoint = Path(folder).name.startswith("checkpoint-")
                super()._save(folder, state_to_save(self.model, state_dict, is_checkpoint))
                if self.args.should_save:
                    save_student_files(self, folder, self.output_names)
        finally:
            self.args.hub_token = token


class _DrawWeights(TrainerCallback):
    """A callback that draws the weights that all micro-batches of a step see; between steps they are the means."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer.perturb()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer.restore()  # where the step was skipped
