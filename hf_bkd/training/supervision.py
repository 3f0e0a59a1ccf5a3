"""Sources of a batch's target distributions: stored soft labels, or the teacher itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID
from ..soft_labels.columns import is_soft_label_column
from ..soft_labels.reading import stored_labels
from ..targets import entropy_weights, mix_teachers, mixture_responsibilities, temper
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from .arguments import DistillationTrainingArguments
from .draw_variance import AdaptiveLambda, InverseVariance, from_batch


def network_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what of a batch goes into the network."""
    return {name: value for name, value in batch.items() if name != "labels" and not is_soft_label_column(name)}


class StoredLabels:
    """The targets in the ``teacher_probs`` columns, brought to the wanted temperature.

    Args:
        dataset: the training set.
        args: the trainer's.
        num_classes: of the student, where it is known.

    Raises:
        UserError: as :func:`~hf_bkd.soft_labels.reading.stored_labels`, :class:`AdaptiveLambda` and
            :class:`InverseVariance`.
    """

    def __init__(self, dataset: Any, args: DistillationTrainingArguments, num_classes: int | None):
        self.stored = stored_labels(dataset, args.teacher_temperature, num_classes, args.allow_unrecorded_labels)
        adaptive, weighted = args.lambda_schedule == "adaptive", args.teacher_weights == "inverse_variance"
        self.adaptive = AdaptiveLambda(dataset, self.stored, args.kd_lambda) if adaptive else None
        self.by_variance = InverseVariance(dataset, self.stored) if weighted else None
        self.args, self.reads_labels = args, adaptive or args.kd_lambda < 1

    @property
    def temperature(self) -> float:
        """The temperature T_t of the targets."""
        return next(iter(self.stored.values())).wanted

    def decoded(self, examples: list[Mapping]) -> dict[str, Tensor]:
        """Decode the soft labels of rows: ``teacher_probs`` [B, C] of each teacher, and variances that are used."""
        columns = {
            name: stored.layout.of_rows([example[name] for example in examples])
            for name, stored in self.stored.items()
            if name in examples[0]
        }
        for user in filter(None, (self.adaptive, self.by_variance)):
            for variance in user.variances:
                columns |= variance.decoded(examples)
        return columns

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Count the targets of a batch."""
        return from_batch(batch, next(iter(self.stored)))[..., 0].numel()

    def teachers(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return each teacher's labels [B, M, C] at its wanted temperature and their weights [B, M].

        The weights are ``None`` if equal; UserError if labels are missing.
        """
        probs = []
        for name, stored in self.stored.items():
            p = from_batch(batch, name).float()
            probs.append(temper(p / p.sum(dim=-1, keepdim=True), stored.wanted / stored.temperature))
        stacked = torch.stack(probs, dim=-2)
        if self.by_variance:
            return stacked, self.by_variance(batch, stacked)
        return stacked, entropy_weights(stacked) if self.args.teacher_weights == "entropy" else None

    def target(self, batch: Mapping[str, Tensor], logits: Tensor | None = None) -> Tensor:
        """Compute sum_m r_m p_m of a batch's labels [B, C].

        ``logits`` are the student's, which a mixture prior's responsibilities r depend on; without them r are the
        prior's weights. UserError if labels are missing.
        """
        probs, weights = self.teachers(batch)
        if probs.shape[-2] == 1:
            return probs.squeeze(-2)
        if self.args.combine == "mixture" and logits is not None:
            log_student = (logits.detach().float() / self.args.student_temperature).log_softmax(dim=-1)
            weights = mixture_responsibilities(log_student, probs, weights, self.args.prior_strength)
        return mix_teachers(probs, weights)

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float | Tensor:
        """Return lambda of a batch with this target: one number, or one per example [B]."""
        return self.adaptive(batch, target) if self.adaptive else self.args.kd_lambda


class OnlineTeacher:
    """The targets that a teacher computes from the inputs that the student sees.

    They equal those that ``add_soft_labels`` stores with the same seed, draws and views, for teachers whose draws
    belong to examples or to all of them.

    Args:
        teacher: any :class:`~hf_bkd.Teacher`.
        dataset: the training set, which knows the view; without ``example_id`` in its batches, each batch of each step
            has new draws.
        args: the trainer's.
        num_classes: of the student, where it is known.

    Raises:
        UserError: no teacher, one of other classes than the student, or another temperature than the teacher's own.
    """

    def __init__(self, teacher: Any, dataset: Any, args: DistillationTrainingArguments, num_classes: int | None):
        if teacher is None:
            raise UserError("online_teacher=True needs the teacher: DistillationTrainer(..., teacher=teacher)")
        if num_classes is not None and num_classes != teacher.num_classes:
            raise UserError(
                f"the teacher has {teacher.num_classes} classes and the model has {num_classes}: build the student "
                f"with {teacher.num_classes} classes, or take another teacher"
            )
        if args.teacher_temperature not in (None, teacher.temperature):
            raise UserError(
                f"teacher_temperature is {args.teacher_temperature:g} and the teacher's own {teacher.temperature:g}: "
                "an online teacher answers at its own, so set teacher.temperature"
            )
        self.teacher, self.dataset, self.args = teacher.to(args.device), dataset, args
        self.reads_labels = args.kd_lambda < 1
        self.num_batches = 0  # that were asked for without ids, each with its own draws

    @property
    def temperature(self) -> float:
        """The temperature T_t of the targets."""
        return self.teacher.temperature

    def decoded(self, examples: list[Mapping]) -> dict[str, Tensor]:
        """Return no columns: nothing is stored."""
        return {}

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Count the targets of a batch."""
        return len(next(iter(batch.values())))

    def target(self, batch: Mapping[str, Tensor], logits: Tensor | None = None) -> Tensor:
        """Ask the teacher for its mean probabilities [B, C] of the batch's inputs."""
        inputs = network_inputs(batch)
        ids, view = batch.get(EXAMPLE_ID), getattr(self.dataset, "view", 0)
        if ids is None:
            self.num_batches += 1
            first = next(iter(inputs.values()))
            ids, view = torch.arange(len(first), device=first.device), self.num_batches
        generator = ExampleGenerator(ids, self.args.teacher_seed, view)
        return self.teacher.predict(inputs, self.args.teacher_samples, generator).mean

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float:
        """Return lambda, the same for all examples."""
        return self.args.kd_lambda


@dataclass(frozen=True)
class Collator:
    """A collator that decodes the soft labels of examples, and hands on the batches of a `BatchedDataset`.

    Args:
        per_example: makes a batch of what else the examples hold.
        source: of the targets, or ``None``.
    """

    per_example: Callable[[list], Any]
    source: "StoredLabels | OnlineTeacher | None"

    def __call__(self, features: Any) -> Any:
        """Make a batch of a list of examples, or return a batch as it is."""
        if isinstance(features, dict):
            return features
        if not isinstance(features[0], Mapping):
            return self.per_example(features)
        inputs = [{k: v for k, v in example.items() if not is_soft_label_column(k)} for example in features]
        batch = dict(self.per_example(inputs))
        if self.source is not None:
            batch |= self.source.decoded(features)
            if EXAMPLE_ID in features[0]:
                batch[EXAMPLE_ID] = torch.tensor([int(example[EXAMPLE_ID]) for example in features])
        return batch
