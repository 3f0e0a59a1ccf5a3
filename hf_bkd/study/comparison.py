"""Teachers compared as classifiers: accuracy, calibration, out-of-distribution detection, time and memory."""

from typing import Any

from torch import Tensor

from ..likelihoods import CATEGORICAL, best_temperature
from ..metrics import auroc, classification_metrics, entropy, reliability
from ..models.calling import split, to_network
from ..targets import temper
from ..teachers import Teacher, predict_all
from ..utils.errors import UserError
from ..utils.files import temporary_folder
from .arms import Arm
from .cell import TIMED, Cell, plain_pass, relative_time
from .teaching import Teaching


class TeacherComparison:
    """The teachers of a cell, fitted and measured arm by arm."""

    def __init__(self, cell: Cell):
        if cell.likelihood != CATEGORICAL:
            raise UserError(
                "teachers are compared by their probabilities of one class, and the study's problem_type is "
                f"{cell.inputs.problem_type!r}: declare it with students=True"
            )
        self.cell = cell
        self.teaching = Teaching(cell)

    def run(self, arm: Arm) -> dict[str, Any]:
        """Return an arm's record: from an earlier run, or of a teacher that is fitted and measured now."""
        return self.cell.recorded(arm, lambda: self._record(arm, self.teaching.teacher(arm, 1.0)))

    def _record(self, arm: Arm, teacher: Teacher) -> dict[str, Any]:
        cell, samples = self.cell, self.cell.options.num_samples
        predicted = {
            name: predict_all(teacher, dataset.batches(), samples, cell.seed)
            for name, dataset in (("validation", cell.validation), ("test", cell.test))
        }
        (held_out, held_out_labels), (probs, labels) = predicted["validation"], predicted["test"]
        temperature = best_temperature(held_out.clamp_min(1e-12).log(), held_out_labels)
        scaled = temper(probs, temperature)
        ood = None
        if cell.splits.every_ood is not None:
            ood, _ = predict_all(teacher, cell.batched(cell.splits.every_ood).batches(), samples, cell.seed)
        return {
            **teacher.get_state()[0],  # first: a teacher's own seed is not the run's
            "arm": arm.name,
            "condition": cell.condition,
            "teacher": arm.method,
            "network": cell.options.teacher_model,
            "seed": cell.seed,
            "num_samples": samples,
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
        inputs, _ = split(next(iter(self.cell.test.batches(TIMED))))
        inputs, samples = to_network(inputs, teacher.network), self.cell.options.num_samples
        return relative_time(lambda: teacher.predict(inputs, samples), lambda: plain_pass(teacher.network, inputs))


def _ood(probs: Tensor, ood: Tensor | None) -> dict[str, float]:
    """The AUROC of a prediction's entropy for out-of-distribution images against the test split's."""
    return {} if ood is None else {"ood_auroc": auroc(entropy(probs), entropy(ood))}


def _megabytes(teacher: Teacher) -> float:
    with temporary_folder() as folder:
        teacher.save_pretrained(folder / "teacher")
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
