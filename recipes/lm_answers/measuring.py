"""What students of a kind say, in numbers of each seed, and how they compare: means and ratios with 95 % intervals."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from scipy.stats import t
from torch import Tensor

from hf_bkd import generate_responses
from hf_bkd.metrics import entropy
from hf_bkd.responses import embedding_estimates
from hf_bkd.responses.measures import answer_noise, measured, reference_similarity, unsupported_answers

from .cells import Answered, Cells, Kind, answer_probs, bag_of_words


class Interval(NamedTuple):
    """A mean over seeds with the ends of its 95 % interval by Student's t."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        numbers = torch.tensor(values, dtype=torch.float64)
        mean = numbers.mean().item()
        if len(values) < 2:
            return cls(mean, mean, mean)
        half = t.ppf(0.975, len(values) - 1) * numbers.std().item() / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)

    @classmethod
    def of_ratios(cls, values: Sequence[float], others: Sequence[float]) -> "Interval":
        """The geometric mean of paired ratios."""
        logs = cls.of([math.log(one / other) for one, other in zip(values, others, strict=True)])
        return cls(*map(math.exp, logs))

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


class Numbers(NamedTuple):
    """Of the students of one kind and seed; probabilities are those of 32 answers and of all others.

    variance: between students, of a probability. systematic, distance: the square distance of a probability from the
    teacher's, of what all students say on average and of each student. wrong: each student's from the truth.
    entropy: of a student's answers, in nats. spread: the variance of a student's own answers, of an embedding.
    off: the square distance of all students' mean embedding from the best reference's. similarity: cosine to the
    nearest reference. unsupported: the share of answers with a word that is in no reference and not in the question.
    """

    variance: float
    systematic: float
    distance: float
    wrong: float
    entropy: float
    spread: float
    off: float
    similarity: float
    unsupported: float


class Measures:
    """Numbers of one seed's students, each computed once."""

    def __init__(self, cells: Cells):
        self.cells = cells
        self._of: dict[Kind, Numbers] = {}

    @cached_property
    def teacher_probs(self) -> Tensor:
        cells = self.cells
        return answer_probs(cells.members[0], cells.world, cells.test, cells.tokenizer)

    @cached_property
    def teacher_entropy(self) -> float:
        return entropy(self.teacher_probs).mean().item()

    def teacher(self, name: str) -> Numbers:
        """A teacher's own numbers, as those of a single student that can't differ from another."""
        cells = self.cells
        probs = torch.stack([answer_probs(each, cells.world, cells.test, cells.tokenizer) for each in cells.members])[
            : 1 if name == "single" else None
        ].mean(dim=0)
        said = generate_responses(
            cells.asked(cells.test), cells.teacher(name), cells.options.answers, max_new_tokens=4, batch_size=4096,
            seed=99, progress=False,
        )["teacher_responses"][:]  # fmt: skip
        return self._numbers([Answered(probs, said)] * 2)._replace(variance=0.0)

    def of(self, kind: Kind) -> Numbers:
        if kind not in self._of:
            self._of[kind] = self._numbers(self.cells.students(kind))
        return self._of[kind]

    def _numbers(self, students: list[Answered]) -> Numbers:
        world, test = self.cells.world, self.cells.test
        probs = torch.stack([student.probs for student in students])
        texts = [student.answers for student in students]
        references = [world.references(i) for i in test]
        embedded = bag_of_words([text for own in texts for row in own for text in row])
        embedded = embedded.reshape(len(texts), len(test), -1, embedded.shape[-1])
        truth = torch.cat([world.probs[test], torch.zeros(len(test), 1)], dim=1)
        best = bag_of_words([own[0] for own in references])
        to_teacher, to_truth = answer_noise(probs, self.teacher_probs), answer_noise(probs, truth)
        in_words = answer_noise(embedded, best)
        return Numbers(
            to_teacher.inter_student.value,
            to_teacher.systematic.value,
            to_teacher.total.value,
            to_truth.total.value,
            measured(entropy(probs)).value,
            in_words.intra_student.value,
            in_words.systematic.value,
            measured(reference_similarity(embedded, [bag_of_words(own) for own in references])).value,
            measured(unsupported_answers(texts, references, [world.questions[i] for i in test])).value,
        )

    def parts_of_teacher(self) -> tuple[float, float]:
        """The variance of the Bayesian teacher's answers, of an embedding: between its networks and within them."""
        parts = embedding_estimates(self.cells.answered("ensemble"), bag_of_words)
        return parts.between.mean().item(), parts.within.mean().item()


def slope(kinds: Sequence[Kind], measures: Measures) -> float:
    """The slope of the logarithm of the variance between students in that of k, by least squares."""
    x = torch.tensor([math.log(kind.k) for kind in kinds])
    y = torch.tensor([math.log(measures.of(kind).variance) for kind in kinds])
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()
