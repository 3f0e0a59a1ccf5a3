"""What a report says of a posterior's samples, against loops over single numbers."""

import json
import math

import pytest
import torch

from hf_bkd import UserError, uncertainty_report
from hf_bkd.metrics import auroc, classification_metrics
from hf_bkd.uncertainty import credible_sets, deviance_threshold, entropy_parts, mean_deviance

S, N, C = 7, 23, 5


@pytest.fixture
def samples():
    return (torch.randn(S, N, C, dtype=torch.float64) * 2).softmax(dim=-1)


def naive_entropy(row):
    return -sum(p * math.log(p) for p in row if p > 0)


def mass_above(samples, n, u):
    """E_s sum_k p_k 1{p_k >= u} of example n."""
    return sum(p for s in range(len(samples)) for p in samples[s, n].tolist() if p >= u) / len(samples)


def test_entropies_and_the_deviance_are_those_of_loops(samples):
    parts, deviance = entropy_parts(samples), mean_deviance(samples)
    for n in range(N):
        total = naive_entropy([samples[:, n, c].mean().item() for c in range(C)])
        within = sum(naive_entropy(samples[s, n].tolist()) for s in range(S)) / S
        found = [value[n].item() for value in parts]
        assert found == pytest.approx([total, within, total - within], abs=1e-12)
        assert deviance[n].item() == pytest.approx(
            sum(-2 * p * math.log(p) for s in range(S) for p in samples[s, n].tolist()) / S, rel=1e-12
        )
    assert (parts.epistemic > 0).all()


def test_draws_that_agree_have_no_epistemic_entropy_and_sure_ones_that_differ_no_other():
    alike = torch.rand(1, 4, C).softmax(dim=-1).expand(6, -1, -1)
    torch.testing.assert_close(entropy_parts(alike).epistemic, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    differ = torch.eye(C)[:, None]
    total, aleatoric, epistemic = entropy_parts(differ)
    assert aleatoric.item() == 0 and total.item() == epistemic.item() == pytest.approx(math.log(C))


@pytest.mark.parametrize("level", [0.05, 0.5, 0.8, 0.95, 0.999999])
def test_the_threshold_is_the_largest_that_reaches_the_level(samples, level):
    found = deviance_threshold(samples, level)
    for n in range(N):
        values = sorted(samples[:, n].flatten().tolist(), reverse=True)
        assert found[n].item() == next(u for u in values if mass_above(samples, n, u) >= level)
        assert mass_above(samples, n, math.nextafter(found[n].item(), 2)) < level


def test_the_threshold_of_a_single_draw_is_that_of_hand():
    probs = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]])
    found = [deviance_threshold(probs, level).item() for level in (0.4, 0.6, 0.9, 0.97)]
    assert found == pytest.approx([0.5, 0.3, 0.15, 0.05], rel=1e-6)


def test_a_mass_of_exactly_the_level_reaches_it():
    probs = torch.tensor([[[0.5, 0.3, 0.2]]], dtype=torch.float64)
    assert [deviance_threshold(probs, level).item() for level in (0.5, 0.8)] == [0.5, 0.3]


@pytest.mark.parametrize("level", [0.05, 0.5, 0.8, 0.95])
def test_a_credible_set_is_the_smallest_that_holds_the_level(samples, level):
    probs = samples.mean(dim=0)
    sets = credible_sets(probs, level)
    for row, chosen in zip(probs.tolist(), sets.tolist(), strict=True):
        expected, mass = set(), 0.0
        for c in sorted(range(C), key=lambda c: -row[c]):
            if mass >= level:
                break
            expected.add(c)
            mass += row[c]
        assert {c for c in range(C) if chosen[c]} == expected


def test_a_set_that_holds_exactly_the_level_is_enough():
    probs = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    assert credible_sets(probs, 0.8).tolist() == [[True, True, False]]


def test_the_report_is_what_its_parts_say(samples):
    labels, mode = torch.randint(C, (N,)), torch.randn(N, C).softmax(dim=-1)
    uncertain = torch.randn(3, 11, C).softmax(dim=-1)
    report = uncertainty_report(samples, labels, mode, uncertain, levels=(0.5, 0.9))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["posterior_mean"] == classification_metrics(samples.mean(dim=0), labels)
    assert report["map"] == classification_metrics(mode.double(), labels)
    assert report["mean_deviance"] == pytest.approx(mean_deviance(samples).mean().item())
    for name, value in entropy_parts(samples)._asdict().items():
        assert report["entropy"][name] == pytest.approx(value.mean().item())
    for entry, level in zip(report["credible_sets"], (0.5, 0.9), strict=True):
        sets, u = credible_sets(samples.mean(dim=0), level), deviance_threshold(samples, level)
        covered = [sets[n, labels[n]].item() for n in range(N)]
        of_label = [[samples[s, n, labels[n]].item() for s in range(S)] for n in range(N)]
        within = [sum(p for p in row if p >= u[n]) / sum(row) for n, row in enumerate(of_label)]
        assert entry["level"] == level and entry["coverage"] == pytest.approx(sum(covered) / N)
        assert entry["size"] == pytest.approx(sets.sum().item() / N)
        assert entry["deviance_coverage"] == pytest.approx(sum(within) / N)
    ours, theirs = entropy_parts(samples), entropy_parts(uncertain)
    expected = {
        "mean_deviance": auroc(ours.aleatoric, theirs.aleatoric),
        "entropy": auroc(ours.total, theirs.total),
        "epistemic": auroc(ours.epistemic, theirs.epistemic),
    }
    assert report["auroc"] == expected
    assert "auroc" not in uncertainty_report(samples, labels, mode)


def test_labels_drawn_from_the_draws_are_covered_as_often_as_the_level_says():
    samples = (torch.randn(20, 2_000, C) * 1.5 + torch.randn(2_000, C)).softmax(dim=-1)
    labels = torch.multinomial(samples.mean(dim=0), 1)[:, 0]
    report = uncertainty_report(samples, labels, samples.mean(dim=0))
    for entry in report["credible_sets"]:
        assert entry["coverage"] > entry["level"] - 0.03
    own = torch.stack([torch.multinomial(draw, 1)[:, 0] for draw in samples])  # each draw's own label
    for level in (0.8, 0.95):
        picked = samples.gather(2, own[..., None]).squeeze(2)
        assert (picked >= deviance_threshold(samples, level)).double().mean().item() == pytest.approx(level, abs=0.02)


@pytest.mark.parametrize("width", [1.0, 4.0, 40.0])
def test_a_calibrated_posterior_has_the_coverage_of_its_level(width):
    """The truth and the draws are of one law, a Dirichlet distribution: narrow for a large ``width``, wide for 1."""
    torch.manual_seed(0)
    law = torch.distributions.Dirichlet(width * torch.distributions.Dirichlet(torch.ones(5)).sample((4_000,)) + 0.02)
    samples, truth = law.sample((40,)), law.sample()
    labels = torch.multinomial(truth, 1)[:, 0]
    samples = samples / samples.sum(dim=-1, keepdim=True)
    for entry in uncertainty_report(samples, labels, samples.mean(dim=0))["credible_sets"]:
        assert entry["level"] - 0.015 < entry["deviance_coverage"] < entry["level"] + 0.03


def test_float32_is_computed_in_float64(samples):
    labels, mode = torch.randint(C, (N,)), samples[0].float()
    found = uncertainty_report(samples.float(), labels, mode)
    expected = uncertainty_report(samples.float().double(), labels, mode.double())
    assert found["entropy"] == expected["entropy"] and found["map"]["nll"] == expected["map"]["nll"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"samples": torch.ones(2, 3) / 3}, r"samples must have the shape \[any, any, any\], and it has \[2, 3\]"),
        ({"samples": torch.ones(0, 2, 3)}, r"samples hold nothing: their shape is \[0, 2, 3\]"),
        ({"samples": torch.ones(4, 2, 3)}, "samples must sum to one over the classes, and one row sums to 3"),
        ({"samples": torch.tensor([1.5, -0.5, 0]).expand(4, 2, 3)}, "samples must be at least 0 .* -0.5"),
        ({"samples": torch.full((4, 2, 3), math.nan)}, "samples must be at least 0 everywhere, .* nan"),
        ({"labels": torch.tensor([0, 3])}, r"labels must be class indices in 0 to 2, and they are \[0, 3\]"),
        ({"labels": torch.tensor([0, -1])}, r"labels must be class indices in 0 to 2, and they are \[-1, 0\]"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels must be class indices"),
        ({"labels": torch.tensor([0])}, r"labels must have the shape \[2\], and it has \[1\]"),
        ({"map_probs": torch.ones(2, 4) / 4}, r"map_probs must have the shape \[2, 3\], and it has \[2, 4\]"),
        ({"map_probs": torch.ones(2, 3)}, "map_probs must sum to one"),
        ({"ood_samples": torch.ones(1, 1, 2) / 2}, r"ood_samples must have the shape \[any, any, 3\]"),
        ({"ood_samples": torch.ones(1, 1, 3)}, "samples must sum to one"),
        ({"levels": (0.5, 0.0)}, "a level must be between 0 and 1, and it is 0"),
        ({"levels": (1.0,)}, "a level must be between 0 and 1, and it is 1"),
        ({"levels": (math.nan,)}, "a level must be between 0 and 1, and it is nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(changed, words):
    even = torch.ones(4, 2, 3) / 3
    with pytest.raises(UserError, match=words):
        uncertainty_report(**{"samples": even, "labels": torch.tensor([0, 2]), "map_probs": even[0]} | changed)
