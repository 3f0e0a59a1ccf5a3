"""Callbacks that keep a dataset's view and an optimizer's weights in step with a training."""

from typing import Any

from transformers import TrainerCallback


class SetEpoch(TrainerCallback):
    """A callback that sets the dataset's epoch, and so its view: accelerate does so in one process, not in several."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


class DrawWeights(TrainerCallback):
    """A callback that draws the weights that all micro-batches of a step see; between steps they are the means."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer.perturb()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer.restore()  # where the step was skipped
