"""Sources of a batch's target distributions: stored soft labels, or the teacher itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID, is_soft_label_column
from ..data.rows import reason
from ..soft_labels.belonging import Facts, check_belonging
from ..soft_labels.reading import stored_labels
from ..targets import entropy_weights, mix_teachers, mixture_responsibilities, temper
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from .arguments import DistillationTrainingArguments
from .classes import names_of_soft_labels, order_of
from .draw_variance import AdaptiveLambda, InverseVariance, from_batch

TEACHER_INPUTS = "teacher_inputs"  # of a batch: what an online teacher is asked, where it isn't the student's inputs


def network_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what of a batch goes into the student."""
    others = ("labels", TEACHER_INPUTS)
    return {name: value for name, value in batch.items() if name not in others and not is_soft_label_column(name)}


def in_order(probs: Tensor, order: Sequence[int] | None) -> Tensor:
    """Return probabilities [..., C] in the order of the student's outputs."""
    return probs if order is None else probs[..., order]


class StoredLabels:
    """The targets in the ``teacher_probs`` columns, brought to the wanted temperature.

    Args:
        dataset: the training set.
        args: the trainer's.
        num_classes: of the student, where it is known.
        classes: names of the student's classes in the order of its outputs, to which targets are brought, where they
            are known.
        shows_views: whether views of the images can be shown.

    Raises:
        UserError: as :func:`~hf_bkd.soft_labels.reading.stored_labels`, :class:`AdaptiveLambda` and
            :class:`InverseVariance`; labels of other classes than the student's.
    """

    def __init__(
        self,
        dataset: Any,
        args: DistillationTrainingArguments,
        num_classes: int | None,
        classes: Sequence[str] | None = None,
        shows_views: bool = False,
    ):
        allowed = args.allow_unrecorded_labels
        self.stored = stored_labels(dataset, args.teacher_temperature, num_classes, allowed, shows_views)
        self.orders = {
            name: order_of(names_of_soft_labels(each.layout.record, dataset), classes, name)
            for name, each in self.stored.items()
        }
        adaptive, weighted = args.lambda_schedule == "adaptive", args.teacher_weights == "inverse_variance"
        self.adaptive = AdaptiveLambda(dataset, self.stored, args.kd_lambda) if adaptive else None
        self.by_variance = InverseVariance(dataset, self.stored) if weighted else None
        self.args, self.reads_labels = args, adaptive or args.kd_lambda < 1

    @property
    def temperature(self) -> float:
        """The temperature T_t of the targets."""
        return next(iter(self.stored.values())).wanted

    def check_num_classes(self, num_classes: int) -> None:
        """Raise a UserError if the student has another number of classes."""
        for stored in self.stored.values():
            check_belonging(stored.layout, Facts(num_classes=num_classes))

    def check_batch(self, batch: Mapping[str, Tensor]) -> None:
        """Raise a UserError if a batch lacks what the loss reads."""
        self.kd_lambda(batch, self.target(batch))

    def decoded(self, rows: Mapping[str, Any], view: int = 0) -> dict[str, Tensor]:
        """Decode the soft labels of some rows, column name -> B values, in a view.

        Returns:
            ``teacher_probs`` [B, C] of each teacher, and those variances that are used.
        """
        columns = {
            name: stored.layout.of_rows(list(rows[name]), view) for name, stored in self.stored.items() if name in rows
        }
        for user in filter(None, (self.adaptive, self.by_variance)):
            for variance in user.variances:
                columns |= variance.decoded(rows, view)
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
            p = in_order(from_batch(batch, name).float(), self.orders[name])
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
        classes: names of the student's classes in the order of its outputs, where they are known.

    Raises:
        UserError: no teacher, one of other classes than the student, or another temperature than the teacher's own.
    """

    def __init__(
        self,
        teacher: Any,
        dataset: Any,
        args: DistillationTrainingArguments,
        num_classes: int | None,
        classes: Sequence[str] | None = None,
    ):
        if teacher is None:
            raise UserError("online_teacher=True needs the teacher: DistillationTrainer(..., teacher=teacher)")
        if args.teacher_temperature not in (None, teacher.temperature):
            raise UserError(
                f"teacher_temperature is {args.teacher_temperature:g} and the teacher's own {teacher.temperature:g}: "
                "an online teacher answers at its own, so set teacher.temperature"
            )
        self.teacher, self.dataset, self.args = teacher.to(args.device), dataset, args
        self.reads_labels = args.kd_lambda < 1
        if num_classes is not None:
            self.check_num_classes(num_classes)
        self.order = order_of(getattr(teacher, "class_names", None), classes, "the teacher")
        self.num_batches = 0  # that were asked for without ids, each with its own draws

    @property
    def temperature(self) -> float:
        """The temperature T_t of the targets."""
        return self.teacher.temperature

    def check_num_classes(self, num_classes: int) -> None:
        """Raise a UserError if the student has another number of classes."""
        if num_classes != self.teacher.num_classes:
            raise UserError(
                f"the teacher has {self.teacher.num_classes} classes and the model has {num_classes}: build the "
                f"student with {self.teacher.num_classes} classes, or take another teacher"
            )

    def check_batch(self, batch: Mapping[str, Tensor]) -> None:
        """Raise a UserError if the teacher can't be asked about a batch."""
        inputs = batch.get(TEACHER_INPUTS) or network_inputs(batch)
        ids = torch.arange(self.count(batch))
        try:
            self.teacher.predict(inputs, 1, ExampleGenerator(ids, self.args.teacher_seed))
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            given = ", ".join(f"{name} {list(getattr(value, 'shape', value))}" for name, value in inputs.items())
            raise UserError(
                f"the teacher can't answer about the training set ({given}; {reason(error)}): set its "
                "processing_class, by which its network's inputs are made"
            ) from error

    def decoded(self, rows: Mapping[str, Any], view: int = 0) -> dict[str, Tensor]:
        """Return no columns: nothing is stored."""
        return {}

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Count the targets of a batch."""
        return len(next(iter(batch.values())))

    def target(self, batch: Mapping[str, Tensor], logits: Tensor | None = None) -> Tensor:
        """Ask the teacher for its mean probabilities [B, C] of the batch's rows."""
        inputs = batch.get(TEACHER_INPUTS) or network_inputs(batch)
        ids, view = batch.get(EXAMPLE_ID), getattr(self.dataset, "view", 0)
        if ids is None:
            self.num_batches += 1
            ids, view = torch.arange(self.count(batch), device=self.args.device), self.num_batches
        generator = ExampleGenerator(ids, self.args.teacher_seed, view)
        return in_order(self.teacher.predict(inputs, self.args.teacher_samples, generator).mean, self.order)

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float:
        """Return lambda, the same for all examples."""
        return self.args.kd_lambda
