"""The draws of a variational teacher against explicit draws of the weights."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, Normal

from hf_bkd import IVON
from hf_bkd.teachers import VariationalTeacher, make_variational
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import (
    SmallNetwork,
    assert_equal_means,
    points,
    seeded,
    small_bert,
    small_cnn,
    vary_spread,
)

WORDS = {"input_ids": torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(0))}
IMAGES = {"pixel_values": torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
X = points(5)[0]
NETWORKS = {"plain": (SmallNetwork, X), "timm": (small_cnn, IMAGES), "bert": (small_bert, WORDS)}
EACH_NETWORK = pytest.mark.parametrize("name", NETWORKS)


def teacher_of(posterior: str = "head", bias: bool = True, rank: int = 0, **settings) -> VariationalTeacher:
    """Each weight's standard deviation another."""
    network = make_variational(SmallNetwork(bias=bias, scale=3), posterior, rank=rank)
    return VariationalTeacher(vary_spread(network), **settings)


def all_of(network: nn.Module) -> dict[str, Tensor]:
    """A standard deviation for every parameter, each another."""
    return {name: torch.rand_like(value) / 5 + 0.01 for name, value in network.named_parameters()}


def explicit_draws(
    network: nn.Module,
    inputs: dict | Tensor,
    std: dict[str, Tensor],
    factors: dict[str, Tensor],
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Logits [count, B, C] of a copy whose weights are set one by one: noise of the directions first, then by name."""
    draws, rank = [], len(next(iter(factors.values()), ()))
    for _ in range(count):
        copy = deepcopy(network).eval()
        along = torch.randn(rank, generator=generator)
        with torch.no_grad():
            for name, parameter in copy.named_parameters():
                if name in std:
                    parameter += std[name] * torch.randn(parameter.shape, generator=generator)
                for number, direction in enumerate(factors.get(name, ())):
                    parameter += along[number] * direction
            outputs = copy(**inputs) if isinstance(inputs, dict) else copy(inputs)
            draws.append(outputs if isinstance(outputs, Tensor) else outputs.logits)
    return torch.stack(draws)


# Over the head


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_draws_of_the_head_are_those_of_explicit_weight_draws(bias, rank):
    teacher, x, count = teacher_of(bias=bias, rank=rank), X[:3], 20_000
    head, names = teacher.network.head, ["weight", "bias"] if bias else ["weight"]
    with torch.no_grad():
        features = teacher.network.eval().backbone(x)
        mean = torch.cat([getattr(head, name).flatten() for name in names])
        std = torch.cat([getattr(head, f"{name}_log_std").flatten() for name in names]).exp()
        posterior = Normal(mean, std)
        if rank:
            factor = torch.cat([getattr(head, f"{name}_factor").flatten(1) for name in names], dim=1)
            posterior = LowRankMultivariateNormal(mean, factor.T, std.square())
        weights, biases = posterior.sample((count,)).split([15, len(mean) - 15], dim=1)
        explicit = torch.einsum("scd,bd->sbc", weights.view(count, 3, 5), features)
        explicit = explicit + biases[:, None] if bias else explicit
        draws = teacher.draw_logits(x, count, seeded())
    assert draws.shape == (count, 3, 3)
    assert_equal_means(draws - explicit, torch.zeros(3, 3))
    ours, theirs = (drawn - explicit.double().mean(dim=0) for drawn in (draws, explicit))
    products = [drawn[..., :, None] * drawn[..., None, :] for drawn in (ours, theirs)]
    assert_equal_means(products[0] - products[1], torch.zeros(3, 3, 3))
    between_classes = products[1].mean(dim=0).triu(1).abs().max().item()
    assert between_classes > 0.1 if rank else between_classes < 0.05
    assert_equal_means(ours[:, 0] * ours[:, 1], torch.zeros(3))  # each example has draws of its own
    tempered = VariationalTeacher(teacher.network, temperature=2.0)
    samples = tempered.predict(x, count, return_samples=True).samples
    assert_equal_means(samples - torch.softmax(explicit / 2, dim=-1), torch.zeros(3, 3))


def test_draws_of_a_network_in_half_precision_keep_a_narrow_spread():
    # bfloat16 has steps of 0.03 at logits of 5: a spread of 0.003 added there would vanish
    network = make_variational(SmallNetwork().to(torch.bfloat16), initial_std=0.002)
    with torch.no_grad():
        network.head.bias.fill_(5)
    x = X[:1].to(torch.bfloat16)
    draws = VariationalTeacher(network).draw_logits(x, 4000, seeded())
    features = network.backbone(x).double()
    expected = 0.002 * (1 + features.square().sum()).sqrt().expand(3)
    torch.testing.assert_close(draws.double().std(dim=0)[0], expected, rtol=0.1, atol=0)


@pytest.mark.parametrize(("posterior", "passes"), [("head", 1), ("full", 50)])
def test_draws_of_the_head_cost_one_pass_and_others_one_each(posterior, passes):
    teacher = teacher_of(posterior, rank=1)
    teacher.network.passes = 0
    teacher.predict(X, 50)
    assert teacher.network.passes == passes


def test_a_head_whose_bias_is_certain_costs_one_pass_too():
    network = SmallNetwork().eval()
    std = all_of(network)["head.weight"]
    draws = VariationalTeacher(network, {"head.weight": std}).draw_logits(X, 20_000, seeded()).detach()
    assert network.passes == 1
    features = network.backbone(X)
    assert_equal_means((draws - network(X)).square().detach(), (features.square() @ std.square().T).detach())


# Over any weights


@EACH_NETWORK
@pytest.mark.parametrize("rank", [0, 2])
def test_draws_of_a_full_posterior_are_those_of_explicit_weights(name, rank):
    make, inputs = NETWORKS[name]
    ordinary = make()
    network = vary_spread(make_variational(deepcopy(ordinary), "full", rank=rank), -3, -1)
    teacher = VariationalTeacher(network)
    layers = dict(network.named_modules())
    std = {name: layers[name.rpartition(".")[0]] for name, _ in ordinary.named_parameters()}
    std = {name: getattr(layer, f"{name.rpartition('.')[2]}_log_std", None) for name, layer in std.items()}
    std = {name: log_std.exp() for name, log_std in std.items() if log_std is not None}
    head = [name for name, layer in layers.items() if getattr(layer, "weight_factor", None) is not None]
    assert len(head) == (rank > 0)
    factors = {
        f"{name}.{kind}": getattr(layers[name], f"{kind}_factor") for name in head for kind in ("weight", "bias")
    }
    expected = explicit_draws(ordinary, inputs, std, factors, 3, seeded())
    torch.testing.assert_close(teacher.draw_logits(inputs, 3, seeded()), expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@EACH_NETWORK
def test_draws_with_given_deviations_are_those_of_explicit_weights(name):
    make, inputs = NETWORKS[name]
    network = make()
    std = all_of(network)  # norms' weights and embeddings among them
    before = {name: value.clone() for name, value in network.state_dict().items()}
    teacher = VariationalTeacher(network, std)
    actual = teacher.draw_logits(inputs, 3, seeded())
    torch.testing.assert_close(actual, explicit_draws(network, inputs, std, {}, 3, seeded()), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    shuffled = VariationalTeacher(network, dict(reversed(std.items())))
    assert torch.equal(shuffled.draw_logits(inputs, 3, seeded()), actual)


@pytest.mark.parametrize("only", [["backbone.0.weight"], ["head.bias"], ["backbone.1.bias", "head.weight"]])
def test_weights_without_a_deviation_are_fixed(only):
    network = SmallNetwork()
    std = {name: value for name, value in all_of(network).items() if name in only}
    factors = {only[-1]: torch.rand(2, *std[only[-1]].shape)}
    actual = VariationalTeacher(network, std, factors).draw_logits(X, 4, seeded())
    torch.testing.assert_close(actual, explicit_draws(network, X, std, factors, 4, seeded()))


def test_factors_of_the_heads_bias_alone_are_drawn():
    network = SmallNetwork()
    std = {name: value for name, value in all_of(network).items() if name.startswith("head")}
    factors = {"head.bias": torch.tensor([[3.0, -3.0, 0.0]])}
    actual = VariationalTeacher(network, std, factors).draw_logits(X, 4, seeded())
    torch.testing.assert_close(actual, explicit_draws(network, X, std, factors, 4, seeded()))


def test_the_posterior_that_ivon_trained_is_taken_as_it_is():
    network, (x, labels) = SmallNetwork(), points(30)
    optimizer = IVON(network.parameters(), lr=0.1, ess=30, hess_init=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        with optimizer.draw():
            nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
    std = optimizer.posterior_std(network)
    teacher = VariationalTeacher(network, std)
    assert list(teacher.std) == [name for name, _ in network.named_parameters()]
    actual = teacher.draw_logits(X, 3, seeded())
    torch.testing.assert_close(actual, explicit_draws(network, X, std, {}, 3, seeded()))


@pytest.mark.parametrize("posterior", ["head", "full"])
def test_the_posterior_is_read_once(posterior):
    teacher = teacher_of(posterior, rank=1)
    before = teacher.draw_logits(X, 3, seeded())
    vary_spread(teacher.network)  # as further training would
    assert torch.equal(teacher.draw_logits(X, 3, seeded()), before)
    network, std = SmallNetwork().eval(), {"head.weight": torch.ones(3, 5)}
    teacher = VariationalTeacher(network, std)
    before = teacher.draw_logits(X, 3, seeded())
    std["head.weight"].zero_()
    assert torch.equal(teacher.draw_logits(X, 3, seeded()), before)


def test_the_deviations_move_with_the_teacher():
    teacher = teacher_of("full", rank=1)
    assert teacher.to("meta") is teacher and teacher.device.type == "meta"
    assert {value.device.type for value in [*teacher.std.values(), *teacher.factors.values()]} == {"meta"}


def test_the_defaults_are_those_of_the_paper():
    assert teacher_of().tempering == "per_sample" and teacher_of().network.head.prior_std == pytest.approx(5**-0.5)


# What a user can get wrong


ONES = torch.ones(3, 5)


@pytest.mark.parametrize(
    ("std", "factors", "words"),
    [
        ({"head.weights": ONES}, None, r"head.weights of shape \[3, 5\] is not of this network"),
        ({"weight": ONES}, None, "weight of shape .* is not of this network"),
        ({"backbone.1.running_var": torch.ones(5)}, None, "running_var .* is not of this network"),
        ({"head.weight": ONES.T}, None, r"head.weight of shape \[5, 3\] is not"),
        ({"head.weight": ONES[None]}, None, r"head.weight of shape \[1, 3, 5\] is not"),
        ({"head.weight": torch.tensor(1.0)}, None, r"head.weight of shape \[\] is not"),
        ({"head.weight": ONES}, {"head.weight": ONES}, r"head.weight of shape \[3, 5\] is not"),
        ({"head.weight": ONES}, {"head.bias": torch.ones(1, 3)}, r"head.bias of shape \[1, 3\] is not"),
        ({"head.weight": ONES}, {"head.weight": ONES[None] * torch.nan}, "all of it finite: something in head.weight"),
        ({"head.weight": ONES * torch.tensor([1, 1, 1, 1, 0.0])}, None, "must be above 0.* in head.weight is not"),
        ({"head.weight": -ONES}, None, "must be above 0"),
        ({"head.weight": ONES * torch.nan}, None, "must be above 0"),
        ({"head.weight": ONES * torch.inf}, None, "all of it finite"),
        (
            {"head.weight": ONES, "head.bias": torch.ones(3)},
            {"head.weight": torch.ones(2, 3, 5), "head.bias": torch.ones(1, 3)},
            "as many directions for each parameter",
        ),
        ({}, None, "no posterior: pass it through make_variational.*or train it with IVON"),
        (None, None, "no posterior: pass it through make_variational.*or train it with IVON"),
        (None, {"head.weight": ONES[None]}, "factors were given without std"),
    ],
)
def test_a_posterior_that_is_none_or_does_not_fit_the_network_is_refused(std, factors, words):
    with pytest.raises(UserError, match=words):
        VariationalTeacher(SmallNetwork(), std, factors)


def test_a_training_that_diverged_is_refused():
    network = make_variational(SmallNetwork())
    with torch.no_grad():
        network.head.weight_log_std[0, 0] = torch.nan
    with pytest.raises(UserError, match="something in head.weight is not; the training may have diverged"):
        VariationalTeacher(network)
