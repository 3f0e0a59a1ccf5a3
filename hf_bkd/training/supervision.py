"""Sources of a batch's targets: stored soft labels, or the teacher itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID, is_soft_label_column
from ..data.preprocessors import tokenizer_hash
from ..data.rows import reason
from ..likelihoods import CATEGORICAL, Likelihood
from ..soft_labels.belonging import Facts, check_belonging
from ..soft_labels.column_names import teachers_of
from ..soft_labels.layout import Layout
from ..soft_labels.reading import stored_labels
from ..targets import mix_teachers, mixture_responsibilities, weights_by_entropy
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from .arguments import DistillationTrainingArguments
from .classes import names_of_soft_labels, order_of
from .draw_variance import AdaptiveLambda, InverseVariance, from_batch, known_variances
from .problem import Problem

TEACHER_INPUTS = "teacher_inputs"  # of a batch: what an online teacher is asked, where it isn't the student's inputs


def network_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what of a batch goes into the student."""
    others = ("labels", TEACHER_INPUTS)
    return {name: value for name, value in batch.items() if name not in others and not is_soft_label_column(name)}


def check_target(target: Tensor, problem: Problem, outputs: Tensor | None) -> None:
    """Raise a UserError if a student with these outputs of a few rows can't be taught a target."""
    if outputs is None:
        return
    if target.shape[:-1] != outputs.shape[:-1]:
        raise UserError(
            f"the soft labels of {len(outputs)} rows have the shape {list(target.shape)}, and the student's outputs "
            f"{list(outputs.shape)}: take a student that answers for each token as the teacher does, or for each "
            "example if it does, of the same tokenizer"
        )
    problem.likelihood.divergence(target.cpu(), outputs.cpu())


def in_order(probs: Tensor, order: Sequence[int] | None) -> Tensor:
    """Return values [..., C] in the order of the student's outputs."""
    return probs if order is None else probs[..., order]


def likelihoods_taught(dataset: Any, teacher: Any) -> dict[str, Likelihood]:
    """Return what soft labels, or an online teacher if there is one, are of, by their names in errors.

    Of a dataset without soft labels it is nothing; :class:`StoredLabels` refuses it.
    """
    if teacher is not None:
        return {"the teacher": getattr(teacher, "likelihood", CATEGORICAL)}
    names = list(getattr(dataset, "column_names", None) or [])
    return {
        f"the soft labels{'' if name is None else f' of {name}'}": likelihood_of_soft_labels(dataset, name)
        for name in teachers_of(names)
    }


def likelihood_of_soft_labels(dataset: Any, teacher: str | None) -> Likelihood:
    """Return what one teacher's soft labels are of."""
    if hasattr(dataset, "soft_labels"):
        return dataset.soft_labels(teacher).layout.likelihood
    features = getattr(dataset, "features", None)
    return CATEGORICAL if features is None else Layout.of(features, teacher).likelihood


class StoredLabels:
    """The targets in the soft-label columns, brought to the wanted temperature.

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
        first = next(iter(self.stored.values())).layout
        self.likelihood, self.num_values = first.likelihood, first.num_classes
        adaptive, weighted = args.lambda_schedule == "adaptive", args.teacher_weights == "inverse_variance"
        self.adaptive = AdaptiveLambda(dataset, self.stored, args.kd_lambda) if adaptive else None
        self.by_variance = InverseVariance(dataset, self.stored) if weighted else None
        self.known = known_variances(dataset, self.stored) if self.likelihood.target_has_variance else {}
        self.args, self.reads_labels = args, adaptive or args.kd_lambda < 1 or args.distance == "dkd"

    @property
    def temperature(self) -> float:
        """The temperature T_t of the targets."""
        return next(iter(self.stored.values())).wanted

    @property
    def of_tokens(self) -> list[str]:
        """The columns that hold an answer for each token of a row."""
        return [name for name, stored in self.stored.items() if stored.layout.ragged]

    def check_num_classes(self, num_classes: int) -> None:
        """Raise a UserError if the student has another number of classes."""
        for stored in self.stored.values():
            check_belonging(stored.layout, Facts(num_classes=num_classes))

    def check_tokenizer(self, prepare: Any) -> None:
        """Raise a UserError if labels of tokens were made for those of another tokenizer than the student's."""
        for stored in self.stored.values():
            if stored.layout.record is not None and stored.layout.record.tokenizer is not None:
                check_belonging(stored.layout, Facts(tokenizer=tokenizer_hash(prepare)))

    def check_batch(self, batch: Mapping[str, Tensor], problem: Problem, outputs: Tensor | None) -> None:
        """Raise a UserError if a batch lacks what the loss reads, or the student can't be taught it."""
        if problem.num_values is not None:
            self.check_num_classes(problem.num_values)
        target = self.target(batch)
        self.kd_lambda(batch, target)
        check_target(target, problem, outputs)

    def decoded(
        self,
        rows: Mapping[str, Any],
        view: int = 0,
        mask: Tensor | None = None,
        numbers: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Decode the soft labels of some rows, column name -> B values.

        Args:
            rows: with the columns of soft labels.
            view: of them.
            mask: [B, L], 0 where the inputs are padded, by which labels of tokens are placed.
            numbers: of the rows in the dataset, for messages, where they are known.

        Returns:
            The values [B, C] or [B, L, C] of each teacher, and those variances that are used.
        """
        columns = {
            name: stored.layout.of_rows(list(rows[name]), view, mask, numbers)
            for name, stored in self.stored.items()
            if name in rows
        }
        for name, layout in self._variances.items():
            if name not in columns and name in rows:
                variance = layout.variance_of_rows(list(rows[name]), view, mask, numbers)
                columns[name] = variance[..., 0] if variance.shape[-1] < layout.num_classes else variance
        return columns

    @property
    def _variances(self) -> dict[str, Layout]:
        """The columns of variances that are read."""
        users = [variance for user in (self.adaptive, self.by_variance) if user for variance in user.variances]
        used = {each.column: each.layout for each in users}
        return used | {name: self.stored[values].layout for values, names in self.known.items() for name in names}

    def count(self, batch: Mapping[str, Tensor]) -> Tensor | int:
        """Count the targets of a batch: of its examples, or of their tokens."""
        values = from_batch(batch, next(iter(self.stored)))
        return values[..., 0].numel() if values.ndim < 3 else values.ne(0).any(dim=-1).sum()

    def teachers(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return each teacher's targets [..., M, K] at its wanted temperature and their weights [..., M].

        The weights are ``None`` if equal; UserError if labels are missing.
        """
        targets = []
        for name, stored in self.stored.items():
            order = self.orders[name]
            values = self.likelihood.normalized(in_order(from_batch(batch, name).float(), order))
            tempered = self.likelihood.temper(values, stored.wanted / stored.temperature)
            values = tempered if values.ndim < 3 else tempered.where(values.ne(0).any(dim=-1, keepdim=True), 0)
            known = [in_order(from_batch(batch, column).to(values), order) for column in self.known.get(name, ())]
            targets.append(self.likelihood.target(values, sum(known) if known else None))
        stacked = torch.stack(targets, dim=-2)
        if self.by_variance:
            return stacked, self.by_variance(batch, stacked[..., : self.num_values])
        if self.args.teacher_weights == "entropy":
            return stacked, weights_by_entropy(self.likelihood.entropy(stacked))
        return stacked, None

    def target(self, batch: Mapping[str, Tensor], logits: Tensor | None = None) -> Tensor:
        """Compute sum_m r_m p_m of a batch's labels [B, C], or what the likelihood makes of several teachers.

        ``logits`` are the student's, which a mixture prior's responsibilities r depend on; without them r are the
        prior's weights. UserError if labels are missing.
        """
        targets, weights = self.teachers(batch)
        if targets.shape[-2] == 1:
            return targets.squeeze(-2)
        if self.args.combine == "mixture" and logits is not None:
            log_student = (logits.detach().float() / self.args.student_temperature).log_softmax(dim=-1)
            weights = mixture_responsibilities(log_student, targets, weights, self.args.prior_strength)
        if targets.shape[-1] == self.num_values:
            return mix_teachers(targets, weights)
        return self.likelihood.mixed(targets, weights)

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float | Tensor:
        """Return lambda of a batch with this target: one number, or one per example [B] or token [B, L]."""
        return self.adaptive(batch, target) if self.adaptive else self.args.kd_lambda


def _num_examples(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(network_inputs(batch).values())))


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
        self.reads_labels = args.kd_lambda < 1 or args.distance == "dkd"
        self.likelihood, self.num_values = getattr(teacher, "likelihood", CATEGORICAL), teacher.num_classes
        if num_classes is not None:
            self.check_num_classes(num_classes)
        self.order = order_of(getattr(teacher, "class_names", None), classes, "the teacher")
        self.per_token = False
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

    def check_batch(self, batch: Mapping[str, Tensor], problem: Problem, outputs: Tensor | None) -> None:
        """Raise a UserError if the teacher can't be asked about a batch, or the student taught its answers."""
        if problem.num_values is not None:
            self.check_num_classes(problem.num_values)
        inputs = batch.get(TEACHER_INPUTS) or network_inputs(batch)
        ids = torch.arange(_num_examples(batch))
        try:
            target = self._target(inputs, ExampleGenerator(ids, self.args.teacher_seed))
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            given = ", ".join(f"{name} {list(getattr(value, 'shape', value))}" for name, value in inputs.items())
            raise UserError(
                f"the teacher can't answer about the training set ({given}; {reason(error)}): set its "
                "processing_class, by which its network's inputs are made"
            ) from error
        check_target(target, problem, outputs)

    def decoded(self, rows: Mapping[str, Any], *where: Any, **more: Any) -> dict[str, Tensor]:
        """Return no columns: nothing is stored."""
        return {}

    def count(self, batch: Mapping[str, Tensor]) -> Tensor | int:
        """Count the targets of a batch: of its examples, or of their tokens."""
        if not self.per_token:
            return _num_examples(batch)
        inputs = network_inputs(batch)
        first = next(iter(inputs.values()))
        return inputs["attention_mask"].sum() if "attention_mask" in inputs else first[:, :, ...].numel()

    def target(self, batch: Mapping[str, Tensor], logits: Tensor | None = None) -> Tensor:
        """Ask the teacher for the target [B, C] of the batch's rows, or [B, L, C] of their tokens."""
        inputs = batch.get(TEACHER_INPUTS) or network_inputs(batch)
        ids, view = batch.get(EXAMPLE_ID), getattr(self.dataset, "view", 0)
        if ids is None:
            self.num_batches += 1
            ids, view = torch.arange(_num_examples(batch), device=self.args.device), self.num_batches
        return self._target(inputs, ExampleGenerator(ids, self.args.teacher_seed, view))

    def _target(self, inputs: Mapping[str, Tensor], generator: ExampleGenerator) -> Tensor:
        answer = self.teacher.predict(inputs, self.args.teacher_samples, generator)
        parts = [answer.mean, answer.variance, getattr(answer, "noise", None)]
        target = self.likelihood.target(*(None if part is None else in_order(part, self.order) for part in parts))
        self.per_token = target.ndim > 2
        if self.per_token and "attention_mask" in inputs:
            target = target * inputs["attention_mask"].to(target).unsqueeze(-1)
        return target

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float:
        """Return lambda, the same for all examples."""
        return self.args.kd_lambda
