"""The trainer's layer that is a language model's own: its loss and its measures, some tokens at a time."""

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalPrediction

from ..likelihoods import UNLABELED
from ..losses import LossParts, at_least_one, temperature_factor
from ..metrics import SUMMARY, summarized_metrics
from ..models.calling import call_network, evaluation_mode, logits_of, unwrapped
from .next_token_loss import (
    Positions,
    TokenLoss,
    ends_in_head,
    entering_head,
    head_of,
    next_token_labels,
    summaries,
    summed_loss,
)
from .next_token_targets import StoredTokens
from .supervision import network_inputs
from .trainer_measuring import MeasuringTrainer, batches_of


class NextTokenTrainer(MeasuringTrainer):
    """A `transformers.Trainer` for which a language model never holds the logits of a whole batch, where it can.

    Where the logits are just what the head makes of its input, they are made and used piece by piece; where something
    comes after the head, or a compiled network or float16 gradients don't allow it, they are held in the network's own
    precision, and brought to float32 piece by piece.
    """

    _splits: bool | None = None  # whether the head can be called by itself; not known yet

    def _labels_of(self, batch: dict[str, Tensor]) -> Tensor | None:
        return next_token_labels(batch) if self.problem.next_tokens else super()._labels_of(batch)

    def _next_token_loss(
        self, model: nn.Module, batch: dict[str, Tensor], num_items: Tensor | None
    ) -> tuple[Tensor, LossParts]:
        """Return the loss of a batch's tokens, in evaluation of its labels alone, and its parts."""
        args, labels = self.args, next_token_labels(batch)
        source = self._source if self.model.training else None
        probs = classes = None
        if source is not None:
            target = source.target(batch)
            probs, classes = target if isinstance(target, tuple) else (target, None)
        loss = TokenLoss(
            0.0 if source is None else args.kd_lambda,
            args.student_temperature,
            temperature_factor(args.temperature_scale, self.teacher_temperature, args.student_temperature),
            args.label_smoothing_factor if self.model.training else 0.0,
            isinstance(source, StoredTokens) and source.is_cut,
        )
        positions = _positions_taught(labels, probs, classes)
        total, cross_entropy, divergence = summed_loss(*self._entering(model, batch), loss, positions)
        number = at_least_one(len(positions.at) if num_items is None else num_items)
        cross_entropy = cross_entropy / number if loss.kd_lambda < 1 else None
        parts = LossParts(total / number, cross_entropy, divergence / number if loss.kd_lambda > 0 else None)
        return parts.total, parts

    def _entering(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[nn.Module | None, Tensor]:
        """Return the head and what enters it [B, L, d]; or ``None`` and the logits.

        An adapter's own tokens, which prompt tuning puts before each row, are left out.
        """
        own = slice(-batch["input_ids"].shape[1], None)
        if self._splits is None:
            self._splits = self._can_split(batch)
        if not self._splits:
            return None, logits_of(self._outputs(model, batch))[:, own]
        return head_of(self.model), entering_head(self.model, lambda: self._outputs(model, batch))[:, own]

    def _can_split(self, batch: dict[str, Tensor]) -> bool:
        if self.args.fp16 or self.args.torch_compile or hasattr(self.model, "_orig_mod"):
            return False
        some = {name: value[:1, :8] for name, value in network_inputs(batch).items()}
        network = unwrapped(self.model, keep_adapters=True)
        with evaluation_mode(network):
            return ends_in_head(network, lambda: call_network(network, some))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return, of a language model, what measures read of each token [B, L, 4] in the place of its logits."""
        if not self.problem.next_tokens:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        labels = next_token_labels(inputs)
        positions = _positions_taught(labels)
        with torch.no_grad(), self.compute_loss_context_manager():
            rows = summaries(*self._entering(model, inputs), positions)
        seen = torch.zeros(labels.numel(), len(SUMMARY), device=rows.device)
        seen[positions.at] = rows
        seen = seen.view(*labels.shape, len(SUMMARY))
        sums, counts = -seen[..., 0].sum(dim=1), (labels != UNLABELED).sum(dim=1)
        self._note_losses(sums, counts)
        loss = sums.sum() / counts.sum()
        return (loss, None, None) if prediction_loss_only else (loss, seen, labels)

    def _metrics_of(self, prediction: EvalPrediction) -> dict[str, float]:
        if not self.problem.next_tokens:
            return super()._metrics_of(prediction)
        parts = zip(batches_of(prediction.predictions), batches_of(prediction.label_ids), strict=True)
        return summarized_metrics(torch.cat([seen[labels != UNLABELED] for seen, labels in parts]))


def _positions_taught(labels: Tensor, probs: Tensor | None = None, classes: Tensor | None = None) -> Positions:
    """Return the positions whose next token is taught.

    Args:
        labels: of the token after each position [B, L].
        probs, classes: the targets [B, L, k].
    """
    at = (labels.flatten() != UNLABELED).nonzero()[:, 0]
    return Positions(at, labels.flatten()[at], *(None if x is None else x.flatten(0, 1)[at] for x in (probs, classes)))
