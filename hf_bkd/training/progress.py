"""The progress of a training, shown by the same bars as everything else."""

from typing import Any

from rich import get_console
from rich.progress import Progress
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from ..utils.progress import progress_bar

OMITTED = ("total_flos", "runtime", "per_second")  # ends of the names of what is logged and not shown


def show_progress(trainer: Trainer, bars: bool = True, logs: bool = True) -> "TrainingProgress":
    """Put bars of this library's look in the place of the Trainer's, and lines in that of its dicts.

    Args:
        trainer: before its training.
        bars: whether to show how far it is.
        logs: whether to print what is logged.
    """
    for shown in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(shown)
    progress = TrainingProgress(bars, logs)
    trainer.add_callback(progress)
    return progress


class TrainingProgress(TrainerCallback):
    """A bar for the steps of a training, one for each evaluation meanwhile, and a line for what is logged."""

    def __init__(self, bars: bool = True, logs: bool = True):
        self.bars, self.logs = bars, logs
        self.bar: Progress | None = None
        self._training = self._evaluation = None  # lines of the bar

    def _start(self) -> Progress:
        if self.bar is None:
            self.bar = progress_bar(disable=not self.bars)
            self.bar.start()
        return self.bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._training = self._start().add_task("training", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._training is not None:
            self.bar.update(self._training, completed=state.global_step)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not has_length(eval_dataloader):
            return
        if self._evaluation is None:
            self._evaluation = self._start().add_task("evaluating", total=len(eval_dataloader))
        self.bar.advance(self._evaluation)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._training is None:
            self.stop()
        elif self._evaluation is not None:
            self.bar.remove_task(self._evaluation)
            self._evaluation = None

    on_predict = on_evaluate

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.logs and state.is_world_process_zero and logs:
            shown = {"epoch": state.epoch or 0.0} | logs
            shown = {name: value for name, value in shown.items() if not name.endswith(OMITTED)}
            line = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, (int, float)))
            get_console().print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bars as they are, also where a training was interrupted."""
        if self.bar is not None:
            self.bar.stop()
        self.bar = self._training = self._evaluation = None
