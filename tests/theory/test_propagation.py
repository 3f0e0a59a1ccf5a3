"""Variances, entropies and rules of combination against loops, numpy, scikit-learn and exact linear algebra."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.linear_model import LinearRegression

from hf_bkd import UserError
from hf_bkd.theory.propagation import (
    average_responses,
    inter_student_variance,
    intra_student_entropy,
    inverse_variance_combine,
    leverage,
    ols_student_variance,
    ols_students,
    oracle_combine,
    variance_components,
)

UNKNOWN = "variance of one response is unknown, and responses holds k = 1: draw at least 2, or pass variance"
ONE = torch.ones(1)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_the_variance_over_students_is_unbiased():
    predictions = normal(5, 7, 3).float()
    expected = np.var(predictions.double().numpy(), axis=0, ddof=1)
    np.testing.assert_allclose(inter_student_variance(predictions), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="at least 2 of them, and predictions holds 1"):
        inter_student_variance(predictions[:1])


def test_entropy_is_split_by_what_each_student_got_right():
    probs, labels = (3 * normal(4, 30, 3)).softmax(dim=-1), torch.randint(3, (30,))
    groups = {True: [], False: []}
    for student in probs.numpy():
        for row, label in zip(student, labels.tolist(), strict=True):
            groups[row.argmax() == label].append(entropy(row))
    actual = intra_student_entropy(probs, labels)
    expected = [np.mean(groups[True] + groups[False]), np.mean(groups[True]), np.mean(groups[False])]
    np.testing.assert_allclose(actual[:3], expected, rtol=1e-12)
    assert actual.accuracy == pytest.approx(len(groups[True]) / 120)


def test_there_is_no_entropy_of_no_predictions():
    sure = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert intra_student_entropy(sure, torch.tensor([0, 1])) == (0, 0, None, 1)
    assert intra_student_entropy(sure, torch.tensor([1, 0])) == (0, None, 0, 0)


def test_the_variance_of_an_average_is_what_averages_vary_by():
    responses = 3 * normal(5, 200_000)
    mean, variance = average_responses(responses)
    np.testing.assert_allclose(mean, responses.numpy().mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(variance, responses.numpy().var(axis=0, ddof=1) / 5, rtol=1e-12)
    assert variance.mean().item() == pytest.approx(mean.var().item(), rel=0.02)
    assert average_responses(responses, 9.0).variance.tolist() == [9 / 5] * 200_000


def test_one_response_has_a_variance_only_if_it_is_known():
    assert average_responses(torch.tensor([[2.0, 3.0]]), 0.5) == (
        pytest.approx(torch.tensor([2.0, 3.0])),
        pytest.approx(torch.tensor([0.5, 0.5])),
    )
    with pytest.raises(ValueError, match=UNKNOWN):
        average_responses(torch.ones(1, 2))


@pytest.mark.parametrize("listed", [True, False])
def test_weights_are_those_of_generalized_least_squares(listed):
    means, variances = normal(3, 4), normal(3, 4).exp()
    actual = inverse_variance_combine(*((list(means), list(variances)) if listed else (means, variances)))
    for i in range(4):
        precision = np.linalg.inv(np.diag(variances[:, i].numpy()))
        covariance = 1 / (np.ones(3) @ precision @ np.ones(3))
        assert actual.variance[i].item() == pytest.approx(covariance, rel=1e-12)
        assert actual.mean[i].item() == pytest.approx(covariance * (np.ones(3) @ precision @ means[:, i].numpy()))
    scalars = inverse_variance_combine(means, [0.5, 1.0, 2.0])
    np.testing.assert_allclose(scalars.mean, (4 * means[0] + 2 * means[1] + means[2]) / 7, rtol=1e-12)
    np.testing.assert_allclose(scalars.variance, [2 / 7] * 4, rtol=1e-12)


def test_independent_estimates_vary_by_what_is_promised_and_no_other_weights_do_better():
    variances = torch.tensor([0.5, 2.0])
    estimates = normal(2, 200_000) * variances.sqrt()[:, None]
    combined = inverse_variance_combine(estimates, variances)
    assert combined.mean.var().item() == pytest.approx(combined.variance[0].item(), rel=0.02)
    others = [(w * estimates[0] + (1 - w) * estimates[1]).var() for w in torch.linspace(0, 1, 21)]
    assert combined.mean.var() <= min(others)


def test_tiny_variances_do_not_overflow():
    combined = inverse_variance_combine([torch.tensor(1.0), torch.tensor(3.0)], [1e-310, 1e-310])
    assert combined.mean.item() == 2 and combined.variance.item() == pytest.approx(5e-311, rel=1e-6)


def test_the_oracle_is_that_of_the_released_code():
    responses, truth, noise = normal(5, 8), normal(8), 0.5
    actual = oracle_combine(responses, truth, noise)
    for i in range(8):
        labels = responses[:, i].tolist()
        average = sum(labels) / 5
        spread = sum((label - average) ** 2 for label in labels) / 5
        share = (1 / spread) / (1 / spread + 1 / noise)
        assert actual[i].item() == pytest.approx(share * average + (1 - share) * truth[i].item(), rel=1e-12)
    assert torch.equal(oracle_combine(responses[:1], truth, noise), responses[0])


def test_leverage_is_the_diagonal_of_the_hat_matrix():
    design, x = normal(20, 4), normal(6, 4)
    expected = [row @ np.linalg.inv(design.T.numpy() @ design.numpy()) @ row for row in x.numpy()]
    np.testing.assert_allclose(leverage(design, x), expected, rtol=1e-10)
    assert leverage(design, design).sum().item() == pytest.approx(4)


def test_students_fitted_at_once_are_those_fitted_alone():
    inputs, responses = normal(20, 3), normal(5, 20)
    actual = ols_students(torch.cat([torch.ones(20, 1, dtype=torch.float64), inputs], dim=1), responses)
    for coefficients, response in zip(actual, responses, strict=True):
        alone = LinearRegression().fit(inputs.numpy(), response.numpy())
        np.testing.assert_allclose(coefficients, [alone.intercept_, *alone.coef_], rtol=1e-10)


def test_the_variance_of_least_squares_is_that_of_its_linear_map():
    design, x = normal(20, 4), normal(6, 4)
    maps = ols_students(design, torch.eye(20)).T.numpy()  # column i: what a label of one at i adds
    expected = 0.5 / 3 * np.square(x.numpy() @ maps).sum(axis=1)
    np.testing.assert_allclose(ols_student_variance(design, x, 0.5, 3), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intra_student_entropy(torch.full((1, 2, 2), 0.6), torch.zeros(2)), "probs must sum to one .* 1.2"),
        (lambda: intra_student_entropy(torch.ones(2, 1), torch.zeros(2)), r"probs .* \[any, any, any\].* \[2, 1\]"),
        (lambda: intra_student_entropy(torch.ones(1, 2, 1), torch.zeros(3)), r"labels must have the shape \[2\].*3"),
        (lambda: average_responses(torch.ones(0, 2)), "responses must be a whole number of at least 1, and it is 0"),
        (lambda: average_responses(torch.ones(2, 2), 0.0), "variance must be above 0 and finite, and it is 0"),
        (lambda: inverse_variance_combine([], []), "must be as many, and they are 0 and 0"),
        (lambda: inverse_variance_combine([ONE, ONE], [1.0]), "must be as many, and they are 2 and 1"),
        (lambda: inverse_variance_combine([ONE, ONE], [1.0, None]), r"variances\[1\] is None"),
        (lambda: inverse_variance_combine([ONE, ONE], [-1.0, 1.0]), r"variances\[0\] must be above 0 .* it is -1"),
        (lambda: inverse_variance_combine([ONE, ONE], [1.0, 0.0]), r"variances\[1\] must be above 0 .* it is 0"),
        (lambda: inverse_variance_combine([ONE, ONE], [1.0, math.inf]), r"variances\[1\] must .* it is inf"),
        (lambda: inverse_variance_combine([ONE, ONE], torch.tensor([1.0, math.nan])), r"variances\[1\] .* it is nan"),
        (lambda: inverse_variance_combine([ONE, torch.ones(2)], [1, 1]), r"means\[1\] .* \[1\], and it has \[2\]"),
        (
            lambda: inverse_variance_combine([ONE], [torch.ones(3)]),
            r"variances\[0\] must be one number .* \[3\].*\[1\]",
        ),
        (lambda: oracle_combine(torch.ones(2, 3), torch.ones(3), 0), "noise_variance must be above 0 .* it is 0"),
        (lambda: oracle_combine(torch.ones(2, 3), torch.ones(2), 1), r"teacher_mean .* \[3\], and it has \[2\]"),
        (lambda: oracle_combine(torch.ones(0, 3), torch.ones(3), 1), "responses must be .* at least 1, and it is 0"),
        (lambda: leverage(torch.ones(5, 2), torch.ones(1, 2)), "full column rank 2, and its rank is 1"),
        (lambda: leverage(torch.eye(2), torch.ones(1, 3)), r"x must have the shape \[any, 2\], and it has \[1, 3\]"),
        (lambda: ols_students(torch.eye(2), torch.ones(2)), r"responses must have the shape \[any, 2\]"),
        (lambda: ols_student_variance(torch.eye(2), torch.eye(2), -1), "noise_variance must be at least 0 .* is -1"),
        (lambda: ols_student_variance(torch.eye(2), torch.eye(2), 1, 0), "k must be a whole number .* it is 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_variance_components_by_hand():
    responses = torch.tensor([[1.0], [3.0], [6.0], [8.0], [10.0]])
    between, within = variance_components(responses, torch.tensor([4, 4, 7, 7, 7]))
    assert within.item() == pytest.approx((2 + 8) / 3)  # sums of squares within, 2 and 8, over k - S = 3
    of_draws = 2 * (2 - 5.6) ** 2 + 3 * (8 - 5.6) ** 2
    assert between.item() == pytest.approx((of_draws / 1 - 10 / 3) / (5 - (4 + 9) / 5))


def test_variance_components_are_unbiased_and_so_is_the_variance_of_the_mean():
    draws = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3])
    shift = 2 * normal(4, 40_000)
    responses = shift[draws] + 3 * normal(8, 40_000)
    parts = variance_components(responses, draws)
    assert parts.between.mean().item() == pytest.approx(4, rel=0.02)
    assert parts.within.mean().item() == pytest.approx(9, rel=0.02)
    assert parts.total.mean().item() == pytest.approx(13, rel=0.02)
    mean, variance = average_responses(responses, draws=draws)
    assert mean.var().item() == pytest.approx(4 * (1 + 4 + 9 + 4) / 64 + 9 / 8, rel=0.02)
    assert variance.mean().item() == pytest.approx(mean.var().item(), rel=0.02)
    assert average_responses(responses).variance.mean() < 0.8 * variance.mean()  # had they been independent


def test_of_equally_many_responses_the_variance_of_the_mean_is_that_between_the_draws_means():
    responses = normal(6, 7)
    expected = responses.reshape(3, 2, 7).mean(dim=1).var(dim=0) / 3
    actual = average_responses(responses, draws=torch.tensor([0, 0, 1, 1, 2, 2])).variance
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    for own in (torch.zeros(6, dtype=torch.int64), torch.arange(6)):  # one draw, or one of each response's own
        assert torch.equal(average_responses(responses, draws=own).variance, average_responses(responses).variance)
    for own in (torch.zeros(6, dtype=torch.int64), torch.arange(6)):
        with pytest.raises(UserError, match="don't tell the two parts of their variance apart"):
            variance_components(responses, own)
