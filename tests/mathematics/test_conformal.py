"""Conformal sets: scores and ranks by hand, and their coverage over many splits."""

import pytest
import torch

from hf_bkd import UserError
from hf_bkd.conformal import conformal_report, conformal_sets, set_quality

LEVEL = 0.9


def overconfident(number: int, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities that are three times as sure as they may be, and labels by those that are not."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, classes, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)
    return (3 * logits).softmax(dim=-1), labels


def test_the_threshold_is_the_score_of_its_rank():
    """Of 9 scores and a level of 0.5 it is the fifth: ceil(10 * 0.5)."""
    own = torch.tensor([0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5])
    calibration = torch.stack([own, 1 - own], dim=1)
    probs = torch.tensor([[0.7, 0.3], [0.699, 0.301], [0.2, 0.8]])
    sets = conformal_sets(calibration, torch.zeros(9, dtype=torch.long), probs, 0.5)
    assert sets.tolist() == [[True, False], [False, False], [False, True]]


def test_aps_adds_up_the_likelier_classes():
    """Both kinds of examples have the label second; of one calibrating example per level, u decides within p."""
    calibration = torch.tensor([[0.6, 0.3, 0.1]]).expand(999, 3)
    sets = conformal_sets(calibration, torch.ones(999, dtype=torch.long), calibration, 0.5, "aps")
    assert sets[:, 0].all()  # its scores are at most 0.6, and the median of theirs is 0.75
    assert not sets[:, 2].any()
    assert sets[:, 1].float().mean().item() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_hold_the_label_as_often_as_they_say(method):
    coverages = []
    for seed in range(20):
        probs, labels = overconfident(4000, seed=seed)
        sets = conformal_sets(probs[:2000], labels[:2000], probs[2000:], LEVEL, method, seed)
        coverages.append(set_quality(sets, labels[2000:]).coverage)
    assert sum(coverages) / 20 == pytest.approx(LEVEL, abs=0.01)  # of one its standard deviation is 0.009


def test_credible_sets_of_an_overconfident_network_do_not():
    report = conformal_report(*overconfident(4000), LEVEL)
    assert report["credible"]["coverage"] < 0.85
    for method in ("lac", "aps"):
        assert report[method]["coverage"] == pytest.approx(LEVEL, abs=0.01)
        assert report[method]["size"] > report["credible"]["size"]


def test_the_rank_of_a_product_that_rounding_leaves_above_a_whole_number():
    """(99 + 1) * 0.9 may be 90.00000000000001, and the rank is 90."""
    scores = torch.arange(1, 100) / 100
    calibration = torch.stack([1 - scores, scores], dim=1).double()
    at = torch.tensor([[0.0995, 0.9005], [0.1005, 0.8995]], dtype=torch.float64)
    sets = conformal_sets(calibration, torch.zeros(99, dtype=torch.long), at, 0.9)
    assert sets[:, 0].tolist() == [False, True]


def test_what_can_not_be_calibrated_is_refused():
    probs, labels = overconfident(8)
    with pytest.raises(UserError, match="8 examples can't calibrate sets of level 0.9: pass at least 9"):
        conformal_sets(probs, labels, probs, LEVEL)
    with pytest.raises(UserError, match="between 0 and 1"):
        conformal_sets(probs, labels, probs, 1.0)
    with pytest.raises(UserError, match="method is 'raps'"):
        conformal_sets(probs, labels, probs, 0.5, "raps")
    with pytest.raises(UserError, match="class indices"):
        conformal_sets(probs, labels + 5, probs, 0.5)
