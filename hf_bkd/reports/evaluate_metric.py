"""The classification metrics as a module of `evaluate`, built in: nothing is downloaded."""

import datasets
import evaluate
import torch

from ..metrics import classification_metrics


class ClassificationMetrics(evaluate.Metric):
    """Accuracy, NLL, ECE and Brier score (see `hf_bkd.metrics`) of class probabilities.

    ``compute(predictions=probs, references=labels)`` takes [N, C] probabilities and [N] integer labels;
    `evaluate.combine([ClassificationMetrics(), ...])` runs it beside other metrics on the same inputs.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return classification_metrics(torch.as_tensor(predictions), torch.as_tensor(references))
