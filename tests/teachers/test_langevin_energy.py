"""The energy of a student's weights against loops over examples, and its curvature against differences."""

import pytest
import torch
from torch.distributions import Dirichlet

from hf_bkd.models.heads import head_data
from hf_bkd.targets import entropy_weights, mixture_responsibilities
from hf_bkd.teachers.langevin_chains import ChainSettings, _in_minibatches, _whitened, sample_weights
from hf_bkd.teachers.langevin_energy import (
    CrossEntropy,
    HeadEnergy,
    MixturePrior,
    NetworkEnergy,
    WholeData,
    loss_terms,
)
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points
from tests.training.training_helpers import C, N, Plain, examples, new, resident, trained

SHORT = {"steps": 60, "burn_in": 20, "thinning": 5, "chains": 3}
A, B, S, T, DELTA = 0.7, 1.9, 4.0, 2.5, 0.3


def teachers_term(teachers: int, temperature: float = T) -> CrossEntropy | MixturePrior | None:
    """Of 30 examples in float64: of no teacher, one, or several under a mixture prior."""
    probs = (2 * torch.randn(30, teachers, 3, dtype=torch.float64)).softmax(dim=-1)
    weights = torch.randn(30, teachers, dtype=torch.float64).softmax(dim=-1)
    if teachers > 1:
        return MixturePrior(probs, weights, S, B, temperature)
    return CrossEntropy(probs[:, 0], B, temperature) if teachers else None


def problem(parameters: str, bias: bool = True, teachers: int = 1, temperature: float = T):
    """An energy of 30 examples in float64, its network, and x, labels and the teachers' term."""
    network = SmallNetwork(bias=bias).double().eval()
    x, labels = points(30)
    x, term = x.double(), teachers_term(teachers, temperature)
    return energy_of(parameters, network, x, labels, term), network, x, labels, term


def energy_of(parameters, network, x, labels, term):
    seen = head_data(network, in_batches(x, labels))
    seen = seen._replace(features=network.backbone(x).detach())
    data = seen if parameters == "head" else WholeData(x, seen.logits, labels)
    make = HeadEnergy if parameters == "head" else NetworkEnergy
    return make(network, data, loss_terms(data, A, term), DELTA)


def naive_energy(energy, network, x, labels, term, theta):
    """U of one vector of weights, example by example."""
    named = {name: value[0] for name, value in energy.named(theta[None]).items()}
    total = DELTA / 2 * sum(value.square().sum().item() for value in named.values())
    for i, z in enumerate(torch.func.functional_call(network, named, (x,))):
        total -= A * z.log_softmax(dim=0)[labels[i]].item()
        log_q = (z / term.temperature).log_softmax(dim=0) if term else None
        if isinstance(term, CrossEntropy):
            total -= B * sum(term.target[i, k].item() * log_q[k].item() for k in range(3))
        elif term:
            each = [Dirichlet(1 + S * p).log_prob(log_q.exp()) for p in term.targets[i]]
            total -= B / S * (term.target_weights[i].log() + torch.stack(each)).logsumexp(dim=0).item()
    return total


@pytest.mark.parametrize(("parameters", "bias"), [("head", True), ("head", False), ("all", True)])
@pytest.mark.parametrize("teachers", [0, 1, 3])
@pytest.mark.parametrize("temperature", [1.0, T])
def test_the_energy_is_the_sum_over_examples_and_its_gradient_that_of_differences(
    parameters, bias, teachers, temperature
):
    energy, *data = problem(parameters, bias, teachers, temperature)
    theta = energy.start() + torch.randn(2, len(energy.start()), dtype=torch.float64) / 3
    actual, gradient = energy(theta)
    for k in range(2):
        assert actual[k].item() == pytest.approx(naive_energy(energy, *data, theta[k]), rel=1e-6)
    direction = torch.randn_like(theta)
    above, below = (energy(theta + sign * 1e-5 * direction)[0] for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(dim=1), (above - below) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", ["head", "all"])
@pytest.mark.parametrize("temperature", [1.0, T])
def test_a_mixture_of_one_is_a_single_teacher_up_to_a_constant(parameters, temperature):
    single, network, x, labels, term = problem(parameters, temperature=temperature)
    prior = MixturePrior(term.target[:, None], torch.ones(30, 1), S, B, temperature)
    mixture = energy_of(parameters, network, x, labels, prior)
    theta = single.start() + torch.randn(5, len(single.start()), dtype=torch.float64)
    (energies, gradients), (mixed, its_gradients) = single(theta), mixture(theta)
    torch.testing.assert_close(mixed - mixed[0], energies - energies[0])
    torch.testing.assert_close(its_gradients, gradients)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_of_a_mixture_is_the_trainers(tmp_path, temperature):
    values, before = examples(), new(Plain)
    probs = torch.randn(N, 2, C).mul(4).softmax(dim=-1)
    weights, share = entropy_weights(probs), 0.7
    term = MixturePrior(probs, weights, S, share * temperature**2, temperature)
    data = WholeData(values["features"], before(values["features"]), values["labels"])
    energy = NetworkEnergy(before, data, loss_terms(data, 1 - share, term), DELTA)
    start = energy.start()
    gradient = (energy(start[None])[1][0] - DELTA * start) / N
    options = {"combine": "mixture", "teacher_weights": "entropy", "prior_strength": S, "kd_lambda": share}
    options |= {"student_temperature": temperature, "temperature_scale": "squared"}
    options |= {"max_steps": 1, "per_device_train_batch_size": N}
    del values["teacher_probs"]
    dataset = resident(values | {"teacher_probs__a": probs[:, 0], "teacher_probs__b": probs[:, 1]})
    after = trained(tmp_path, dataset=dataset, **options).model
    step = torch.cat([p.detach().flatten() for p in after.parameters()]) - start
    torch.testing.assert_close(step, -0.1 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_the_chains_start_at_the_networks_own_weights(parameters):
    energy, network, *_ = problem(parameters)
    own = dict(network.named_parameters())
    named = energy.named(energy.start())
    assert named.keys() == ({"head.weight", "head.bias"} if parameters == "head" else own.keys())
    for name, value in named.items():
        torch.testing.assert_close(value, own[name], check_dtype=False)


@pytest.mark.parametrize(("parameters", "teachers"), [("head", 1), ("all", 3)])
def test_minibatch_gradients_are_unbiased_and_each_chains_own(parameters, teachers):
    energy, *_ = problem(parameters, teachers=teachers)
    theta = energy.start().expand(2, -1)
    estimate = _in_minibatches(energy, energy.count, 4, [torch.Generator().manual_seed(i) for i in range(2)])
    drawn = [estimate(theta) for _ in range(200)]
    expected = energy(theta)
    for actual, exact in zip(zip(*drawn, strict=True), expected, strict=True):
        draws = torch.stack(actual)
        error = draws.std(dim=0) / len(draws) ** 0.5 + 1e-9
        assert ((draws.mean(dim=0) - exact) / error).abs().max() < 5
        assert not torch.equal(draws[0, 0], draws[0, 1])
    both = _in_minibatches(energy, energy.count, 4, [torch.Generator().manual_seed(i) for i in range(2)])(theta)
    alone = _in_minibatches(energy, energy.count, 4, [torch.Generator().manual_seed(1)])(theta[:1])
    torch.testing.assert_close([value[1:] for value in both], list(alone))
    one = energy(theta, torch.arange(30).expand(2, -1))  # all rows as a minibatch
    for actual, exact in zip(one, expected, strict=True):
        torch.testing.assert_close(actual, exact)


def hessian(energy, theta):
    """By differences of gradients, averaged over theta [K, P]."""
    steps = 1e-5 * torch.eye(theta.shape[1], dtype=theta.dtype)
    return torch.stack([((energy(theta + s)[1] - energy(theta - s)[1]) / 2e-5).mean(dim=0) for s in steps])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_the_curvature_is_the_energys_hessian_or_its_kronecker_approximation(bias, full, monkeypatch):
    monkeypatch.setattr("hf_bkd.teachers.langevin_energy.MOST_FULL_WEIGHTS", 1_000 if full else 1)
    energy, *_ = problem("head", bias)
    theta = energy.start() + torch.randn(2, len(energy.start()), dtype=torch.float64)
    size, expected = theta.shape[1], hessian(energy, theta)
    whitening = energy.curvature(theta)
    actual = whitening.power(torch.eye(size, dtype=torch.float64), 1.0)
    if not full:  # the mean of the classes' blocks, weighed by nothing, times the features' outer products
        q = [(energy.features @ theta.unflatten(1, (3, -1)).mT / t).softmax(dim=-1) for t in (1.0, T)]
        blocks = [torch.diag_embed(p) - p[..., :, None] * p[..., None, :] for p in q]
        classes = (A * blocks[0] + B / T**2 * blocks[1]).mean(dim=(0, 1))
        expected = torch.kron(classes, energy.features.T @ energy.features) + DELTA * torch.eye(size)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    vectors = torch.randn(5, size, dtype=torch.float64)
    torch.testing.assert_close(whitening.power(whitening.power(vectors, 0.5), -0.5), vectors)
    torch.testing.assert_close(
        whitening.power(whitening.power(vectors, -0.5), -0.5) @ expected, vectors, rtol=1e-3, atol=1e-3
    )
    # in whitened coordinates: the same energy, and the gradient of differences
    potential, phi = _whitened(energy, theta, whitening), torch.randn_like(theta)
    value, gradient = potential(phi)
    torch.testing.assert_close(value, energy(theta + whitening.power(phi, -0.5))[0])
    above, below = (potential(phi + sign * 1e-5)[0] for sign in (1, -1))
    torch.testing.assert_close(gradient.sum(dim=1), (above - below) / 2e-5, rtol=1e-5, atol=1e-6)


def test_the_curvature_of_a_mixture_bounds_its_hessian():
    energy, network, x, labels, term = problem("head", teachers=3)
    theta = energy.start()[None] + torch.randn(1, len(energy.start()), dtype=torch.float64)
    size = theta.shape[1]
    bound = energy.curvature(theta).power(torch.eye(size, dtype=torch.float64), 1.0)
    plain = energy_of("head", network, x, labels, CrossEntropy(term.targets[:, 0], B, T))
    torch.testing.assert_close(bound, plain.curvature(theta).power(torch.eye(size, dtype=torch.float64), 1.0))
    below = torch.zeros_like(bound)
    log_q = (energy.features @ theta.unflatten(1, (3, -1)).mT / T).log_softmax(dim=-1)
    responsibilities = mixture_responsibilities(log_q, term.targets, term.target_weights, S)[0]
    for r, p, feature in zip(responsibilities, term.targets, energy.features, strict=True):
        away = p - r @ p
        below += B / T**2 * S * torch.kron(away.T @ (r[:, None] * away), torch.outer(feature, feature))
    torch.testing.assert_close(bound - below, hessian(energy, theta), rtol=1e-4, atol=1e-4)


def test_the_width_is_that_of_the_samples_by_the_curvature_at_the_ends():
    energy, *_ = problem("head")
    samples, record = sample_weights(energy, ChainSettings(**SHORT))
    size = samples.shape[2]
    hessian = energy.curvature(samples[:, -1]).power(torch.eye(size, dtype=torch.float64), 1.0)
    away = (samples - samples.mean(dim=(0, 1))).flatten(0, 1)
    expected = sum((d @ hessian @ d).item() for d in away) / len(away) / size
    assert record["width"] == pytest.approx(expected**0.5)
