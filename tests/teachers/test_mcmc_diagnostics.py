"""R-hat and effective sample sizes against arviz, and what they say of chains whose answer is known."""

import pytest
import torch
from torch import Tensor

from hf_bkd import UserError
from hf_bkd.teachers.mcmc_diagnostics import effective_sample_size, rhat, summarize


def autoregressive(chains: int, draws: int, correlation: float, parameters: int = 5) -> Tensor:
    """x_t = rho x_(t-1) + sqrt(1 - rho^2) e_t, standard normal at each t: [K, S, P]."""
    noise = torch.randn(chains, draws, parameters, dtype=torch.float64)
    values = [noise[:, 0]]
    for t in range(1, draws):
        values.append(correlation * values[-1] + (1 - correlation**2) ** 0.5 * noise[:, t])
    return torch.stack(values, dim=1)


@pytest.mark.parametrize(
    ("chains", "draws", "correlation", "apart"),
    [(4, 500, 0, 0), (4, 301, 0.5, 0), (4, 300, 0.95, 0), (2, 100, -0.5, 0), (4, 200, 0.5, 1), (3, 400, 0.999, 0)],
)
def test_both_are_arvizs(chains, draws, correlation, apart):
    arviz = pytest.importorskip("arviz")
    values = autoregressive(chains, draws, correlation, 2) + apart * torch.arange(chains)[:, None, None]
    samples = torch.cat([values, values.round(decimals=1), values.exp()], dim=2)  # plain, with ties, skewed
    for j in range(samples.shape[2]):
        one = samples[:, :, j].numpy()
        assert effective_sample_size(samples)[j].item() == pytest.approx(arviz.ess(one, method="bulk"), rel=1e-9)
        assert rhat(samples)[j].item() == pytest.approx(arviz.rhat(one, method="rank"), rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_autoregressive_chains_are_worth_what_theory_says(correlation):
    samples = autoregressive(4, 2_000, correlation, parameters=20)
    expected = 8_000 * (1 - correlation) / (1 + correlation)
    assert effective_sample_size(samples).mean().item() == pytest.approx(expected, rel=0.05)
    assert rhat(samples).max() < 1.02


def test_chains_that_never_moved_are_worth_nothing():
    actual = summarize(torch.ones(4, 20, 3), torch.ones(3))
    numbers = {"ess min": None, "ess median": None, "rhat max": None, "apart": None}
    assert actual == numbers | {"mixed": False, "moved": 0.0}


def test_what_is_constant_in_each_chain_is_apart_and_what_is_constant_in_all_does_not_count():
    samples = torch.randn(4, 200, 3)
    others = torch.stack([torch.arange(4.0).repeat_interleave(200).view(4, 200), torch.ones(4, 200)], dim=-1)
    plain, none, stuck = (summarize(samples, torch.ones(3), each) for each in (None, others[..., 1:], others))
    assert none == plain and plain["mixed"] and plain["apart"] < 0.3
    assert stuck["apart"] == 1e6 and stuck["rhat max"] == plain["rhat max"] and not stuck["mixed"]


def test_random_walks_from_one_start_have_not_mixed_and_steady_chains_have():
    walks = torch.randn(4, 400, 30).cumsum(dim=1) / 400
    actual = summarize(walks, torch.ones(30))
    assert not actual["mixed"] and actual["rhat max"] > 2 and actual["ess min"] < 3 * 4
    actual = summarize(autoregressive(4, 400, 0.5, 30), torch.zeros(30) + 1e-9)
    assert actual["mixed"] and actual["rhat max"] < 1.05 and actual["ess min"] > 300


def test_different_widths_are_noticed_where_the_centers_agree():
    samples = torch.randn(4, 400, 1)
    samples[0] *= 5
    assert rhat(samples).item() > 1.1


def test_the_distance_is_the_root_mean_square_relative_to_the_start():
    samples, start = torch.randn(2, 10, 3), torch.tensor([3.0, 0.0, 4.0])
    squares = [(samples[c, s] - start).square().sum().item() for c in range(2) for s in range(10)]
    assert summarize(samples, start)["moved"] == pytest.approx((sum(squares) / 20) ** 0.5 / 5, rel=1e-6)


def test_of_many_parameters_the_first_and_the_last_are_looked_at():
    samples = torch.randn(4, 50, 2_500)
    for place in (0, -1):
        stuck = samples.clone()
        stuck[:, :, place] = torch.arange(50.0)
        assert not summarize(stuck, torch.ones(2_500))["mixed"]


@pytest.mark.parametrize("shape", [(4, 7, 2), (40, 2)])
def test_too_few_samples_and_other_shapes_are_refused(shape):
    for function in (rhat, effective_sample_size):
        with pytest.raises(UserError, match=r"\[chains, at least 8, parameters\], not \[" + str(shape[0])):
            function(torch.randn(shape))
