"""Posteriors with several modes, where teachers disagree: each mode's mass by quadrature, and what is said else."""

import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.distributions import Dirichlet

from hf_bkd import LangevinTeacher, UserError
from hf_bkd.targets import mixture_responsibilities
from hf_bkd.teachers.langevin_dynamics import _exchanged, _Points, langevin
from hf_bkd.teachers.langevin_energy import MixturePrior
from hf_bkd.teachers.mcmc_diagnostics import apart
from tests.teachers.test_langevin_chains import by_autograd, generators


class Logistic(nn.Module):
    """Logistic regression: the difference of the classes' weights is all that counts."""

    def __init__(self, features: int):
        super().__init__()
        self.head = nn.Linear(features, 2, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        return self.head(x)


OPPOSED = [[0.05, 0.95], [0.95, 0.05]]


def problem(*rows, strength, weight=0.5, probs=OPPOSED):
    """Rows of (features, labels); all have the same two teachers, the first one of some weight."""
    x = torch.tensor([features for features, labels in rows for _ in labels], dtype=torch.float)
    labels = torch.tensor([label for _, labels in rows for label in labels])
    options = {
        "targets": torch.tensor(probs).expand(len(x), 2, 2),
        "target_weights": torch.tensor([weight, 1 - weight]),
    }
    return x, labels, options | {"prior_strength": strength, "teacher_weight": strength, "prior_precision": 0.5}


def quadrature(x, labels, options):
    """Grid points of the difference of weights [G, D], and their probabilities [G], in float64."""
    size = 20_001 if x.shape[1] == 1 else 401
    axes = [torch.linspace(-14, 14, size, dtype=torch.float64)] * x.shape[1]
    grid = torch.cartesian_prod(*axes).reshape(-1, x.shape[1])
    energy = options["prior_precision"] / 4 * grid.square().sum(dim=1)
    s = options["prior_strength"]
    for features, label, p in zip(x.double(), labels, options["targets"].double(), strict=True):
        z = grid @ features
        q = torch.stack([torch.sigmoid(-z), torch.sigmoid(z)], dim=1).clamp_min(1e-300)
        q = q / q.sum(dim=1, keepdim=True)
        parts = [
            w.log() + Dirichlet(1 + s * one).log_prob(q) for w, one in zip(options["target_weights"], p, strict=True)
        ]
        energy += -q[:, label].log() - options["teacher_weight"] / s * torch.stack(parts).logsumexp(dim=0)
    return grid, torch.softmax(-energy, dim=0)


def sampled(x, labels, options, **chains):
    """The teacher, and its differences of weights [K, S, D]."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        teacher = LangevinTeacher.fit(Logistic(x.shape[1]), [(x, labels)], **options, **chains)
    difference = teacher.weights["head.weight"].diff(dim=1)[:, 0].double()
    teacher.said = [str(each.message) for each in said if "have not met" in str(each.message)]
    return teacher, difference.unflatten(0, (teacher.record["chains"], -1))


HALVES = [0, 1, 0, 1, 0, 1, 0, 1]
MINOR = problem(([1.0], HALVES), strength=6.0, weight=0.603)  # the minor mode has 3.5 % of the mass
HIGH = problem(([1.0], [0, 1] * 5), strength=20.0, weight=0.52)  # a barrier of 83 nats
UNEVEN = problem(([1.0], [0, 0, 1, 1]), strength=6.0, weight=0.55)
FOUR = problem(([1.0, 0.0], [0, 1, 0, 1]), ([0.0, 1.0], [0, 1, 0, 1]), ([0.7, 0.4], [0, 1]), strength=6.0, weight=0.52)
SLANTED = problem(([1.0, 0.3], [0, 1, 0, 1]), ([-0.4, 1.0], [1, 0]), strength=20.0, probs=[[0.1, 0.9], [0.7, 0.3]])
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "posterior",
    [
        pytest.param(MINOR, id="minor"),
        pytest.param(UNEVEN, id="uneven", marks=SLOW),
        pytest.param(HIGH, id="high", marks=SLOW),
        pytest.param(FOUR, id="four", marks=SLOW),
        pytest.param(SLANTED, id="slanted", marks=SLOW),
    ],
)
def test_each_mode_has_the_mass_that_quadrature_finds(posterior):
    lengths = {"steps": 900, "burn_in": 400, "thinning": 5} if posterior is MINOR else {}
    teacher, difference = sampled(*posterior, chains=40, **lengths)
    grid, probability = quadrature(*posterior)
    record = teacher.record
    assert record["rungs"] == 8 and min(record["exchanges"]) > 0.1 and record["rhat max"] < 1.2 and not teacher.said

    def quadrant(points):
        return (2 ** torch.arange(points.shape[-1]) * (points > 0)).sum(dim=-1)

    for mode in range(2 ** grid.shape[1]):
        mass = probability[quadrant(grid) == mode].sum().item()
        visits = (quadrant(difference) == mode).double().mean(dim=1)
        error = visits.std().item() / len(visits) ** 0.5
        assert error < 0.06 and visits.mean().item() == pytest.approx(mass, abs=4 * error + 0.002), (mode, mass)
    mean = torch.sigmoid(difference @ posterior[0][0].double()).mean(dim=1)
    expected = (probability * torch.sigmoid(grid @ posterior[0][0].double())).sum().item()
    assert mean.mean().item() == pytest.approx(expected, abs=4 * mean.std().item() / len(mean) ** 0.5)


def test_the_minor_mode_is_that_of_the_chains_that_missed_it():
    grid, probability = quadrature(*MINOR)
    assert probability[grid[:, 0] < 0].sum().item() == pytest.approx(0.035, abs=0.002)


def test_chains_that_cannot_cross_are_said_to_be_apart():
    teacher, difference = sampled(*HIGH, rungs=1, steps=400, burn_in=200, thinning=5)
    record = teacher.record
    assert record["apart"] > 1 and record["rhat max"] > 1.5 and not record["mixed"] and record["rungs"] == 1
    (said,) = teacher.said
    assert "have not met, but ended in different places (largest R-hat" in said and said.endswith("take more steps")
    ends = difference[:, -1, 0]
    assert (ends > 1).any() and (ends < -1).any()
    assert record["shares"] == pytest.approx([0.5, 0.5], abs=0.01)  # two chains of four followed each teacher


def test_chains_that_meet_need_no_rungs():
    agreed = problem(([1.0], HALVES), strength=6.0, probs=[[0.3, 0.7], [0.4, 0.6]])
    teacher, _ = sampled(*agreed, steps=800, burn_in=400, thinning=5)
    assert teacher.record["rungs"] == 1 and "exchanges" not in teacher.record and teacher.record["mixed"]
    assert not teacher.said and sum(teacher.record["shares"]) == pytest.approx(1)
    alone, _ = sampled(*agreed, chains=1, steps=200, burn_in=80, thinning=5)
    assert alone.record["rungs"] == 8 and alone.record["apart"] is None  # one chain has nothing to meet


def test_the_record_of_a_ladder_that_hardly_ran_is_json():
    record = sampled(*MINOR, rungs=3, steps=8, burn_in=0, thinning=1)[0].record
    assert len(record["exchanges"]) == 2 and json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize(
    ("probs", "weights"), [([[0.2, 0.8]], [1.0]), ([[0.2, 0.8]] * 2, [0.5, 0.5]), (OPPOSED, [1.0, 0.0])]
)
def test_teachers_whose_shares_never_change_are_one_and_need_no_rungs(probs, weights):
    x, labels, options = problem(([1.0], HALVES), strength=6.0)
    targets = torch.tensor(probs).expand(len(x), len(probs), 2)
    options |= {"targets": targets, "target_weights": torch.tensor(weights)}
    record = sampled(x, labels, options, steps=600, burn_in=200, thinning=5)[0].record
    assert record["rungs"] == 1 and record["mixed"] and record["shares"] == pytest.approx(weights)


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_a_student_that_is_not_finite_is_refused(parameters):
    x, labels, options = MINOR
    x = x.clone()
    x[0] = math.nan
    with pytest.raises(UserError, match="the student's loss on its training set is not finite"):
        LangevinTeacher.fit(Logistic(1), [(x, labels)], parameters=parameters, **options)


def softened_by_hand(log_q, prior, share):
    """-1 / (share s) log sum_m (w_m Dir_m)^share."""
    parts = [
        prior.target_weights[:, m].log()
        + Dirichlet(1 + prior.prior_strength * prior.targets[:, m]).log_prob(log_q.exp())
        for m in range(3)
    ]
    return -(share * torch.stack(parts)).logsumexp(dim=0) / share / prior.prior_strength


@pytest.mark.parametrize("share", [1.0, 0.4, 0.05])
def test_a_softened_prior_is_the_power_of_responsibilities(share):
    torch.manual_seed(0)
    probs, weights = torch.randn(4, 3, 5).mul(3).double().softmax(-1), torch.rand(4, 3).double()
    prior = MixturePrior(probs, weights / weights.sum(dim=1, keepdim=True), 7.0, 2.0, 1.0)
    soft, log_q = prior.softened(share), torch.randn(6, 4, 5).double().mul(2).log_softmax(-1)
    shares = [mixture_responsibilities(log_q, p.targets, p.target_weights, p.prior_strength) for p in (prior, soft)]
    torch.testing.assert_close(shares[1], shares[0].pow(share) / shares[0].pow(share).sum(dim=-1, keepdim=True))
    energies = torch.stack([soft.at(each, slice(None))[0] for each in log_q])
    expected = torch.stack([softened_by_hand(each, prior, share) for each in log_q])
    torch.testing.assert_close(energies - energies[0], expected - expected[0])


WELL = by_autograd(lambda theta: 2 * (theta[:, 0].square() - 1).square() + 0.8 * theta[:, 0])
WIDE = by_autograd(lambda theta: (theta[:, 0] - 0.3).square() / 3)
GRID = torch.linspace(-6, 6, 1_201, dtype=torch.float64)


def laws():
    return [torch.softmax(-potential(GRID[:, None])[0], dim=0) for potential in (WELL, WIDE)]


def ladder(theta):
    return tuple(
        map(torch.cat, zip(*(p(part) for p, part in zip((WELL, WIDE), theta.chunk(2), strict=True)), strict=True))
    )


def test_an_exchange_leaves_both_laws_as_they_are_and_is_accepted_as_often_as_they_say():
    count, (well, wide) = 8_000, laws()
    source = torch.Generator().manual_seed(1)
    drawn = torch.cat([GRID[torch.multinomial(law, count, True, generator=source)] for law in (well, wide)])[:, None]
    points, taken = _exchanged(ladder, _Points(drawn, *ladder(drawn)), 1.0, 2, 0, generators(2 * count))
    energies = [potential(GRID[:, None])[0] for potential in (WELL, WIDE)]
    gain = energies[0] - energies[1]
    expected = (well[:, None] * wide * (gain[:, None] - gain).exp().clamp_max(1)).sum().item()
    assert taken.shape == (1, count)
    assert taken.double().mean().item() == pytest.approx(expected, abs=4 * (expected / count) ** 0.5)
    torch.testing.assert_close(points.energy, ladder(points.theta)[0])
    torch.testing.assert_close(points.gradient, ladder(points.theta)[1])
    assert torch.equal(points.theta.sort(dim=0).values, drawn.sort(dim=0).values)  # nothing is lost
    for law, states in zip((well, wide), points.theta[:, 0].chunk(2), strict=True):
        for f in (GRID.sign(), GRID, GRID.square()):
            mean, scale = (law * f).sum().item(), f.var().sqrt().item()
            actual = f[((states + 6) * 100).round().long()].mean().item()
            assert actual == pytest.approx(mean, abs=4 * scale / count**0.5)


@pytest.mark.parametrize("leapfrogs", [1, 5])
def test_every_rung_of_a_ladder_has_its_own_law(leapfrogs):
    count, start = 400, torch.ones(800, 1, dtype=torch.float64)  # all in the minor mode
    options = {"steps": 400, "burn_in": 200, "thinning": 10, "metropolis": True, "leapfrogs": leapfrogs}
    chains = langevin(ladder, start, 0.1, generators=generators(2 * count), rungs=2, **options)
    assert chains.samples.shape == (count, 20, 1) and chains.exchanges.shape == (1,) and chains.acceptance.min() > 0.3
    for law, states in zip(laws(), (chains.samples.flatten(), chains.ends[count:, 0]), strict=True):
        share = (law * (GRID > 0)).sum().item()
        assert (states > 0).double().mean().item() == pytest.approx(
            share, abs=4 * (share * (1 - share) / count) ** 0.5
        )
    assert (laws()[0] * (GRID > 0)).sum().item() < 0.25
    torch.testing.assert_close(chains.energies, WELL(chains.samples.view(-1, 1))[0].view(count, 20))


def test_rungs_exchange_in_turns_each_with_both_neighbors():
    flat = by_autograd(lambda theta: theta[:, 0] * 0)
    theta = torch.arange(10.0)[:, None].double()  # five rungs of two chains
    even, odd = (_exchanged(flat, _Points(theta, *flat(theta)), 1.0, 5, turn, generators(10)) for turn in (0, 1))
    assert even[0].theta[:, 0].tolist() == [2, 3, 0, 1, 6, 7, 4, 5, 8, 9] and even[1].shape == (2, 2)
    assert odd[0].theta[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 8, 9, 6, 7] and odd[1].all()
    nothing = by_autograd(lambda theta: theta[:, 0] * math.nan)
    assert not _exchanged(nothing, _Points(theta, *nothing(theta)), 1.0, 5, 0, generators(10))[1].any()


def test_how_far_chains_are_apart_is_the_deviation_of_their_means_over_that_within():
    chains = torch.tensor([[[0.0, 5.0], [2.0, 5.0]], [[4.0, 5.0], [6.0, 5.0]]])  # means 1 and 5, variances 2
    assert apart(chains) == pytest.approx(8**0.5 / 2**0.5)
    assert math.isnan(apart(chains[:1])) and math.isnan(apart(chains[:, :, 1:])) and math.isnan(apart(chains[:, :1]))
    assert apart(torch.tensor([[[0.0], [0.0]], [[1.0], [1.0]]])) == math.inf


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rungs": 0}, "rungs must be a whole number of at least 1, and it is 0"),
        ({"rungs": 2, "sampler": "sgld"}, "rungs is 2, and sampler is 'sgld'"),
    ],
)
def test_rungs_that_make_no_sense_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        sampled(*MINOR, **changed)
