"""Measurements during a training: how noisy its supervision is on its own examples."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..data.columns import VARIANCE
from ..models.calling import call_network, evaluation_mode, logits_of
from ..models.heads import classification_head, head_features
from ..theory.sgd_noise import squared_gradient_norms
from ..utils.checks import check_count
from ..utils.errors import UserError
from .draw_variance import draw_variance
from .supervision import StoredLabels, network_inputs


class DiagnosticsCallback(TrainerCallback):
    """A callback that logs the gradients of single examples under each supervision, at the start and every N steps.

    ``trainer.add_callback(DiagnosticsCallback(trainer))`` logs

    - ``gradient_noise_one_hot``, ``gradient_noise_stored`` and, where it is known, ``gradient_noise_exact``: the mean
      over the examples of ||d CE(target, softmax(z)) / d theta||^2 against the labels, the teacher's targets and the
      exact class probabilities (arXiv 2601.01484's sigma, where the student is at the optimum);
    - ``mc_variance``: the mean of sum_k Var_s[p_k^(s)] over all stored labels, if they keep it;
    - ``lambda_hat``: the best lambda by this variance, see `theory.label_free_lambda`; errors that all draws share
      don't enter.

    The end of a training logs ``convergence_noise`` in any case. The network is in evaluation mode for a measurement,
    and unchanged by it: a training with the callback is the same as one without.

    Costs, each time, one forward pass and a backward pass for each supervision of ``num_examples`` examples, and the
    memory of 64 examples' gradients, in the first process. For 256 examples every 100 steps of 128 that is about 3 %
    of a training's arithmetic; but gradients of single examples use the hardware worse than those of a batch.

    Args:
        trainer: the one that it is added to.
        every: steps between measurements.
        num_examples: number of examples of the training set, drawn once.
        head_only: measure the gradients of the last layer alone, for the price of a forward pass. Models whose forward
            pass depends on the values of its inputs, as that of most text models does on the padding, can't be
            differentiated example by example otherwise.
        exact: exact class probabilities [N, C] of the training set's rows, where they are known.
        seed: of the choice of examples.

    Raises:
        UserError: a number below 1, a training set that is streamed, or ``exact`` of another length; at the start of
            the training, a network that needs ``head_only``; a student that predicts something else than one class for
            each example.
    """

    def __init__(
        self,
        trainer: Any,
        every: int = 100,
        num_examples: int = 256,
        head_only: bool = False,
        exact: Tensor | None = None,
        seed: int = 0,
    ):
        check_count(every=every, num_examples=num_examples)
        if not trainer.problem.is_plain:
            raise UserError(
                "the diagnostics measure gradients of a cross-entropy over classes, one for each example: "
                f"omit them for a student of {trainer.likelihood.called}{' of tokens' * trainer.problem.per_token}"
            )
        dataset = trainer.train_dataset
        if not hasattr(dataset, "__getitems__"):
            raise UserError("the diagnostics choose examples of the training set: load it without streaming")
        if exact is not None and len(exact) != len(dataset):
            raise UserError(f"exact has {len(exact)} rows, and the training set {len(dataset)}")
        self.trainer, self.every, self.head_only, self.exact = trainer, every, head_only, exact
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:num_examples]
        self.rows = chosen.sort().values
        self.variance = _stored_variance(trainer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log a measurement before the first step."""
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log a measurement, if it is time for one."""
        if state.global_step % self.every == 0 and state.is_world_process_zero:
            due = control.should_log
            self.trainer.log(self.measure())
            control.should_log = due  # which logging sets back, and the step's own is still to come

    def measure(self) -> dict[str, float]:
        """Return what is logged, at the present weights."""
        (batch, known), source = self._batch(), self.trainer._source
        with evaluation_mode(self.trainer.model):
            network, inputs, classes = self._differentiated(network_inputs(batch))
            targets = {}
            if "labels" in batch:
                targets["one_hot"] = nn.functional.one_hot(batch["labels"], classes).float()
            if source is not None:
                targets["stored"] = source.target(batch).float()
            if self.exact is not None:
                targets["exact"] = self.exact[self.rows[known]].float().to(self.trainer.args.device)
            try:
                norms = squared_gradient_norms(network, inputs, torch.stack(list(targets.values()))).mean(dim=1)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                raise UserError(
                    f"{type(self.trainer.model).__name__} can't be differentiated example by example: pass "
                    "head_only=True"
                ) from error
        noise = {f"gradient_noise_{name}": norm for name, norm in zip(targets, norms.tolist(), strict=True)}
        return noise | self.variance

    @torch.no_grad()
    def _differentiated(self, inputs: dict[str, Tensor]) -> tuple[nn.Module, Any, int]:
        """Return the part of the model whose gradients are measured, its inputs, and the number of classes."""
        model = self.trainer.model
        if self.head_only:
            features, logits = head_features(model, inputs)
            return classification_head(model)[1], features, logits.shape[-1]
        one = {name: value[:1] for name, value in inputs.items()}
        return _Logits(model), inputs, logits_of(call_network(model, one)).shape[-1]

    def _batch(self) -> tuple[dict[str, Tensor], Tensor]:
        """The chosen examples that have a label, if labels are read, and which they are of the chosen ones."""
        batch = self.trainer.batch_of(self.rows.tolist())
        if "labels" not in batch:
            return batch, torch.arange(len(self.rows))
        known = (batch["labels"] != -100).nonzero()[:, 0]
        if not len(known):
            raise UserError("none of the examples chosen for the diagnostics has a label: pass more num_examples")
        return _rows(batch, known), known.cpu()


def _rows(batch: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return some rows of a batch, of an online teacher's inputs too."""
    return {name: _rows(each, rows) if isinstance(each, dict) else each[rows] for name, each in batch.items()}


class _Logits(nn.Module):
    """A model as a function from its inputs to logits [B, C]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return logits_of(call_network(self.model, inputs))


def _stored_variance(trainer: Any) -> dict[str, float]:
    """Return what is logged of the variance of a single teacher's stored labels, if they keep it."""
    source = trainer._source
    if not isinstance(source, StoredLabels) or len(source.stored) != 1:
        return {}
    (layout,) = (stored.layout for stored in source.stored.values())
    samples = layout.num_draws
    if layout.beside(VARIANCE) not in trainer.train_dataset.column_names or not samples or samples < 2:
        return {}
    variance = draw_variance(trainer.train_dataset, layout)
    return {"mc_variance": variance.mean, "lambda_hat": 1 / (1 + variance.ratio / samples)}
