"""Teachers compared as classifiers: how good, how calibrated, how unsure of out-of-distribution images, how dear."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from ..metrics import auroc, classification_metrics, entropy, reliability
from ..models.calling import split, to_network
from ..targets import temper
from ..teachers import Teacher, predict_all
from ..teachers.deterministic import best_temperature
from .arms import Arm
from .setting import TIMED, Setting
from .teaching import Teaching
from .timing import plain_pass, relative_time


class Teachers:
    """Fits and measures the teachers of a setting."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.teaching = Teaching(setting)

    def run(self, arm: Arm) -> dict[str, Any]:
        """An arm's record: from an earlier run, or of a teacher that is fitted and measured now."""
        return self.setting.recorded(arm, lambda: self._record(arm, self.teaching.teacher(arm, 1.0)))

    def _record(self, arm: Arm, teacher: Teacher) -> dict[str, Any]:
        setting, samples = self.setting, self.setting.options.num_samples
        predicted = {
            name: predict_all(teacher, dataset.batches(), samples, setting.seed)
            for name, dataset in (("validation", setting.validation), ("test", setting.test))
        }
        (held_out, held_out_labels), (probs, labels) = predicted["validation"], predicted["test"]
        temperature = best_temperature(held_out.clamp_min(1e-12).log(), held_out_labels)
        scaled = temper(probs, temperature)
        ood = None
        if setting.splits.ood is not None:
            ood, _ = predict_all(teacher, setting.resident(setting.splits.ood).batches(), samples, setting.seed)
        return {
            "arm": arm.name,
            "condition": setting.condition,
            "teacher": arm.teacher,
            "network": setting.options.teacher_model,
            "seed": setting.seed,
            "num_samples": samples,
            **teacher.get_state()[0],
            "metrics": classification_metrics(probs, labels) | _ood(probs, ood),
            "scaled_metrics": classification_metrics(scaled, labels)
            | _ood(scaled, None if ood is None else temper(ood, temperature))
            | {"temperature": temperature},
            "relative_time": self._relative_time(teacher),
            "megabytes": _megabytes(teacher),
            "reliability": reliability(probs, labels).as_json(),
        }

    def _relative_time(self, teacher: Teacher) -> float:
        """Seconds of a prediction over those of one plain pass of the same images."""
        inputs, _ = split(next(iter(self.setting.test.batches(TIMED))))
        inputs, samples = to_network(inputs, teacher.network), self.setting.options.num_samples
        return relative_time(lambda: teacher.predict(inputs, samples), lambda: plain_pass(teacher.network, inputs))


def _ood(probs: Tensor, ood: Tensor | None) -> dict[str, float]:
    """How well the entropy of a prediction tells out-of-distribution images from the test split's."""
    return {} if ood is None else {"ood_auroc": auroc(entropy(probs), entropy(ood))}


def _megabytes(teacher: Teacher) -> float:
    with TemporaryDirectory() as folder:
        teacher.save_pretrained(Path(folder, "teacher"))
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
