"""Noise of supervision: per-example gradients against a loop of autograd, and every formula against brute force."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_bkd.theory import (
    GaussianMixture,
    additive_draws,
    best_lambda,
    break_even_variance,
    dirichlet_draws,
    excess_risk_floor,
    gradient_noise,
    label_free_lambda,
    mixed_noise,
    one_hot_covariance,
    sample_labels,
    score_gram,
    squared_gradient_norms,
)

B, C, D = 5, 4, 3


class Named(nn.Module):
    """Takes a dict, has batch norm, a frozen layer and a buffer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.head = nn.Linear(6, C)
        self.head.bias.requires_grad_(False)

    def forward(self, inputs):
        return self.head(self.body(inputs["x"]) * inputs["scale"])


@pytest.fixture
def plain():
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, C)).double(), torch.randn(B, D, dtype=torch.float64)


@pytest.fixture
def named():
    network = Named().double()
    network({"x": torch.randn(20, D, dtype=torch.float64), "scale": torch.ones(20, 1, dtype=torch.float64)})
    inputs = {"x": torch.randn(B, D, dtype=torch.float64), "scale": torch.rand(B, 1, dtype=torch.float64)}
    return network.eval(), inputs


def gradients(network, inputs, scalar) -> torch.Tensor:
    """[B, p] of ``scalar(logits [C], number of the example)``, one example after the other."""
    trained = [p for p in network.parameters() if p.requires_grad]
    rows = []
    for i in range(B):
        one = {k: v[i : i + 1] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[i : i + 1]
        actual = torch.autograd.grad(scalar(network(one)[0], i), trained)
        rows.append(torch.cat([g.flatten() for g in actual]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["plain", "named"])
def test_squared_norms_are_those_of_one_example_after_the_other(kind, request):
    network, inputs = request.getfixturevalue(kind)
    targets = torch.stack([torch.randn(B, C).softmax(dim=-1), F.one_hot(torch.arange(B) % C, C), torch.randn(B, C)])
    expected = [
        gradients(network, inputs, lambda z, i: -(t[i] * z.log_softmax(0)).sum()).square().sum(dim=1)  # noqa: B023
        for t in targets.double()
    ]
    torch.testing.assert_close(squared_gradient_norms(network, inputs, targets), torch.stack(expected))
    torch.testing.assert_close(squared_gradient_norms(network, inputs, targets[0]), expected[0])
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("kind", ["plain", "named"])
def test_the_gram_matrix_is_of_the_scores_and_gives_every_targets_norm(kind, request):
    network, inputs = request.getfixturevalue(kind)
    scores = torch.stack([gradients(network, inputs, lambda z, i: z.log_softmax(0)[k]) for k in range(C)], 1)  # noqa: B023
    gram = score_gram(network, inputs)
    torch.testing.assert_close(gram, scores @ scores.mT)
    target = torch.randn(B, C, dtype=torch.float64)
    norms = torch.einsum("bk,bkl,bl->b", target, gram, target)
    torch.testing.assert_close(norms, squared_gradient_norms(network, inputs, target))


@pytest.fixture(scope="module")
def exact():
    """A linear student that is exact, many points, and J_k = d q_k / d theta [N, C, p] by hand."""
    task = GaussianMixture(torch.randn(C, D, generator=torch.Generator().manual_seed(1)), torch.eye(D))
    x, _ = task.sample(400, torch.Generator().manual_seed(2))
    student = nn.Linear(D, C).double()
    student.weight.data, student.bias.data = task.linear_student()
    probs = task.posterior(x)
    by_logit = torch.diag_embed(probs) - probs[:, :, None] * probs[:, None]
    extended = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    jacobian = torch.einsum("nkc,nd->nkcd", by_logit, extended).flatten(2)
    return student, x, probs, jacobian, score_gram(student, x)


def test_the_papers_formulas_follow_from_jacobians_by_hand(exact):
    _, _, probs, jacobian, gram = exact
    squares = jacobian.square().sum(dim=-1)
    one_hot = (squares / probs).sum(dim=1).mean().item()
    flat = 0.03 * torch.eye(C, dtype=torch.float64)
    additive = 0.03 * (squares / probs.square()).sum(dim=1).mean().item()
    assert gradient_noise(gram, one_hot_covariance(probs)) == pytest.approx(one_hot, rel=1e-9)
    assert gradient_noise(gram, flat) == pytest.approx(additive, rel=1e-9)
    assert break_even_variance(gram, probs) == pytest.approx(0.03 * one_hot / additive, rel=1e-9)


@pytest.mark.parametrize("kind", ["one-hot", "exact", "additive", "dirichlet", "mean", "mixed"])
def test_the_noise_is_what_drawn_targets_have(exact, kind):
    student, x, probs, _, gram = exact
    generator, draws = torch.Generator().manual_seed(3), 100
    many = probs.expand(draws, *probs.shape)
    one_hot = F.one_hot(sample_labels(many, generator), C).double()
    label_noise = gradient_noise(gram, one_hot_covariance(probs))

    def teacher(number: int) -> torch.Tensor:
        return dirichlet_draws(probs, 2.0, number * draws, generator).unflatten(0, (number, draws)).mean(dim=0)

    targets, expected = {
        "one-hot": lambda: (one_hot, label_noise),
        "exact": lambda: (many, 0.0),
        "additive": lambda: (
            additive_draws(probs, 0.03, draws, generator),
            gradient_noise(gram, 0.03 * torch.eye(C)),
        ),
        "dirichlet": lambda: (teacher(1), label_noise / 3),
        "mean": lambda: (teacher(5), label_noise / 15),
        "mixed": lambda: (0.4 * one_hot + 0.6 * teacher(1), mixed_noise(label_noise, label_noise / 3, 0.6)),
    }[kind]()
    actual = torch.einsum("sbk,bkl,sbl->sb", targets, gram, targets).mean().item()
    assert actual == pytest.approx(expected, rel=0.03, abs=1e-16)
    few = squared_gradient_norms(student, x, targets[:3])
    torch.testing.assert_close(
        few, torch.einsum("sbk,bkl,sbl->sb", targets[:3], gram, targets[:3]), atol=1e-12, rtol=1e-6
    )


def test_the_best_lambda_is_the_minimum_of_the_mixed_noise():
    label, teacher = 2.8, 1.1
    grid = torch.linspace(0, 1, 1_001).tolist()
    noises = [mixed_noise(label, teacher, each) for each in grid]
    best = best_lambda(label, teacher)
    assert best == pytest.approx(grid[noises.index(min(noises))], abs=1e-3)
    assert mixed_noise(label, teacher, best) == pytest.approx(label * teacher / (label + teacher))
    assert best_lambda(1.0, 0.0) == 1
    assert best_lambda(1.0, 1 / 6) == pytest.approx(6 / 7)  # Dirichlet(5 p)


@pytest.mark.parametrize("samples", [2, 10])
@pytest.mark.parametrize("concentration", [0.5, 5.0, 50.0])
def test_the_label_free_lambda_is_that_of_dirichlet_teachers(exact, concentration, samples):
    _, _, probs, _, _ = exact
    draws = dirichlet_draws(probs.repeat(10, 1), concentration, samples, torch.Generator().manual_seed(0))
    actual = label_free_lambda(draws.mean(dim=0), draws.var(dim=0), samples)
    assert actual == pytest.approx(1 / (1 + 1 / (concentration + 1) / samples), rel=0.01)


def test_the_floor_is_the_stationary_risk_of_a_quadratic():
    """dz = alpha (-h z + noise): E h z^2 / 2 with tr C = h for cross-entropy would be alpha C / 4."""
    alpha, h, noise = 0.01, 0.7, 2.0
    variance = alpha**2 * noise / (1 - (1 - alpha * h) ** 2)
    assert excess_risk_floor(noise, alpha) == pytest.approx(h * variance / 2, rel=0.01)
    assert excess_risk_floor(noise, alpha, batch_size=4, momentum=0.9) == pytest.approx(
        excess_risk_floor(noise, alpha) / 4 / 0.1
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_noise(torch.eye(3), torch.eye(3)), r"gram must have the shape \[any, any, 3\]"),
        (lambda: gradient_noise(torch.ones(2, 3, 3), torch.eye(2)), r"covariance must have the shape \[3, 3\]"),
        (
            lambda: gradient_noise(torch.ones(2, 3, 3), torch.ones(5, 3, 3)),
            r"covariance must have the shape \[2, 3, 3\]",
        ),
        (lambda: one_hot_covariance(torch.tensor([0.5, 0.6])), "probs must sum to one .* sums to 1.1"),
        (lambda: mixed_noise(-1.0, 1.0, 0.5), "label_noise must be at least 0 and finite, and it is -1"),
        (lambda: mixed_noise(1.0, 1.0, 1.5), "kd_lambda must be between 0 and 1, and it is 1.5"),
        (lambda: best_lambda(0.0, 1.0), "label_noise must be above 0 and finite, and it is 0"),
        (lambda: best_lambda(1.0, float("nan")), "teacher_noise must be at least 0 and finite, and it is nan"),
        (lambda: excess_risk_floor(1.0, 0.0), "learning_rate must be above 0 and finite, and it is 0"),
        (lambda: excess_risk_floor(1.0, 0.1, batch_size=0), "batch_size must be a whole number .* it is 0"),
        (lambda: excess_risk_floor(1.0, 0.1, momentum=1.0), "one_minus_momentum must be above 0 .* it is 0"),
        (lambda: label_free_lambda(torch.ones(1, 2) / 2, torch.zeros(1, 2), 1), "num_samples must be at least 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
