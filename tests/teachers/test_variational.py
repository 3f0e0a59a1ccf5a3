import pytest
import torch
import torch.nn.functional as F
from teacher_helpers import ConvolutionalHead, SmallNetwork, assert_equal_means, points, small_bert, small_cnn
from torch import nn
from torch.distributions import Normal

from hf_bkd.errors import UserError
from hf_bkd.layers import VariationalLinear, kl_divergence
from hf_bkd.teachers import VariationalTeacher, make_variational


def teacher_of(bias: bool = True) -> VariationalTeacher:
    """A variational teacher, each weight's standard deviation another."""
    network = make_variational(SmallNetwork(bias=bias, scale=3))
    with torch.no_grad():
        for name, parameter in network.head.named_parameters():
            if name.endswith("log_std"):
                parameter.uniform_(-2, 0)
    return VariationalTeacher(network)


@pytest.mark.parametrize("bias", [True, False])
def test_make_variational_keeps_the_function_of_the_means(bias):
    network, (x, _) = SmallNetwork(bias=bias).eval(), points(6)
    weight, expected = network.head.weight.clone(), network(x)
    assert make_variational(network, prior_std=0.5, initial_std=0.1) is network
    assert isinstance(network.head, VariationalLinear)
    assert torch.equal(network.head.weight, weight) and (network.head.bias is not None) == bias
    assert torch.equal(network(x), expected)  # a network in evaluation mode stays in it
    assert network.head.prior_std == 0.5
    for name, parameter in network.head.named_parameters():
        if name.endswith("log_std"):
            torch.testing.assert_close(parameter.exp(), torch.full_like(parameter, 0.1))
            assert parameter.requires_grad
    network.train()
    assert not torch.equal(network.head(torch.ones(1, 5)), network.head(torch.ones(1, 5)))


def test_make_variational_keeps_type_and_device():
    network = make_variational(SmallNetwork().to(torch.float64))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    network = make_variational(SmallNetwork().to("meta"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


@pytest.mark.parametrize("make", [small_cnn, small_bert])
def test_make_variational_finds_the_heads_of_transformers_models(make):
    network = make_variational(make())
    layers = [module for module in network.modules() if isinstance(module, VariationalLinear)]
    assert len(layers) == 1 and layers[0].out_features == network.config.num_labels
    assert torch.equal(kl_divergence(network), layers[0].kl_divergence())


@pytest.mark.parametrize("bias", [True, False])
def test_draws_are_those_of_explicit_weight_draws(bias):
    teacher, (x, _) = teacher_of(bias), points(3)
    head, count = teacher.head, 20_000
    with torch.no_grad():
        features = teacher.network.eval().backbone(x)
        weights = Normal(head.weight, head.weight_log_std.exp()).sample((count,))
        biases = Normal(head.bias, head.bias_log_std.exp()).sample((count,)) if bias else torch.zeros(count, 3)
        explicit = torch.einsum("scd,bd->sbc", weights, features) + biases[:, None]
        draws = teacher.draw_logits(x, count, torch.Generator().manual_seed(1))
    assert draws.shape == (count, 3, 3)
    mean, variance = explicit.double().mean(dim=0), explicit.double().var(dim=0)
    assert_equal_means(draws - explicit, torch.zeros(3, 3))
    assert_equal_means((draws - mean).square() - (explicit - mean).square(), torch.zeros(3, 3))
    centred = draws - mean
    assert_equal_means(centred[..., 0] * centred[..., 1], torch.zeros(3))  # between classes
    assert_equal_means(centred[:, 0] * centred[:, 1], torch.zeros(3))  # between examples
    torch.testing.assert_close(draws.double().var(dim=0), variance, rtol=0.1, atol=0)
    tempered = VariationalTeacher(teacher.network, temperature=2.0)
    assert_equal_means(
        tempered.predict(x, count, return_samples=True).samples - torch.softmax(explicit / 2, dim=-1),
        torch.zeros(3, 3),
    )


def test_draws_of_a_network_in_half_precision_keep_a_narrow_spread():
    # bfloat16 has steps of 0.03 at logits of 5: a spread of 0.003 added there would vanish
    network = make_variational(SmallNetwork().to(torch.bfloat16), initial_std=0.002)
    with torch.no_grad():
        network.head.bias.fill_(5)
    x = points(3)[0][:1].to(torch.bfloat16)
    draws = VariationalTeacher(network).draw_logits(x, 4000, torch.Generator().manual_seed(1))
    features = network.backbone(x).double()
    expected = 0.002 * (1 + features.square().sum()).sqrt().expand(3)
    torch.testing.assert_close(draws.double().std(dim=0)[0], expected, rtol=0.1, atol=0)


def test_all_draws_cost_one_pass_through_the_network():
    teacher, (x, _) = teacher_of(), points(3)
    teacher.network.passes = 0
    teacher.predict(x, 50)
    assert teacher.network.passes == 1


def test_training_finds_the_posterior_of_a_gaussian_linear_model():
    # y = w x + noise of variance 1: with features orthogonal over the data the exact posterior factorises, and its
    # precision is 1/prior^2 + sum x^2, its mean (sum x y) / precision
    prior_std, x = 0.8, torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double()
    y = torch.tensor([[1.0], [-2.0]]).double()
    layer = VariationalLinear(2, 1, prior_std, initial_std=0.1, bias=False).double().train()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 600)
        loss = (layer(x.expand(500, 2, 2)) - y).square().sum(dim=(1, 2)).mean() / 2 + layer.kl_divergence()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    precision = 1 / prior_std**2 + x.square().sum(dim=0)
    torch.testing.assert_close(layer.weight_log_std.exp()[0].detach(), precision**-0.5, rtol=0.02, atol=0)
    torch.testing.assert_close(layer.weight[0].detach(), (x * y).sum(dim=0) / precision, rtol=0.02, atol=0)


def test_the_defaults_are_those_of_the_paper():
    assert teacher_of().tempering == "per_sample" and teacher_of().head.prior_std == pytest.approx(5**-0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"posterior": "all"}, "posterior is 'all'; it must be one of head"),
        ({"prior_std": 0.0}, "prior_std must be above 0"),
        ({"initial_std": -1.0}, "initial_std must be above 0"),
    ],
)
def test_make_variational_refuses_bad_arguments_and_leaves_the_head(arguments, words):
    network = SmallNetwork()
    with pytest.raises(UserError, match=words):
        make_variational(network, **arguments)
    assert type(network.head) is nn.Linear


def test_networks_without_a_variational_or_linear_head_are_refused():
    with pytest.raises(UserError, match="no variational head: pass it through make_variational"):
        VariationalTeacher(SmallNetwork())
    with pytest.raises(UserError, match="no linear layer"):
        make_variational(ConvolutionalHead())


def test_the_variational_head_reads_as_a_linear_one():
    head = teacher_of().head.eval()
    x = torch.randn(2, 5)
    assert torch.equal(head(x), F.linear(x, head.weight, head.bias))
    assert (head.in_features, head.out_features) == (5, 3)
