"""What is demanded of a labeling, and the labels computed by hand with numpy and torch alone."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from hf_bkd import DeterministicTeacher, UserError, add_soft_labels

TOLERANCE = {"float32": 2e-5, "float16": 6e-4, "uint8": 6e-3, "top_k": 1e-3}
CHECKED = 2  # rows that a teacher is asked about before labeling starts


@dataclass
class Case:
    """A network and a dataset that somebody brings.

    network: of N rows' labels.
    dataset: N rows.
    expected: N distributions [C] in the order of the dataset's classes, computed by hand; ``None`` for a row of which
        there is none, or for all of them where nobody could say what the labels are.
    plain: whether nothing is strange about it, so that a refusal is a fault too.
    """

    network: nn.Module
    dataset: datasets.Dataset
    expected: Sequence[np.ndarray | None] | None
    plain: bool = False
    processing_class: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        network = str(self.network) if len(str(self.network)) < 200 else type(self.network).__name__
        raw = self.dataset.with_format("arrow")[:].to_pydict()
        return (
            f"Case(network={network}, rows={str(raw)[:900]}, features={self.dataset.features}, "
            f"expected={self.expected}, plain={self.plain}, options={self.options}, "
            f"processing_class={type(self.processing_class).__name__})"
        )


def fast(number: int, *strategies: st.SearchStrategy):
    """Let hypothesis draw that many cases, the same ones each time and however busy the machine is."""
    unhurried = settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if "SHRINK" in os.environ else [Phase.generate],  # which takes minutes
    )
    return lambda body: unhurried(given(*strategies)(body))


def softmax(logits: np.ndarray) -> np.ndarray:
    """The softmax of one row, in double precision."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def decoded(soft: datasets.Dataset, num_classes: int, column: str = "teacher_probs") -> np.ndarray:
    """Distributions [N, C] of a stored column, as `docs/label_format.md` says it."""
    rows = soft.with_format(None)[column][:]
    if isinstance(rows[0], dict):
        probs = np.zeros((len(rows), num_classes))
        for row, stored in zip(probs, rows, strict=True):
            rest = num_classes - len(stored["classes"])
            row[:] = stored["tail"][0] / rest if rest else 0
            row[stored["classes"]] = stored["probs"]
    else:
        probs = np.asarray(rows, np.float64)
        probs = probs**2 if str(soft.features[column].feature.dtype) == "uint8" else probs
    return probs / probs.sum(axis=1, keepdims=True)


def counting(teacher: Any) -> list[int]:
    """Numbers of rows that a teacher is asked about from now on."""
    asked, predict = [], teacher.predict

    def counted(inputs: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(len(next(iter(inputs.values()))))
        return predict(inputs, *arguments, **named)

    teacher.predict = counted
    return asked


def check_labels(case: Case, soft: datasets.Dataset, column: str = "teacher_probs") -> None:
    """Labels are those computed by hand, and nothing of the dataset is another."""
    assert case.expected is not None and not any(row is None for row in case.expected), "labeled what has no labels"
    storage, expected = case.options.get("storage", "float32"), np.stack(list(case.expected))
    actual = decoded(soft, expected.shape[1], column)
    if storage == "top_k":  # which knows no more of the others than their sum
        k = min(case.options["top_k"], expected.shape[1])
        first = np.argsort(-expected, axis=1, kind="stable")[:, :k]
        actual, expected = np.take_along_axis(actual, first, 1), np.take_along_axis(expected, first, 1)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE[storage], rtol=0)
    assert len(soft) == len(case.dataset)
    assert set(case.dataset.column_names) <= set(soft.column_names)
    assert all(soft.features[name] == feature for name, feature in case.dataset.features.items())


def check_refusal(case: Case, error: UserError, asked: list[int]) -> None:
    """A refusal is one sentence, and comes before any work unless it is about a row."""
    sentence = str(error)
    assert sentence and "\n" not in sentence and len(sentence) < 900, sentence
    about_a_row = "row" in sentence
    assert about_a_row or sum(asked) <= CHECKED, f"asked about {sum(asked)} rows, and then: {sentence}"
    assert not case.plain, sentence


def outcome_of(case: Case, seen: Counter) -> datasets.Dataset | UserError:
    """Label a case and hold it to what is demanded; ``seen`` counts how it ended."""
    teacher = DeterministicTeacher(case.network)
    asked = counting(teacher)
    options = {"storage": "float32", "progress": False, "processing_class": case.processing_class} | case.options
    try:
        soft = add_soft_labels(case.dataset, teacher, **options)
    except UserError as error:
        check_refusal(case, error, asked)
        seen["refused"] += 1
        return error
    check_labels(case, soft)
    seen["labeled"] += 1
    return soft


@torch.no_grad()
def answer(network: nn.Module, **inputs: torch.Tensor) -> np.ndarray:
    """Probabilities of one example alone; a network of transformers or a plain one."""
    outputs = network.eval()(**inputs) if hasattr(network, "config") else network.eval()(*inputs.values())
    return softmax(getattr(outputs, "logits", outputs)[0].numpy())
