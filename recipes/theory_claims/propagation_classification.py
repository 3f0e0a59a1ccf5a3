"""Classifying students on data that scikit-learn holds or makes: logistic ones and networks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_classification
from sklearn.preprocessing import MinMaxScaler
from torch import Tensor

from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.theory.propagation import Entropies, inter_student_variance, intra_student_entropy
from hf_bkd.theory.sweeps import SOURCES, distill_many, sample_responses

COVERTYPE_SHARES = (0.365, 0.488, 0.062, 0.005, 0.016, 0.030, 0.034)  # of its seven kinds of forest


def covertype_like(return_X_y: bool = True) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803, as scikit-learn calls it
    """A table of covertype's width, classes and shares of them, which scikit-learn makes without a network."""
    classes = {"n_classes": len(COVERTYPE_SHARES), "weights": list(COVERTYPE_SHARES), "flip_y": 0.05, "class_sep": 1.5}
    return make_classification(5000, 54, n_informative=10, n_redundant=0, random_state=0, **classes)


# of the examples, how many the teacher learns from, then how many the students; the test has at most 500 of the rest
SETS = {
    "digits": (load_digits, 250, 400),
    "wine": (load_wine, 50, 64),
    "breast cancer": (load_breast_cancer, 100, 235),
    "all digits": (load_digits, 500, 797),
    "like covertype": (covertype_like, 1000, 2000),
}
SAMPLED = {"1 label": 1, "5 labels": 5, "20 labels": 20, "80 labels": 80}
TEACHER, STUDENT = (128,), (64,)


class Sweep(NamedTuple):
    """Of students of one kind, on the test."""

    variance: float
    entropies: Entropies


@dataclass
class Task:
    """Inputs and the teacher's probabilities, which the students learn from, and the test."""

    inputs: Tensor
    probs: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    teacher_entropy: float  # on the test
    seed: int

    def sweep(self, hidden: tuple[int, ...], response: str, vary: str, count: int) -> Sweep:
        probs = self.probs.expand(count, -1, -1) if vary == "teacher" else self.probs
        kind, k = ("sampled", SAMPLED[response]) if response in SAMPLED else (response, 1)
        targets = sample_responses(probs, kind, k, torch.Generator().manual_seed(self.seed))
        sizes = (self.inputs.shape[1], *hidden, probs.shape[-1])
        students = distill_many(
            self.inputs, targets, vary=vary, count=count, sizes=sizes, loss="divergence", seed=self.seed + 1
        )
        answers = students(self.test_inputs).softmax(dim=-1)
        drawn = vary != "teacher" or kind == "sampled"  # else all are one student, but for the rounding of products
        variance = inter_student_variance(answers).mean().item() if drawn else 0.0
        return Sweep(variance, intra_student_entropy(answers, self.test_labels))


def task(name: str, hidden: tuple[int, ...], seed: int) -> Task:
    """A data set and a teacher with these hidden layers."""
    load, teaching, learning = SETS[name]
    inputs, labels = load(return_X_y=True)
    inputs, labels = torch.from_numpy(MinMaxScaler().fit_transform(inputs)).float(), torch.from_numpy(labels)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    taught, learned, test = order[: teaching + learning + 500].tensor_split((teaching, teaching + learning))
    onehot = torch.nn.functional.one_hot(labels).float()
    sizes = (inputs.shape[1], *hidden, onehot.shape[1])
    teacher = distill_many(
        inputs[taught], onehot[taught], vary="initialization", count=1, sizes=sizes, loss="divergence", seed=seed
    )
    probs = teacher(inputs).softmax(dim=-1)
    entropy = intra_student_entropy(probs[:, test], labels[test]).all
    return Task(inputs[learned], probs[0, learned], inputs[test], labels[test], entropy, seed)


def labels_claim(count: int, seed: int) -> Claim:
    data, ks = task("digits", (), seed), list(SAMPLED.values())
    sweeps = {response: data.sweep((), response, "teacher", count) for response in ("argmax", *SAMPLED, "soft")}
    variances = [sweeps[response].variance for response in SAMPLED]
    entropies = [sweep.entropies.all for sweep in sweeps.values()]
    checks = [
        Check(f"variance, k = {k} / k = {more}", more / k, variances[i] / variances[i + 1], 0.1)
        for i, (k, more) in enumerate(zip(ks, ks[1:], strict=False))
    ]
    checks += [
        Check("entropy, argmax / soft", 1, entropies[0] / entropies[-1], 0, "at most"),
        Check("entropy, argmax / teacher's", 1, entropies[0] / data.teacher_entropy, 0, "at most"),
        Check("entropy, 1 label / teacher's", 1, entropies[1] / data.teacher_entropy, 0, "at least"),
    ]
    law = [variances[-1] * ks[-1] / k for k in ks]
    by_k = [Series("1 / k through k = 80", ks, law, style="dashed"), Series("measured", ks, variances, color=0)]
    teachers = Series("teacher", list(sweeps), [data.teacher_entropy] * len(sweeps), style="dashed", color=1)
    by_response = [teachers, Series("measured", list(sweeps), entropies, color=0)]
    panels = [
        Panel("How much students differ", "labels drawn per image, k", "variance of a probability", by_k, "xy"),
        Panel("How uncertain a student is", "", "entropy, nats", by_response),
    ]
    return Claim(
        "The noise of k sampled labels falls as 1 / k; arg-max labels suppress a student's entropy",
        "A logistic teacher of 250 digits labels 400 others: by its most probable class (argmax), by k classes drawn "
        f"from its probabilities, or by the probabilities (soft). {count} logistic students learn from draws of their "
        "own. The law is one of small noise, and students' probabilities aren't linear in their labels: from five "
        "labels on it holds, from one label to five the variance falls by less than five times. Arg-max labels make "
        "students more certain than soft ones do, and than their teacher is; sampled labels do not, not even single "
        "ones: what suppresses the entropy is not that there is one response but that it is the most probable one.",
        "arXiv 2601.18909, averaging of responses, and single responses; kinds of response told apart here",
        checks,
        [
            Figure(
                "labels", "Logistic teacher and students of digits; means over images and classes of the test.", panels
            )
        ],
        "The released code distils arg-max labels where it speaks of a student's output. The teacher labels images "
        "that it hasn't seen. Against its entropy the students' also tells how far they were trained: with 80 images "
        "in place of 400 even those of arg-max labels are less certain than their teacher, and the students of soft "
        "labels are the control.",
    )


def networks_claim(count: int, seed: int) -> Claim:
    responses, checks, panels = ("argmax", "1 label", "5 labels", "soft"), [], []
    table = [
        "| data | response | what varies | variance | entropy | correct | incorrect | accuracy |",
        "| --- " * 8 + "|",
    ]
    for name in SETS:
        data = task(name, TEACHER, seed)
        sweeps = {(r, vary): data.sweep(STUDENT, r, vary, count) for r in responses for vary in SOURCES}
        table += [_row(name, *kind, sweep) for kind, sweep in sweeps.items()]
        entropies = {r: sweeps[r, "teacher"].entropies for r in responses}
        argmax, one, soft = (entropies[r].all for r in ("argmax", "1 label", "soft"))
        by_start = sweeps["argmax", "initialization"].variance / sweeps["soft", "initialization"].variance
        by_draws = sweeps["5 labels", "teacher"].variance / sweeps["1 label", "teacher"].variance
        checks += [
            Check(f"{name}: entropy, argmax / soft", 1, argmax / soft, 0, "at most"),
            Check(f"{name}: entropy, 1 label / soft", 1, one / soft, 0, "at most"),
            Check(f"{name}: variance by initialization, argmax / soft", 1, by_start, 0, "at least"),
            Check(f"{name}: variance by teacher, 5 labels / 1 label", 1, by_draws, 0, "at most"),
        ]
        variances = [
            _series(f"variance by {vary}", {r: sweeps[r, vary].variance or None for r in responses}, i)
            for i, vary in enumerate(SOURCES)
        ]
        uncertain = [
            _series(f"entropy, {part} answers", {r: getattr(e, part) for r, e in entropies.items()}, 3 + i)
            for i, part in enumerate(("all", "correct", "incorrect"))
        ]
        panels.append(Panel(f"How much networks differ: {name}", "", "variance of a probability", variances, "y"))
        panels.append(Panel(f"How uncertain one is: {name}", "", "entropy, nats", uncertain))
    return Claim(
        "A single response suppresses a network's own uncertainty, and leaves the variance between networks",
        f"Teachers of 128 hidden units label examples that they haven't seen; {count} students of 64 learn from "
        "them, and differ in their initial weights, or in the bootstrap sample of the examples, or in what the "
        "teacher drew, and in nothing else. In place of MNIST stand all 1,797 digits of scikit-learn, the only images "
        "of digits that it ships; in place of covertype a table that its make_classification draws, with covertype's "
        "54 columns (ten of them informative, none binary) and its seven classes in their shares, for scikit-learn "
        "loads covertype itself from the network alone. Networks memorize what they are told: a single label, sampled "
        "or not, leaves them less uncertain than soft labels do.\n\n" + "\n".join(table),
        "arXiv 2601.18909, single responses, on three of its five data sets and in place of the other two",
        checks,
        [
            Figure(
                "networks",
                "The variance by teacher is nought where nothing is drawn, and entropies are those by teacher.",
                panels,
            )
        ],
        "Directions are checked, not sizes, for one teacher and one split of each set; few answers on wine and breast "
        "cancer are incorrect. The teacher of wine is nearly certain, so that few of the labels drawn differ: with "
        "another seed and fewer networks five labels made more variance than one.",
    )


def _series(label: str, heights: dict[str, float | None], color: int) -> Series:
    known = {name: height for name, height in heights.items() if height is not None}
    return Series(label, list(known), list(known.values()), color=color)


def _row(name: str, response: str, vary: str, sweep: Sweep) -> str:
    shown = ["–" if value is None else f"{value:.3f}" for value in sweep.entropies]
    return f"| {name} | {response} | {vary} | {sweep.variance:.2g} | {' | '.join(shown)} |"
