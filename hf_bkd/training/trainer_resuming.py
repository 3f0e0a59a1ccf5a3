"""The trainer's ground layer: resumed trainings equal uninterrupted ones, in weights and in what they log."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy, has_length

from ..models.calling import unwrapped
from ..utils.files import writing
from ..utils.processes import decided_by_main, failing_together
from .checkpoints import GOES_ON, RECORD, check_complete, check_same_model, last_checkpoint, recorded
from .lineage import begun, rotate, sign


class ResumableTrainer(Trainer):
    """A `transformers.Trainer` that resumes from complete checkpoints alone, and forgets nothing between them.

    A checkpoint that is due at an epoch's last step is saved after what the epoch's end logs and evaluates: a resume
    starts with the next epoch, and would not do it. The loss since it was last logged goes with each checkpoint, in
    the state file; a stream that starts over goes on where it was; evaluation at the start is not repeated.
    """

    def __init__(self, **kwargs: Any):
        with writing(kwargs["args"].output_dir):
            super().__init__(**kwargs)
        self._resumed: dict[str, Any] = {}
        self._training_id = ""
        self._epoch_is_over = self._save_is_due = False  # the latter: postponed to the epoch's end
        self.add_callback(_AtEpochEnds(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer.train`; ``True`` resumes from the last complete checkpoint, or starts if there is none.

        Raises:
            UserError: the checkpoint is not complete, or of another model; the disk of the checkpoints is full.
        """
        self._resumed, last = {}, resume_from_checkpoint is True
        if last:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        elif isinstance(resume_from_checkpoint, (str, Path)):
            check_complete(resume_from_checkpoint)
        resume_from_checkpoint = resume_from_checkpoint or None
        if resume_from_checkpoint is not None:
            check_same_model(Path(resume_from_checkpoint), unwrapped(self.model, keep_adapters=True))
        with writing(self.args.output_dir):
            self._training_id = decided_by_main(lambda: begun(self.args.output_dir, resume_from_checkpoint, last))
        if resume_from_checkpoint is None:
            return super().train(None, *args, **kwargs)
        eval_on_start, self.args.eval_on_start = self.args.eval_on_start, False
        try:
            output = super().train(str(resume_from_checkpoint), *args, **kwargs)
        finally:
            self.args.eval_on_start = eval_on_start
        return output._replace(training_loss=self._mean_loss())

    # What goes with a checkpoint

    def _progress(self) -> dict[str, Any]:
        """Return what a resume needs beyond the Trainer's own files, as JSON; called in all processes."""
        return {
            "processes": self.args.world_size,
            "on_each_node": self.args.save_on_each_node,
            "save_only_model": self.args.save_only_model,
            "scaler": getattr(self.accelerator, "scaler", None) is not None,
            "loss": self._of_each_process(self._tr_loss),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
        }

    def _go_on_from(self, progress: dict[str, Any]) -> None:
        """Restore what :meth:`_progress` returned; called in all processes, before the first step."""
        self._tr_loss.fill_(self._of_this_process(progress["loss"]))
        self._total_loss_scalar = progress["logged_loss"]
        self._globalstep_last_logged = progress["logged_step"]

    def _of_each_process(self, value: Tensor | float) -> list[float]:
        """Return a number of each process, in all of them."""
        return self.accelerator.gather(torch.as_tensor(value, device=self.args.device).reshape(1)).tolist()

    def _of_this_process(self, values: list[float]) -> float:
        """Return this process' number, or the mean if there were more or fewer processes."""
        same = len(values) == self.args.world_size
        return values[self.args.process_index] if same else sum(values) / len(values)

    def _mean_loss(self) -> float:
        return self._total_loss_scalar / max(self.state.global_step, 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer.log`, the loss of the whole training also after a resume."""
        if "train_loss" in logs and self._resumed:
            logs["train_loss"] = self._mean_loss()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        self.state.stateful_callbacks[RECORD] = {"args": {}, "attributes": self._progress()}
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the Trainer would count others' too
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # then processes wait for each other within
        try:
            with nullcontext() if sharded else failing_together(), writing(folder, GOES_ON):
                if self.args.should_save:
                    sign(folder, self._training_id)
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate(folder, self._training_id, limit, self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(
            resume_from_checkpoint, unwrapped(self.model if model is None else model, keep_adapters=True)
        )

    def _load_best_model(self) -> None:
        model, self.model = self.model, unwrapped(self.model, keep_adapters=True)
        try:
            super()._load_best_model()
        finally:
            self.model = model

    def _load_callback_state(self) -> None:
        self._resumed = recorded({"stateful_callbacks": self.state.stateful_callbacks})
        self.state.stateful_callbacks.pop(RECORD, None)  # is no callback
        super()._load_callback_state()

    # Where a training goes on

    def _init_training_state(
        self, max_steps: int, epoch_steps: int, num_train_epochs: int, checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        place = super()._init_training_state(max_steps, epoch_steps, num_train_epochs, checkpoint, trial)
        if checkpoint is None or has_length(self.train_dataset) or self.args.ignore_data_skip:
            return place
        # a stream's epoch is as long as the training for the Trainer, but ends where the stream does
        epoch, share = divmod(self.state.epoch, 1)
        return int(epoch), round(share * epoch_steps * self.args.gradient_accumulation_steps)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed where the last step was taken within an epoch
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._postpone_save()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if self.args.save_strategy == SaveStrategy.BEST:
            self.control.should_save = is_best
            self._postpone_save()
            return self.control.should_save
        return is_best

    def _postpone_save(self) -> None:
        state, control = self.state, self.control
        last_of_epoch = state.epoch == int(state.epoch) or state.global_step >= state.max_steps
        if control.should_save and last_of_epoch and not self._epoch_is_over:
            control.should_save, self._save_is_due = False, True


class _AtEpochEnds(TrainerCallback):
    """A callback that restores the progress of a resumed trainer, and saves what was postponed to an epoch's end."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._epoch_is_over = self.trainer._save_is_due = False
        state.compute_steps(args, state.max_steps)  # periods are what the arguments say now, not the checkpoint
        if self.trainer._resumed:
            self.trainer._go_on_from(self.trainer._resumed)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._epoch_is_over = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._epoch_is_over = True
        if self.trainer._save_is_due:
            control.should_save, self.trainer._save_is_due = True, False
