"""Numbers are learned in units of their standard deviation, by a network that answers in their own.

A new network answers with numbers around 0 of about 1, which prices in thousands are far from. While it is trained,
the outputs of its last layer are brought from standard units to those of the labels y:

    outputs = scale (W h + b) + shift,    scale = std(y), shift = mean(y);  of a log-variance 1 and 2 log std(y)

and squared errors are divided by scale^2. Numbers that scatter by about 1 already stay as they are. What is saved,
also in checkpoints, and what `state_dict` returns is an ordinary layer of scale W and scale b + shift, and so is what
the training leaves.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..likelihoods import Likelihood
from ..models.calling import call_network, evaluation_mode, logits_of, to_network, unwrapped
from ..models.heads import classification_head, head_features
from ..models.posterior_state import MEAN, POWERS
from ..models.variational_layers import SPREAD
from ..utils.errors import UserError
from ..utils.processes import decided_by_main
from ..utils.seeding import unmoved_randomness
from .checkpoints import STANDARDIZED
from .first_batch import spread_batches
from .online_teacher import OnlineTeacher
from .supervision import network_inputs
from .trainer_measuring import MeasuringTrainer
from .units import answer_already, are_usual, units_of

ROWS = 256  # of the training set, by which the numbers' scale is measured
SLOW = (0.1, 10.0)  # others than these are spoken of where they can't be changed

logger = logging.getLogger(__name__)


class StandardizedHead:
    """A network's last layer that learns in standard units and puts out the labels', until :meth:`finish`.

    Args:
        layer: linear, of K outputs.
        scale, shift: [K], float64.
    """

    def __init__(self, layer: nn.Module, scale: Tensor, shift: Tensor):
        self.layer, self.scale, self.shift = layer, scale, shift
        self._hooks = [
            layer.register_forward_hook(self._in_labels_units),
            layer.register_state_dict_post_hook(partial(self._state_in_labels_units)),  # torch puts a mark on it
            layer.register_load_state_dict_pre_hook(self._state_in_standard_units),
        ]
        self._is_converted = False
        _forget_compiled()

    def _in_labels_units(self, layer: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        wide = outputs if outputs.dtype == torch.float64 else outputs.float()
        return wide * self.scale.to(wide) + self.shift.to(wide)

    def _state_in_labels_units(self, layer: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
        if not self._is_converted:
            self._convert_state(state, prefix, self.scale, self.shift)

    def _state_in_standard_units(self, layer: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
        self._convert_state(state, prefix, 1 / self.scale, -self.shift / self.scale)

    @torch.no_grad()
    def _convert_state(self, state: dict[str, Any], prefix: str, scale: Tensor, shift: Tensor) -> None:
        for name, _ in self.layer.named_parameters(recurse=False):
            if prefix + name in state:
                state[prefix + name] = state[prefix + name].detach().clone()
                _convert(state[prefix + name], scale, shift, name)

    @torch.no_grad()
    def convert(self, optimizer: Any = None, back: bool = False) -> None:
        """Bring the layer's parameters, and a posterior in the optimizer's state, to the labels' units, or back."""
        scale, shift = (1 / self.scale, -self.shift / self.scale) if back else (self.scale, self.shift)
        for name, parameter in self.layer.named_parameters(recurse=False):
            _convert(parameter, scale, shift, name)
            state = getattr(optimizer, "state", {}).get(parameter, {})
            for key in (key for key in POWERS if key in state):
                state[key] *= _as_rows(scale, name, parameter.ndim).to(state[key]) ** POWERS[key]
            if MEAN in state:
                _convert(state[MEAN], scale, shift, name)

    @contextmanager
    def converted(self) -> Iterator[None]:
        """Have the layer's parameters in the labels' units for the block, and the same bits as before after it."""
        before = self.state()
        self.convert()
        self._is_converted = True
        try:
            yield
        finally:
            self._is_converted = False
            self.set(before)

    def finish(self, optimizer: Any) -> None:
        """Leave an ordinary layer that answers in the labels' units."""
        for hook in self._hooks:
            hook.remove()
        _forget_compiled()
        self.convert(optimizer)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the layer's parameters, in standard units."""
        return {name: value.detach().clone() for name, value in self.layer.named_parameters(recurse=False)}

    @torch.no_grad()
    def set(self, state: Mapping[str, Tensor]) -> None:
        """Set the layer's parameters, in standard units."""
        for name, value in self.layer.named_parameters(recurse=False):
            value.copy_(state[name])

    def save(self, folder: Path) -> None:
        """Write what a resumed training goes on from."""
        state = {name: value.contiguous() for name, value in self.state().items()}
        save_file(state | {"scale": self.scale, "shift": self.shift}, folder / STANDARDIZED)


def _forget_compiled() -> None:
    """Have compiled networks compiled anew, for they don't see that a hook came or went."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _convert(values: Tensor, scale: Tensor, shift: Tensor, name: str) -> None:
    """Bring parameters of a layer, called ``name``, to other units of its outputs, in place."""
    rows, wide = _as_rows(scale, name, values.ndim).to(values.device), values.double()
    shift = shift.to(wide) if name == "bias" else 0
    values.copy_(wide + rows.log() if name.endswith("_log_std") else wide * rows + shift)


def _as_rows(scale: Tensor, name: str, ndim: int) -> Tensor:
    """Return the scale [K] of each output in the shape of what a layer has for each, which comes last in a bias."""
    return scale if name.startswith("bias") else scale.reshape(-1, *[1] * (min(ndim, 2) - 1))


class StandardizingTrainer(MeasuringTrainer):
    """A `transformers.Trainer` whose regression learns in standard units; see the module."""

    _head: StandardizedHead | None = None

    @property
    def learned(self) -> Likelihood:
        """The likelihood that a training goes by: squared errors are in units of the labels' variance."""
        if self._head is None:
            return self.likelihood
        return replace(self.likelihood, label_scale=tuple(self._head.scale[: self.problem.num_values].tolist()))

    def _inner_training_loop(self, *args: Any, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        if self._head is None and self.likelihood.target_has_variance and self.args.standardize_labels:
            self._head = self._standardized(resume_from_checkpoint)
        return super()._inner_training_loop(*args, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer.train`; the network answers in the labels' units also if the training is interrupted."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._head is not None:
                self._head.finish(self.optimizer)
                self._head = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save a network that answers in the labels' units; a checkpoint also has what its training goes on from."""
        if self._head is None:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if folder.name.startswith("checkpoint-"):
            self._head.save(folder)
        with self._head.converted():
            super()._save(str(folder), state_dict)

    def _progress(self) -> dict[str, Any]:
        return super()._progress() | {"standardized": self._head is not None}

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._head is not None:
            self._head.set(load_file(Path(self.state.best_model_checkpoint) / STANDARDIZED))

    def _standardized(self, checkpoint: str | None) -> StandardizedHead | None:
        """Return the last layer, set up to learn in standard units; ``None`` where it can't."""
        if checkpoint is not None and not (file := Path(checkpoint) / STANDARDIZED).is_file():
            return None  # it began without
        layer, reason = self._last_layer()
        if checkpoint is not None and layer is not None:
            state = load_file(file)
            head = StandardizedHead(layer, state.pop("scale"), state.pop("shift"))
            head.set(state)
            return head
        with unmoved_randomness():
            seen = decided_by_main(self._numbers_and_outputs)
        if seen is None:
            return None
        numbers, outputs = seen
        if layer is None:
            self._say_if_slow(numbers, reason)
            return None
        if are_usual(numbers):
            return None
        dtype = next(layer.parameters()).dtype
        scale, shift = units_of(numbers, outputs.shape[-1], layer.bias is not None, dtype)
        head = StandardizedHead(layer, scale, shift)
        if answer_already(numbers, outputs, scale, shift):
            head.convert(self.optimizer, back=True)
        return head

    def _last_layer(self) -> tuple[nn.Module | None, str]:
        """Return the layer whose output the student's answers are, or ``None`` and why its units can't be changed."""
        network = unwrapped(self.model)
        batch = self._prepare_inputs(next(self._sample(1)))
        try:
            with unmoved_randomness(), torch.no_grad(), evaluation_mode(network):
                head_features(network, to_network(network_inputs(batch), network))
        except UserError:
            return None, "the network doesn't end in a linear layer"
        _, layer = classification_head(network)
        own = dict(layer.named_parameters())
        places = [value for _, value in network.named_parameters(remove_duplicate=False)]
        if not own.keys() <= {"weight", "bias", *SPREAD}:
            return None, "its last layer is no plain linear one"
        if not all(value.requires_grad for value in own.values()):
            return None, "its last layer is frozen"
        if any(sum(each is value for each in places) > 1 for value in own.values()):
            return None, "its last layer shares its weights with another"
        return layer, ""

    def _sample(self, number: int = ROWS) -> Iterator[dict[str, Any]]:
        return spread_batches(self._train.dataset, self._train.collate, number, self.args.train_batch_size)

    def _numbers_and_outputs(self) -> tuple[Tensor, Tensor] | None:
        """Return what is to be learned of some rows [N, C], and the outputs for them [N, K], in float64.

        ``None`` if none of the rows says what.
        """
        network, source, pairs = unwrapped(self.model), self._source, []
        asked = getattr(source, "num_batches", 0)
        for batch in self._sample():
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), evaluation_mode(network):
                outputs = logits_of(call_network(network, to_network(network_inputs(batch), network)))
            numbers = self._labels_of(batch)
            if numbers is None:
                numbers = source.target(batch)[..., : self.problem.num_values]
            known = self.likelihood.labeled(numbers)
            pairs.append((numbers[known].double().cpu(), outputs[known].double().cpu()))
        if isinstance(source, OnlineTeacher):
            source.num_batches = asked
        numbers, outputs = (torch.cat(each) for each in zip(*pairs, strict=True))
        return (numbers, outputs) if len(numbers) else None

    def _say_if_slow(self, numbers: Tensor, reason: str) -> None:
        low, high = SLOW
        slow = [each for each in numbers.std(dim=0, correction=0).tolist() if not low <= each <= high]
        if slow and self.is_world_process_zero():
            logger.warning(
                "the numbers to predict have a standard deviation of %.3g and are learned as they are, for %s: "
                "networks learn best what scatters by about 1, so divide them by a round number",
                slow[0],
                reason,
            )
