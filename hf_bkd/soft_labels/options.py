"""How a teacher is asked and what is kept of its answers."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch

from ..likelihoods import CATEGORICAL, Likelihood, likelihood_from
from ..utils.checks import check_choice, check_count
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator, named_seed
from .record_parts import NEXT_TOKENS
from .storage import AUTO, LARGEST, OF_NEXT_TOKENS, STORAGES, chosen_storage

VARIANCES = ("auto", "full", "sum", "none")
PRECISIONS = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LabelingTeacher(Protocol):
    """What labeling asks of a teacher.

    Optional are an argument ``return_samples`` of ``predict``, for ``mean_log_probs``; its ``device``, where views are
    made; ``num_draws(num_samples)``, how many draws it averages when asked for S; ``likelihood``, what its values are
    of, if not of one of C classes; and ``per_token``, whether it says that it answers for each token, with ``mean``
    [B, L, C].
    """

    @property
    def num_classes(self) -> int: ...

    def predict(self, inputs: Any, num_samples: int, generator: ExampleGenerator) -> Any: ...

    def describe(self) -> dict[str, Any]:
        """Goes into the labels' record: ``num_classes``, ``temperature``, ``tempering``, ``weights`` and more."""
        ...


@dataclass(frozen=True)
class LabelOptions:
    """How a teacher is asked and what is stored of its answers; see :func:`~hf_bkd.add_soft_labels`.

    ``stream`` is the teacher's name, if it has one: teachers of several names draw independently with one ``seed``.
    ``class_order`` are the places among its classes of the dataset's, where these are in another order.
    ``problem_type`` is the teacher's, once it is known; ``None`` for one of C classes. ``positions`` are those of a
    record's: what a language model's are of, once it is known to be one.

    Raises:
        UserError: a number below 1, an unknown storage, variance or precision, or mean log-probabilities beside a
            storage that omits classes.
    """

    num_samples: int = 10
    batch_size: int = 512
    seed: int = 0
    storage: str = AUTO
    top_k: int | None = None
    variance: str = "auto"
    mixed_precision: str | None = None
    shard_rows: int = 1024
    stream: str | None = None
    class_order: list[int] | None = None
    problem_type: str | None = None
    positions: str | None = None
    mean_log_probs: bool = False

    def __post_init__(self):
        check_count(num_samples=self.num_samples, batch_size=self.batch_size, shard_rows=self.shard_rows)
        if self.top_k is not None:
            check_count(top_k=self.top_k)
        if self.storage != AUTO:
            check_choice((*STORAGES, OF_NEXT_TOKENS[0]), storage=self.storage)
        check_choice(VARIANCES, variance=self.variance)
        check_choice(PRECISIONS, mixed_precision=self.mixed_precision)
        if self.mean_log_probs and self.storage == "top_k":
            raise UserError(
                "mean_log_probs keeps a number for each class, and storage='top_k' omits classes: use float16, "
                "float32 or uint8"
            )
        if self.variance == "auto":
            compact = self.storage in ("uint8", "top_k")
            object.__setattr__(self, "variance", "sum" if compact else "full")

    def of_kind(self, likelihood: Likelihood, next_tokens: bool = False) -> Self:
        """The options for a teacher of some kind, whose storage is the kind's own if none was asked for.

        Args:
            likelihood: of its values.
            next_tokens: whether it is a language model.

        Raises:
            UserError: a storage that such labels can't have, or mean log-probabilities of another kind than classes.
        """
        if self.mean_log_probs and (next_tokens or likelihood.problem_type != CATEGORICAL.problem_type):
            own = " predicts next tokens" if next_tokens else f"'s problem_type is {likelihood.problem_type!r}"
            raise UserError(
                f"mean_log_probs is for a Dirichlet distribution over classes, and the teacher{own}: omit it"
            )
        if next_tokens:
            storage = OF_NEXT_TOKENS[0] if self.storage == AUTO else self.storage
            check_choice(OF_NEXT_TOKENS, storage=storage)
            own = {"top_k": self.top_k or LARGEST.get(storage, 1), "positions": NEXT_TOKENS}
            own["variance"] = "none" if self.variance == "none" else "sum"
            return replace(self, storage=storage, **own)
        own = None if likelihood.problem_type == CATEGORICAL.problem_type else likelihood.problem_type
        top_k = LARGEST["top_k"] if self.top_k is None else self.top_k
        return replace(self, storage=chosen_storage(self.storage, likelihood), top_k=top_k, problem_type=own)

    @property
    def likelihood(self) -> Likelihood:
        """What the values are of."""
        return likelihood_from(self.problem_type or CATEGORICAL.problem_type)

    @property
    def draw_seed(self) -> int:
        """The seed of the draws, the stream's own."""
        return named_seed(self.seed, self.stream)

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The precision of the teacher's passes."""
        dtype = PRECISIONS[self.mixed_precision]
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
