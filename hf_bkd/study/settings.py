"""An output folder holds the results of one setting: another one is refused, not mixed with it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..training.arguments import DistillationTrainingArguments
from ..utils.errors import UserError
from ..utils.files import write_json
from .arms import Study, slug

# beginnings of the names of training arguments that change results
DECISIVE = (
    "adam_", "bf16", "combine", "data_seed", "dataloader_drop_last", "fp16", "gradient_accumulation", "kd_",
    "label_smoothing", "lambda_schedule", "learning_rate", "lr_", "max_grad_norm", "max_steps", "neftune",
    "noise_epochs", "num_train_epochs", "optim", "per_device_train", "prior_strength", "student_temperature",
    "teacher_temperature", "teacher_weights", "temperature_scale", "tf32", "torch_compile", "train_sampling",
    "warmup_", "weight_decay",
)  # fmt: skip
FREE = ("seeds", "arms", "workers")  # of the study's arguments: they choose what is run, not how
FINISHED = ("teachers", "labels", "students", "arms", "checkpoints")


def check_same_settings(output_dir: Path, study: Study, options: Any, args: DistillationTrainingArguments) -> None:
    """Compare with the settings that the folder's results were made with, and note the new ones.

    Raises:
        UserError: something decisive differs.
    """
    file = output_dir / "settings.json"
    settings = json.loads(json.dumps(_settings(study, options, args), default=str))
    used = any((output_dir / kind).is_dir() for kind in FINISHED)
    before = json.loads(file.read_text()) if used and file.is_file() else {}
    for name in settings.keys() & before.keys():
        if before[name] != settings[name]:
            raise UserError(
                f"{output_dir} holds a run with {name} {before[name]!r}, and this one has {settings[name]!r}: "
                "pass another --output_dir, or delete that one"
            )
    write_json(file, before | settings)


def _settings(study: Study, options: Any, args: DistillationTrainingArguments) -> dict[str, Any]:
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in FREE}
    settings |= {name: value for name, value in args.to_dict().items() if name.startswith(DECISIVE)}
    settings |= {f"arm {slug(arm.name)}": dataclasses.asdict(arm) for arm in study.arms}
    fixed = ("name", "students", "epochs", "teacher_args", "student_args", "from_teacher", "measure", "posterior")
    settings |= {f"study's {name}": getattr(study, name) for name in fixed}
    return settings | {"processes": args.world_size}
