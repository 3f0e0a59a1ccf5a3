"""The loss of next tokens, some positions at a time, so that the logits [B, L, V] of a batch are never held.

Logits of a piece are made from what enters the head, become a loss and its gradient, and are let go of. What is kept
is of the size of the head's input and weight, and no logits are computed twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..likelihoods import UNLABELED
from ..metrics import SUMMARY, summary
from ..models.calling import logits_of, unwrapped

AT_ONCE = {"cuda": 2**25}  # logits of a piece
ON_OTHERS = 2**23

Head = Callable[[Tensor], Tensor]


class Positions(NamedTuple):
    """What N positions are taught.

    at: int64 [N], their places among all B * L of a batch.
    labels: int64 [N], the tokens after them.
    probs: [N, k] of some tokens, or [N, V] of all; ``None`` where nothing is distilled.
    classes: int64 [N, k], which tokens these are; ``None`` for all.
    """

    at: Tensor
    labels: Tensor
    probs: Tensor | None = None
    classes: Tensor | None = None

    def pieces(self, number: int) -> Iterator["Positions"]:
        """Yield at most so many positions at a time."""
        for start in range(0, len(self.at), number):
            yield Positions(*(None if each is None else each[start : start + number] for each in self))


@dataclass(frozen=True)
class TokenLoss:
    """(1 - lambda) CE + lambda * scale * KL of logits at some positions, summed over them.

    Args:
        kd_lambda: lambda.
        temperature: T_s of the student in the second term.
        scale: factor on it.
        label_smoothing: epsilon of the first.
        is_cut: whether a target is the largest probabilities, and what is missing to one is all others' together,
            with which all others of the student are compared; else its missing entries are 0.
    """

    kd_lambda: float
    temperature: float = 1.0
    scale: float = 1.0
    label_smoothing: float = 0.0
    is_cut: bool = False

    def __call__(self, logits: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of the loss and of its two terms before they are weighted; 0 for a term of weight 0."""
        logits = logits.float() if logits.dtype != torch.float64 else logits
        cross_entropy = divergence = logits.new_zeros(())
        if self.kd_lambda < 1:
            normalizer = logits.logsumexp(dim=-1)
            losses = normalizer - logits.gather(-1, positions.labels[:, None])[:, 0]
            if self.label_smoothing:
                uniform = normalizer - logits.mean(dim=-1)
                losses = (1 - self.label_smoothing) * losses + self.label_smoothing * uniform
            cross_entropy = losses.sum()
        if self.kd_lambda > 0:
            divergence = self._divergence(logits / self.temperature, positions).sum()
        total = (1 - self.kd_lambda) * cross_entropy + self.kd_lambda * self.scale * divergence
        return total, cross_entropy.detach(), divergence.detach()

    def _divergence(self, logits: Tensor, positions: Positions) -> Tensor:
        """Return KL(target || student) [N]; for sampled targets it is too large by a constant, their own entropy's."""
        target, classes = positions.probs.to(logits.dtype), positions.classes
        is_cut = self.is_cut and classes is not None and classes.shape[-1] < logits.shape[-1]
        chosen = logits if classes is None else logits.gather(-1, classes)
        sums = target.sum(dim=-1)
        normalizer = logits.logsumexp(dim=-1)
        if not is_cut:
            target = target / sums[:, None].clamp_min(torch.finfo(target.dtype).tiny)
            sums = target.sum(dim=-1)
        result = (torch.xlogy(target, target) - target * chosen).sum(dim=-1) + sums * normalizer
        if is_cut:
            tail = (1 - sums).clamp_min(0)
            hidden = chosen.masked_fill((tail > 0)[:, None] & (target > 0), -torch.inf)  # 0: an entry that isn't used
            others = logits.scatter(-1, classes, hidden).logsumexp(dim=-1)
            result = result + torch.xlogy(tail, tail) - tail * (others - normalizer)
        return result


class _Summed(torch.autograd.Function):
    """The sum of a loss over positions, whose gradient is computed together with it."""

    @staticmethod
    def forward(
        ctx: Any, head: Head, loss: TokenLoss, positions: Positions, number: int, hidden: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add up pieces of at most so many positions; the gradients stay until the sum's own is known."""
        flat = hidden.flatten(0, -2)
        gradients = [torch.zeros_like(flat), *(torch.zeros_like(each, dtype=_wide(each.dtype)) for each in weights)]
        sums = None
        for piece in positions.pieces(number):
            with torch.enable_grad():
                entering = flat[piece.at].detach().requires_grad_()
                total, *terms = loss(head(entering), piece)
                own = torch.autograd.grad(total, [entering, *weights])
            gradients[0][piece.at] = own[0]
            for gradient, more in zip(gradients[1:], own[1:], strict=True):
                gradient += more
            added = [total.detach(), *terms]
            sums = added if sums is None else [before + each for before, each in zip(sums, added, strict=True)]
        sums = [hidden.new_zeros((), dtype=torch.float32)] * 3 if sums is None else sums
        ctx.save_for_backward(gradients[0].view_as(hidden), *gradients[1:])
        ctx.dtypes = [hidden.dtype, *(each.dtype for each in weights)]
        ctx.mark_non_differentiable(*sums[1:])
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple:
        """Scale what was computed with the sum."""
        own = [(gradient * each).to(dtype) for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return (None, None, None, None, *own)


def summed_loss(head: nn.Module | None, hidden: Tensor, loss: TokenLoss, positions: Positions) -> list[Tensor]:
    """Sum a loss over some positions of a batch.

    Args:
        head: makes logits of what enters it; ``None`` if ``hidden`` are the logits.
        hidden: [B, L, d].
        loss: of the logits at some positions.
        positions: N of the B * L.

    Returns:
        The sums of the loss, through which gradients flow, and of its two terms.
    """
    weights = [] if head is None else [each for each in head.parameters() if each.requires_grad]
    with _fresh_casts(hidden.device.type):
        return list(_Summed.apply(head or _same, loss, positions, _number(head, hidden), hidden, *weights))


@torch.no_grad()
def summaries(head: nn.Module | None, hidden: Tensor, positions: Positions) -> Tensor:
    """Return what measures read of each position, float32 [N, 4], see ``SUMMARY``; arguments as above."""
    flat = hidden.flatten(0, -2)
    rows = [flat.new_zeros((0, len(SUMMARY)), dtype=torch.float32)]
    for piece in positions.pieces(_number(head, hidden)):
        logits = (head or _same)(flat[piece.at]).float()
        rows.append(summary(logits.log_softmax(dim=-1), piece.labels))
    return torch.cat(rows)


def entering_head(model: nn.Module, call: Callable[[], Any]) -> Tensor:
    """Return what enters the head of a language model [B, L, d] in a call that then makes no logits."""
    seen: list[Tensor] = []

    def take(module: nn.Module, args: tuple) -> tuple:
        seen.append(args[0])
        return (args[0][:, :0], *args[1:])

    hook = head_of(model).register_forward_pre_hook(take)
    try:
        call()
    finally:
        hook.remove()
    return seen[-1]


def head_of(model: nn.Module) -> nn.Module | None:
    """Return the layer that makes a language model's logits, with its adapters; ``None`` if it doesn't say which."""
    network = unwrapped(model)
    return network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None


@torch.no_grad()
def ends_in_head(model: nn.Module, call: Callable[[], Any]) -> bool:
    """Return whether a language model's logits are what its head makes of one input, and nothing comes after it."""
    head = head_of(model)
    if head is None:
        return False
    seen: list[tuple[tuple, Any]] = []
    hook = head.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    try:
        logits = logits_of(call())
    finally:
        hook.remove()
    if len(seen) != 1 or len(seen[0][0]) != 1 or not isinstance(seen[0][1], Tensor):
        return False
    (entered,), output = seen[0]
    return output.shape == logits.shape == (*entered.shape[:-1], logits.shape[-1]) and torch.equal(output, logits)


def next_token_labels(batch: Any) -> Tensor:
    """Return the token after each position that is taught, int64 [B, L], or ``UNLABELED``.

    They are the batch's ``labels``, or, where it has none, all of its tokens. Tokens that are masked are not taught,
    such as padding after a row, nor is anything at a position that is masked itself.
    """
    labels, mask = batch.get("labels"), batch.get("attention_mask")
    masked = None if mask is None or mask.ndim != 2 else ~mask.bool()
    labels = batch["input_ids"] if labels is None else labels
    labels = labels if masked is None else labels.masked_fill(masked, UNLABELED)
    after = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], UNLABELED)], dim=1)
    return after if masked is None else after.masked_fill(masked, UNLABELED)


def _same(logits: Tensor) -> Tensor:
    return logits


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _number(head: nn.Module | None, hidden: Tensor) -> int:
    width = hidden.shape[-1] if head is None else getattr(head, "out_features", None) or len(head.weight)
    return max(AT_ONCE.get(hidden.device.type, ON_OTHERS) // width, 1)


def _fresh_casts(kind: str) -> Any:
    """Let autocast bring weights to its precision for each piece: the graph of what it remembers is gone by then."""
    enabled = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=enabled, cache_enabled=False)
