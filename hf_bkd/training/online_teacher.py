"""The source of targets that is asked at each step: the teacher itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID
from ..data.rows import reason
from ..likelihoods import CATEGORICAL
from ..soft_labels.batch_answers import log_probs_of
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from .arguments import DistillationTrainingArguments
from .classes import in_order, order_of
from .draw_log_probs import ASKED, check_concentrations
from .next_token_targets import StoredTokens
from .problem import Problem
from .supervision import TEACHER_INPUTS, StoredLabels, check_target, network_inputs


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
        self.reads_labels = args.kd_lambda != 1 or args.distance == "dkd"
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
            if self.args.distance == "dirichlet":
                self._log_probs(inputs, ExampleGenerator(ids, self.args.teacher_seed))
                check_concentrations(outputs)
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            given = ", ".join(f"{name} {list(getattr(value, 'shape', value))}" for name, value in inputs.items())
            raise UserError(
                f"the teacher can't answer about the training set ({given}; {reason(error)}): set its "
                "processing_class, by which its network's inputs are made"
            ) from error
        check_target(target, problem, outputs)

    def decoded(self, rows: Mapping[str, Any], mask: Tensor | None = None) -> dict[str, Tensor]:
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
        return self._target(*self._question(batch))

    def log_probs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Ask for the mean logarithms of the draws, shaped as the :meth:`target`."""
        return self._log_probs(*self._question(batch))

    def _question(self, batch: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], ExampleGenerator]:
        inputs = batch.get(TEACHER_INPUTS) or network_inputs(batch)
        ids, view = batch.get(EXAMPLE_ID), getattr(self.dataset, "view", 0)
        if ids is None:
            self.num_batches += 1
            ids, view = torch.arange(_num_examples(batch), device=self.args.device), self.num_batches
        return inputs, ExampleGenerator(ids, self.args.teacher_seed, view)

    def _target(self, inputs: Mapping[str, Tensor], generator: ExampleGenerator) -> Tensor:
        answer = self.teacher.predict(inputs, self.args.teacher_samples, generator)
        parts = [answer.mean, answer.variance, getattr(answer, "noise", None)]
        target = self.likelihood.target(*(None if part is None else in_order(part, self.order) for part in parts))
        return self._of_tokens(target, inputs)

    def _log_probs(self, inputs: Mapping[str, Tensor], generator: ExampleGenerator) -> Tensor:
        answer = self.teacher.predict(inputs, self.args.teacher_samples, generator, return_samples=True)
        return self._of_tokens(in_order(log_probs_of(self.teacher, answer, ASKED), self.order), inputs)

    def _of_tokens(self, target: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return a target with zeros where tokens are masked, and remember whether it is of tokens."""
        self.per_token = target.ndim > 2
        if self.per_token and "attention_mask" in inputs:
            target = target * inputs["attention_mask"].to(target).unsqueeze(-1)
        return target

    def kd_lambda(self, batch: Mapping[str, Tensor], target: Tensor) -> float:
        """Return lambda, the same for all examples."""
        return self.args.kd_lambda


def _num_examples(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(network_inputs(batch).values())))


Source = StoredLabels | StoredTokens | OnlineTeacher  # of a training's targets
