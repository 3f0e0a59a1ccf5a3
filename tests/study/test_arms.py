"""Arms: what can be declared, what can't, and which of them share teachers, labels and students."""

from dataclasses import replace

import pytest

from hf_bkd import UserError
from hf_bkd.study import (
    CONTROLS,
    ONE_HOT,
    Arm,
    Deterministic,
    Ensemble,
    ExactBayes,
    IVONVariational,
    Laplace,
    MCDropout,
    Several,
    Stored,
    Study,
    Variational,
    combined,
)

STORED = Arm("Model A", Stored())


def test_the_controls_that_a_bayesian_teacher_needs_beside_it():
    one_hot, smoothed, plain, tuned, scaled, ensemble = CONTROLS
    assert one_hot.teacher is smoothed.teacher is None and smoothed.label_smoothing > 0 == one_hot.label_smoothing
    assert plain.teacher == tuned.teacher == Deterministic() and len(tuned.temperatures) > 1
    assert scaled.teacher == Deterministic(scaled=True) and ensemble.teacher == Ensemble()


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (Laplace(), "laplace"),
        (Laplace(link="mc"), "laplace-link-mc"),
        (Laplace(prior_precision="2.5", structure="diag"), "laplace-structure-diag-prior-precision-2-5"),
        (Deterministic(scaled=True), "deterministic-scaled"),
        (MCDropout(drop_rate=0.3), "mc_dropout-drop-rate-0-3"),
        (IVONVariational(betas=(0.9, 0.9995)), "ivon-betas-0-9-0-9995"),
        (Ensemble(Laplace(link="mc"), members=2), "ensemble-of-laplace-link-mc-members-2"),
    ],
)
def test_a_specification_is_named_by_what_differs(spec, name):
    assert spec.name == name


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        (Arm("a", Laplace()), "laplace-T2"),
        (Arm("a", Deterministic(scaled=True)), "deterministic-scaled"),
        (Arm("a", Ensemble(), folds=3), "ensemble-3-folds-T2"),
        (Arm("a", Laplace(), num_views=4, storage="top_k"), "laplace-T2-4-views-top-k"),
        (Arm("a", Laplace(), "mlp-8", {"dropout": 0.1}), "mlp-8-dropout-0-1-laplace-T2"),
        (STORED, "model_a"),
        (combined((STORED, Arm("b", Laplace())))[0], "model_a+laplace-T2"),
    ],
)
def test_arms_share_labels_that_are_the_same(arm, name):
    assert arm.labels_name(2.0) == name


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Several(()), "several teachers have no members"),
        (lambda: Several((ONE_HOT,)), "'one-hot' is a member of several, and it has no single teacher"),
        (lambda: Arm("odd", Stored(), temperatures=(2.0,)), "'odd' has temperatures, and its teacher or its labels"),
        (lambda: Arm("odd", Several((STORED,)), temperatures=(2.0,)), "have one already"),
        (lambda: Arm("odd", Deterministic(scaled=True), temperatures=(2.0,)), "have one already"),
        (lambda: Arm("odd", Stored(), online=True), "is online, which needs a teacher that answers"),
        (lambda: Arm("odd", Ensemble(), folds=3, online=True), "is online, which needs"),
        (lambda: Arm("odd", teacher="oracle"), "arm 'odd' has the teacher 'oracle', .* must be one of deterministic"),
        (lambda: Laplace(link="logit"), "link is 'logit'; it must be one of mc, probit, bridge"),
        (lambda: Laplace(prior_precision="small"), "prior_precision is 'small'; it must be a number above 0"),
        (lambda: Variational(rank=-1), "rank must be a whole number of at least 0, and it is -1"),
        (lambda: MCDropout(drop_rate=1.0), "drop_rate must be between 0 and 1"),
        (lambda: Ensemble(members=0), "members must be a whole number of at least 1"),
        (lambda: IVONVariational(initial_std=0.0), "initial_std must be above 0"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_declared(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_old_forms_work_for_a_release():
    with pytest.warns(DeprecationWarning, match="now called a specification"):
        old = Arm("Laplace", teacher="laplace", how={"link": "mc"})
    assert old == Arm("Laplace", Laplace(link="mc")) == replace(old)
    with pytest.warns(DeprecationWarning):
        assert Arm("x", "variational", how={"posterior": "ivon", "lr": 0.5}).teacher == IVONVariational(lr=0.5)
        assert [Arm("x", kind).teacher for kind in ("none", "stored", "bayes")] == [None, Stored(), ExactBayes()]
    with pytest.warns(DeprecationWarning, match="argument views of Arm is now called num_views"):
        assert Arm("x", views=4).num_views == 4
    with pytest.warns(DeprecationWarning, match="argument views of Study"):
        assert Study("x", (), {}, views=4).num_views == 4
