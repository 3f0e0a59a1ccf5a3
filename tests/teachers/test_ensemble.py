import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hf_bkd.teachers import (
    ClassMap,
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    MultiTeacher,
    VariationalTeacher,
    make_variational,
)
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points

X = points(6)[0]


def networks(count: int, classes: int = 3) -> list[nn.Module]:
    return [SmallNetwork(classes=classes, scale=3).eval() for _ in range(count)]


def softmax(network: nn.Module, temperature: float = 1.0) -> np.ndarray:
    logits = network(X).detach().double().numpy() / temperature
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def laplace(link: str = "mc", **settings) -> LaplaceTeacher:
    fitted = LaplaceTeacher.fit(networks(1)[0], in_batches(*points(40)), prior_precision=2.0, link="mc")
    return LaplaceTeacher(fitted.network, fitted.curvature, 2.0, link, **settings)


def test_deterministic_members_give_their_mean_and_the_variance_between_them():
    members = networks(4)
    expected = np.stack([softmax(network) for network in members])
    actual = EnsembleTeacher([DeterministicTeacher(network) for network in members]).predict(X, return_samples=True)
    np.testing.assert_allclose(actual.mean, expected.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(actual.variance, expected.var(axis=0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(actual.samples, expected, rtol=1e-5)


@pytest.mark.parametrize("tempering", ["per_sample", "post_average"])
def test_the_ensembles_temperature_comes_on_top_of_its_members(tempering):
    first, second = networks(2)
    members = [DeterministicTeacher(first, temperature=2.0), DeterministicTeacher(second, 0.5, tempering="per_sample")]
    actual = EnsembleTeacher(members, temperature=3.0, tempering=tempering).predict(X).mean
    own = np.stack([softmax(first, 2.0), softmax(second, 0.5)])
    powers = (own if tempering == "per_sample" else own.mean(axis=0)) ** (1 / 3)
    powers /= powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(actual, powers.mean(axis=0) if tempering == "per_sample" else powers, rtol=1e-5)


def test_members_of_different_kinds_count_equally():
    kinds = [
        DeterministicTeacher(networks(1)[0]),
        laplace(),
        laplace("probit"),
        laplace(temperature=2.0),  # tempered after averaging: a single distribution
        laplace(temperature=2.0, tempering="per_sample"),
        VariationalTeacher(make_variational(networks(1)[0], initial_std=0.3), temperature=1.5),
        VariationalTeacher(make_variational(networks(1)[0], "full", initial_std=0.3, rank=1)),
        laplace("bridge"),
        MCDropoutTeacher(networks(1)[0]),
    ]
    generator, same = (torch.Generator().manual_seed(2) for _ in range(2))
    actual = EnsembleTeacher(kinds).predict(X, 7, generator, return_samples=True)
    alone = [member.predict(X, 7, same, return_samples=True) for member in kinds]
    assert actual.samples.shape == (9 * 7, 6, 3)
    expected = torch.stack([each.mean for each in alone]).mean(dim=0)
    torch.testing.assert_close(actual.mean, expected, rtol=1e-5, atol=1e-6)
    repeated = [
        each.samples if number in (1, 4, 5, 6, 8) else each.mean.expand(7, 6, 3) for number, each in enumerate(alone)
    ]
    torch.testing.assert_close(actual.samples, torch.cat(repeated), rtol=1e-5, atol=1e-6)
    between = torch.stack([each.mean(dim=0) for each in repeated]).var(dim=0)
    torch.testing.assert_close(actual.variance, between, rtol=1e-4, atol=1e-7)


def test_an_ensemble_of_ensembles_is_the_mean_of_means():
    a, b, c = (DeterministicTeacher(network) for network in networks(3))
    actual = EnsembleTeacher([EnsembleTeacher([a, b], temperature=2.0), c]).predict(X).mean
    inner = EnsembleTeacher([a, b], temperature=2.0).predict(X).mean
    torch.testing.assert_close(actual, (inner + c.predict(X).mean) / 2)


def test_a_probability_of_zero_in_one_member_leaves_the_mean_finite():
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x) * 0 + torch.tensor([0.0, -1000.0, -1000.0])

    other = networks(1)[0]
    members = [DeterministicTeacher(Certain()), DeterministicTeacher(other)]
    expected = (np.array([1.0, 0, 0]) + softmax(other)) / 2
    np.testing.assert_allclose(EnsembleTeacher(members).predict(X).mean, expected, rtol=1e-5)
    powers = expected ** (1 / 3)
    actual = EnsembleTeacher(members, temperature=3.0).predict(X).mean
    np.testing.assert_allclose(actual, powers / powers.sum(axis=-1, keepdims=True), rtol=1e-5)


def test_members_share_one_generator_and_one_member_has_no_variance():
    ensemble = EnsembleTeacher([laplace(), laplace()])
    first, second = (ensemble.predict(X, 5, torch.Generator().manual_seed(1)).mean for _ in range(2))
    assert torch.equal(first, second)
    assert EnsembleTeacher([DeterministicTeacher(networks(1)[0])]).predict(X).variance is None


def test_to_moves_every_member():
    full = VariationalTeacher(make_variational(networks(1)[0], "full", rank=1))
    ensemble = EnsembleTeacher([DeterministicTeacher(networks(1)[0]), full])
    assert ensemble.to("meta") is ensemble and ensemble.device.type == "meta"
    for member in ensemble.members:
        assert {parameter.device.type for parameter in member.network.parameters()} == {"meta"}
    assert {value.device.type for value in [*full.std.values(), *full.factors.values()]} == {"meta"}


def test_its_description_holds_those_of_its_members_and_its_fingerprint_tells_them_apart():
    a, b, c = (DeterministicTeacher(network) for network in networks(3))
    ensemble = EnsembleTeacher([a, b], temperature=2.0)
    description = ensemble.describe()
    assert description["method"] == "ensemble" and description["temperature"] == 2.0
    assert description["num_classes"] == 3 and description["members"] == [a.describe(), b.describe()]
    assert ensemble.fingerprint() == EnsembleTeacher([a, b]).fingerprint() != EnsembleTeacher([a, c]).fingerprint()


def test_members_of_different_classes_or_none_are_refused():
    with pytest.raises(UserError, match="at least one member"):
        EnsembleTeacher([])
    members = [DeterministicTeacher(networks(1, classes)[0]) for classes in (3, 5)]
    with pytest.raises(UserError, match=r"same classes; these have \[3, 5\]"):
        EnsembleTeacher(members)


def test_the_variance_of_a_mean_of_members_is_theirs_and_not_that_of_all_their_draws():
    """Members differ by a deviation of 0.1, their draws by 0.01: the mean of three is off by 0.1 / sqrt(3)."""
    generator = torch.Generator().manual_seed(0)

    class Drawing(DeterministicTeacher):
        def __init__(self, level: Tensor):
            super().__init__(networks(1)[0])
            self.level = level

        def num_draws(self, num_samples: int) -> int:
            return num_samples

        def draw_logits(self, inputs, num_samples, generator):
            first = (self.level + 0.01 * torch.randn(num_samples, *self.level.shape)).clamp(0.01, 0.99)
            return torch.stack([first, (1 - first) / 2, (1 - first) / 2], dim=-1).log()

    torch.manual_seed(0)
    levels = 0.5 + 0.1 * torch.randn(3, 4000, generator=generator)
    ensemble = EnsembleTeacher([Drawing(level) for level in levels])
    actual = ensemble.predict(torch.zeros(4000, 2), 10)
    claimed = actual.variance[:, 0] / ensemble.num_draws(10)
    assert ensemble.num_draws(10) == 3
    assert claimed.mean().item() == pytest.approx(0.1**2 / 3 + 0.01**2 / 30, rel=0.1)
    error = (actual.mean[:, 0] - 0.5).square().mean().item()
    assert claimed.mean().item() == pytest.approx(error, rel=0.1)


def test_an_ensemble_of_weighted_teachers_keeps_their_weights():
    sure, broad = DeterministicTeacher(networks(1)[0]), laplace()
    weighted = MultiTeacher({"sure": sure, "broad": broad}, "entropy")
    own = weighted.predict(X, 5, torch.Generator().manual_seed(2)).mean
    same = ClassMap(EnsembleTeacher([weighted]), [0, 1, 2], 3)
    torch.testing.assert_close(same.predict(X, 5, torch.Generator().manual_seed(2)).mean, own)
    other = DeterministicTeacher(networks(2)[1])
    both = EnsembleTeacher([weighted, other]).predict(X, 5, torch.Generator().manual_seed(2), True)
    expected = (own + other.predict(X).mean) / 2
    torch.testing.assert_close(both.mean, expected, rtol=1e-5, atol=1e-6)
    assert both.weights.shape == both.samples.shape[:2]
    torch.testing.assert_close((both.weights[..., None] * both.samples).sum(dim=0), both.mean)
