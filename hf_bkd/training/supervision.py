"""Stored soft labels as the targets of a training, and what all sources of targets share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.columns import is_soft_label_column
from ..data.preprocessors import tokenizer_hash
from ..likelihoods import CATEGORICAL, Likelihood
from ..soft_labels.belonging import Facts, check_belonging
from ..soft_labels.columns import teachers_of
from ..soft_labels.layout import Layout
from ..soft_labels.reading import stored_labels
from ..targets import mix_teachers, mixture_responsibilities, weights_by_entropy
from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments
from .bias_aware import BiasAwareLambda
from .classes import in_order, names_of_soft_labels, order_of
from .draw_log_probs import DrawLogProbs, check_concentrations
from .draw_variance import AdaptiveLambda, InverseVariance, check_whole, from_batch, known_variances
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


def likelihoods_taught(dataset: Any, teacher: Any) -> dict[str, Likelihood]:
    """Return what soft labels, or an online teacher if there is one, are of, by their names in errors.

    Of a dataset without soft labels it is nothing; :class:`StoredLabels` refuses it.
    """
    if teacher is not None:
        return {"the teacher": getattr(teacher, "likelihood", CATEGORICAL)}
    names = list(getattr(dataset, "column_names", None) or [])
    return {
        f"the soft labels{'' if name is None else f' of {name}'}": _likelihood_of_soft_labels(dataset, name)
        for name in teachers_of(names)
    }


def _likelihood_of_soft_labels(dataset: Any, teacher: str | None) -> Likelihood:
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
        UserError: as :func:`~hf_bkd.soft_labels.reading.stored_labels`, :class:`AdaptiveLambda`,
            :class:`BiasAwareLambda`, :class:`InverseVariance` and :class:`DrawLogProbs`; labels of other classes than
            the student's.
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
        self.by_example: AdaptiveLambda | BiasAwareLambda | None = None
        if args.lambda_schedule == "adaptive":
            self.by_example = AdaptiveLambda(dataset, self.stored, args.kd_lambda)
        elif args.lambda_schedule == "bias_aware":
            self.by_example = BiasAwareLambda(dataset, self.stored, args, classes, self.orders)
        weighted = args.teacher_weights == "inverse_variance"
        self.by_variance = InverseVariance(dataset, self.stored) if weighted else None
        self.logs = DrawLogProbs(dataset, self.stored, self.orders) if args.distance == "dirichlet" else None
        self.known = known_variances(dataset, self.stored) if self.likelihood.target_has_variance else {}
        self.args = args
        self.reads_labels = self.by_example is not None or args.kd_lambda != 1 or args.distance == "dkd"

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
        if self.logs is not None:
            self.log_probs(batch)
            check_concentrations(outputs)

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
        """The columns beside the values that are read."""
        users = [variance for user in (self.by_example, self.by_variance) if user for variance in user.variances]
        used = {each.column: each.layout for each in users}
        used |= {} if self.logs is None else self.logs.columns
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
            names = self.known.get(name, ())
            known = [from_batch(batch, column).to(values) for column in names]
            check_whole(known, values, names)
            known = [in_order(each, order) for each in known]
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

    def log_probs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute sum_m r_m mean_s log p_m^(s) [B, C] of a batch, which is what a Dirichlet student is taught."""
        probs, weights = self.teachers(batch)
        return mix_teachers(self.logs(batch, probs), weights)

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float | Tensor:
        """Return lambda of a batch with this target: one number, or one per example [B] or token [B, L]."""
        return self.by_example(batch, target) if self.by_example else self.args.kd_lambda
