"""The metrics against loops, scikit-learn and torchmetrics."""

import datasets
import evaluate
import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from hf_bkd import UserError
from hf_bkd.metrics import (
    accuracy,
    agreement,
    auroc,
    brier,
    classification_metrics,
    convergence_noise,
    ece,
    entropy,
    multi_label_average_precision,
    multi_label_ece,
    multi_label_metrics,
    nll,
    regression_metrics,
    reliability,
    summarized_metrics,
    summarized_reliability,
    summary,
)
from hf_bkd.reports.evaluate_metric import ClassificationMetrics

N, C = 500, 7


@pytest.fixture
def predictions():
    """Over-confident probabilities [N, C] and labels that agree with about half of them."""
    logits = torch.randn(N, C, dtype=torch.float64) * 2
    labels = torch.where(torch.rand(N) < 0.5, logits.argmax(dim=-1), torch.randint(C, (N,)))
    return logits.softmax(dim=-1), labels


def naive_bins(probs, labels, num_bins):
    """(sum of confidences, correct, number) per bin (low, high], edges in the probabilities' own precision."""
    bins = [[0.0, 0, 0] for _ in range(num_bins)]
    kind = probs.numpy().dtype.type
    for row, label in zip(probs.numpy(), labels.tolist(), strict=True):
        best = max(range(len(row)), key=lambda c: row[c])
        for i in range(num_bins):
            if kind(i) / kind(num_bins) < row[best] <= kind(i + 1) / kind(num_bins):
                bins[i][0] += float(row[best])
                bins[i][1] += best == label
                bins[i][2] += 1
    return bins


def naive_ece(bins):
    total = sum(number for _, _, number in bins)
    return sum(abs(confidence - correct) for confidence, correct, _ in bins) / total


def test_accuracy_nll_and_brier_are_scikit_learns(predictions):
    probs, labels = predictions
    classes = list(range(C))
    assert accuracy(probs, labels) == accuracy_score(labels, probs.argmax(dim=-1))
    assert nll(probs, labels) == pytest.approx(log_loss(labels, probs, labels=classes), rel=1e-12)
    reference = brier_score_loss(labels, probs, labels=classes, scale_by_half=False)
    assert brier(probs, labels) == pytest.approx(reference, rel=1e-12)


def test_a_label_of_probability_zero_costs_much_but_not_infinitely_much():
    assert 700 < nll(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) < 710


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_is_torchmetrics(predictions, num_bins):
    probs, labels = predictions
    reference = multiclass_calibration_error(probs, labels, num_classes=C, n_bins=num_bins, norm="l1")
    assert ece(probs, labels, num_bins) == pytest.approx(reference.item(), abs=1e-6)  # theirs is in float32
    assert ece(probs, labels, num_bins) == pytest.approx(naive_ece(naive_bins(probs, labels, num_bins)), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [2, 10, 15, 25, 49])
def test_confidences_on_the_edges_belong_to_the_lower_bin(dtype, num_bins):
    first = -(-num_bins // 2)  # below one half the other class would be the top one
    confidence = torch.arange(first, num_bins + 1, dtype=dtype) / num_bins
    probs = torch.stack([confidence, 1 - confidence], dim=-1)
    labels = torch.arange(len(confidence)) % 2
    found, expected = reliability(probs, labels, num_bins), naive_bins(probs, labels, num_bins)
    assert found.count.tolist() == [number for _, _, number in expected]
    assert found.count.tolist()[first - 1 :] == [1] * len(confidence)
    assert ece(probs, labels, num_bins) == pytest.approx(naive_ece(expected), rel=1e-12)


def test_uniform_predictions_of_ten_classes_fill_the_first_bin():
    probs = torch.full((4, 10), 0.1)
    assert reliability(probs, torch.zeros(4)).count.tolist() == [4] + [0] * 9


def test_bins_hold_every_example_once(predictions):
    probs, labels = predictions
    bins, expected = reliability(probs, labels), naive_bins(probs, labels, 10)
    assert bins.count.sum() == N
    assert bins.count.tolist() == [number for _, _, number in expected]
    filled = bins.count > 0
    assert torch.equal(filled, ~bins.confidence.isnan())
    assert torch.equal(filled, ~bins.accuracy.isnan())
    assert not filled.all()  # no confidence below 1 / C
    summed = (bins.confidence * bins.count)[filled].tolist()
    assert summed == pytest.approx([confidence for confidence, _, number in expected if number])
    hits = (bins.accuracy * bins.count)[filled].tolist()
    assert hits == pytest.approx([correct for _, correct, number in expected if number])
    assert (bins.accuracy * bins.count)[filled].sum().item() / N == pytest.approx(accuracy(probs, labels))


def test_calibration_at_its_extremes():
    labels = torch.tensor([0, 1])
    assert ece(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels) == 0
    assert ece(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), labels) == 1


def test_a_student_that_diverged_is_not_called_calibrated():
    probs = torch.full((4, 3), float("nan"))
    found = classification_metrics(probs, torch.tensor([0, 1, 2, 0]))
    assert np.isnan(found["ece"])
    assert np.isnan(found["nll"])
    assert np.isnan(found["brier"])


def test_all_of_them_as_floats(predictions):
    found = classification_metrics(*predictions)
    assert list(found) == ["accuracy", "nll", "ece", "brier"]
    assert all(type(value) is float for value in found.values())
    assert found["ece"] == ece(*predictions)


def test_agreement_counts_equal_predictions_whatever_their_confidence():
    ours = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    theirs = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.1, 0.9], [0.8, 0.2]])
    assert agreement(ours, theirs) == 0.75
    assert agreement(ours, ours) == 1


class TestConvergenceNoise:
    accuracies = np.random.default_rng(0).normal(0.8, 0.01, 60).tolist()

    @pytest.mark.parametrize("last", [2, 10, 50, 60])
    def test_is_numpys_sample_standard_deviation_of_the_last(self, last):
        expected = np.std(self.accuracies[-last:], ddof=1)
        assert convergence_noise(self.accuracies, last) == pytest.approx(expected, rel=1e-12)

    def test_takes_50_unless_told(self):
        assert convergence_noise(self.accuracies) == convergence_noise(self.accuracies, 50)
        assert convergence_noise(self.accuracies) != convergence_noise(self.accuracies, 49)

    def test_needs_as_many_as_asked_for(self):
        with pytest.raises(UserError, match="last 50 evaluations asked of 49 evaluations"):
            convergence_noise(self.accuracies[:49])

    @pytest.mark.parametrize("last", [1, 0, -3])
    def test_needs_two(self, last):
        with pytest.raises(UserError, match=f"at least 2 evaluations, and last is {last}"):
            convergence_noise(self.accuracies, last)


class TopClass(evaluate.Metric):
    """Another metric of the same inputs."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of predictions of class 0.",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"zeros": float(np.mean(np.argmax(predictions, axis=1) == 0))}


class TestEvaluate:
    def test_computes_at_once(self, predictions):
        probs, labels = predictions
        found = ClassificationMetrics().compute(predictions=probs.tolist(), references=labels.tolist())
        assert found == pytest.approx(classification_metrics(probs.float(), labels), rel=1e-12)

    def test_computes_from_batches(self, predictions):
        probs, labels = predictions
        metric = ClassificationMetrics()
        for batch in range(0, N, 128):
            metric.add_batch(predictions=probs[batch : batch + 128], references=labels[batch : batch + 128])
        assert metric.compute() == pytest.approx(classification_metrics(probs.float(), labels), rel=1e-12)

    def test_combines_with_others(self, predictions):
        probs, labels = predictions
        both = evaluate.combine([ClassificationMetrics(), TopClass()])
        found = both.compute(predictions=probs.tolist(), references=labels.tolist())
        zeros = (probs.argmax(dim=-1) == 0).double().mean().item()
        assert found == pytest.approx(classification_metrics(probs.float(), labels) | {"zeros": zeros}, rel=1e-12)


def test_entropy_is_that_of_torch_and_at_its_ends_exact(predictions):
    probs, _ = predictions
    torch.testing.assert_close(entropy(probs), torch.distributions.Categorical(probs).entropy())
    assert entropy(torch.tensor([1.0, 0.0, 0.0])).item() == 0
    torch.testing.assert_close(entropy(torch.full((2, 3, C), 1 / C)), torch.full((2, 3), float(C)).log())


@pytest.mark.parametrize("levels", [2, 10, 10**6])
def test_auroc_is_scikit_learns_with_and_without_ties(levels):
    negatives, positives = torch.randint(levels, (300,)) / levels, (torch.randint(levels, (70,)) / levels) ** 0.7
    truth = torch.cat([torch.zeros(300), torch.ones(70)])
    assert auroc(negatives, positives) == pytest.approx(
        roc_auc_score(truth, torch.cat([negatives, positives])), rel=1e-12
    )
    assert auroc(positives, negatives) == pytest.approx(1 - auroc(negatives, positives), rel=1e-12)


def test_auroc_of_separate_equal_and_missing_scores():
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5])
    assert (auroc(low, high), auroc(high, low), auroc(low, low)) == (1, 0, 0.5)
    for negatives, positives in ((low, low[:0]), (low[:0], low)):
        with pytest.raises(UserError, match="needs scores on both sides; there are"):
            auroc(negatives, positives)


@pytest.fixture(params=[False, True], ids=["continuous", "with ties"])
def several(request):
    """Independent probabilities [N, C] and labels of which some are rare."""
    logits = torch.randn(N, C, dtype=torch.float64) * 2
    labels = (torch.rand(N, C) < torch.sigmoid(logits / 2 - 1)).long()
    probs = torch.sigmoid(logits)
    return (probs * 8).round() / 8 if request.param else probs, labels


def test_measures_of_several_labels_are_scikit_learns(several):
    probs, labels = several
    truth, predicted = labels.numpy(), (probs > 0.5).long().numpy()
    each = average_precision_score(truth, probs.numpy(), average=None)
    np.testing.assert_allclose(multi_label_average_precision(probs, labels.bool()), each, rtol=1e-12)
    expected = {
        "accuracy": accuracy_score(truth, predicted),
        "brier": np.mean([brier_score_loss(truth[:, c], probs[:, c].numpy()) for c in range(C)]),
        "mean_average_precision": average_precision_score(truth, probs.numpy(), average="macro"),
        "micro_f1": f1_score(truth, predicted, average="micro"),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "nll": np.mean([log_loss(truth[:, c], probs[:, c].clamp(1e-12, 1 - 1e-12).numpy()) for c in range(C)]),
        "ece": multi_label_ece(probs, labels).mean().item(),
    }
    assert multi_label_metrics(probs.clamp(1e-12, 1 - 1e-12), labels) == pytest.approx(expected, rel=1e-9)


def test_the_calibration_of_each_label_is_torchmetrics(several):
    probs, labels = several
    expected = [binary_calibration_error((probs[:, c] - 1e-9).clamp(0, 1), labels[:, c], n_bins=10) for c in range(C)]
    np.testing.assert_allclose(multi_label_ece(probs, labels), expected, atol=1e-6)


def test_labels_that_are_nowhere_have_no_average_precision():
    labels = torch.tensor([[1, 0], [0, 0]])
    probs = torch.tensor([[0.2, 0.1], [0.6, 0.1]])
    measures = multi_label_metrics(probs, labels)
    assert measures["mean_average_precision"] == 0.5 and measures["macro_f1"] == measures["micro_f1"] == 0
    assert "mean_average_precision" not in multi_label_metrics(probs, torch.zeros(2, 2))
    assert np.isnan(multi_label_metrics(probs * torch.nan, labels)["nll"])


def test_measures_of_regression_are_scikit_learns_and_scipys():
    mean, labels = torch.randn(N, 2, dtype=torch.float64), torch.randn(N, 2, dtype=torch.float64)
    variance = torch.rand(N, 2, dtype=torch.float64) + 0.5
    plain = {
        "rmse": root_mean_squared_error(labels.flatten(), mean.flatten()),
        "mae": mean_absolute_error(labels.flatten(), mean.flatten()),
    }
    assert regression_metrics(mean, labels) == pytest.approx(plain)
    normal = norm(mean.numpy(), variance.sqrt().numpy())
    shares = {}
    for level in np.arange(1, 20) / 20:
        low, high = normal.interval(level)
        shares[round(level, 2)] = ((low <= labels.numpy()) & (labels.numpy() <= high)).mean()
    expected = plain | {
        "nll": -normal.logpdf(labels.numpy()).mean(),
        "coverage": shares[0.9],
        "interval_error": np.mean([abs(share - level) for level, share in shares.items()]),
    }
    assert regression_metrics(mean, labels, variance) == pytest.approx(expected)


def test_intervals_are_calibrated_where_labels_are_drawn_from_them():
    variance = torch.rand(20_000, 1, dtype=torch.float64) + 0.1
    labels = torch.randn(20_000, 1, dtype=torch.float64) * variance.sqrt()
    measures = regression_metrics(torch.zeros_like(labels), labels, variance)
    assert measures["coverage"] == pytest.approx(0.9, abs=0.01) and measures["interval_error"] < 0.01
    narrow = regression_metrics(torch.zeros_like(labels), labels, variance / 100)
    assert narrow["coverage"] < 0.2 and narrow["interval_error"] > 0.3


def test_summaries_have_the_measures_and_the_bins_of_the_probabilities():
    generator = torch.Generator().manual_seed(0)
    probs = (2 * torch.randn(200, 7, generator=generator)).softmax(dim=-1)
    labels = torch.randint(7, (200,), generator=generator)
    rows = summary(probs.log(), labels)
    assert summarized_metrics(rows) == pytest.approx(classification_metrics(probs, labels), rel=1e-5)
    for own, whole in zip(summarized_reliability(rows), reliability(probs, labels), strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-6, atol=0, equal_nan=True)
