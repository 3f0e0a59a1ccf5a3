"""Dropout as a posterior: each draw against a pass of the network in training mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from hf_bkd import create_classifier
from hf_bkd.teachers import DeterministicTeacher, MCDropout, MCDropoutTeacher, Teacher, make_variational
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import SmallNetwork, assert_equal_means, points, seeded, small_bert

X = points(6)[0]
IMAGES = {"pixel_values": torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
WORDS = {"input_ids": torch.randint(20, (6, 7), generator=torch.Generator().manual_seed(0))}


def resnet(**rates: float) -> nn.Module:
    """timm's dropout and stochastic depth are functions in the network's forward; it has many batch norms."""
    return create_classifier("resnet8x4_cifar", 3, in_chans=1, image_size=8, mean=[0.5], std=[0.25], **rates)


def bert(hidden: float = 0.3, attention: float = 0.2) -> nn.Module:
    rates = {"hidden_dropout_prob": hidden, "attention_probs_dropout_prob": attention}
    return BertForSequenceClassification(BertConfig(**small_bert().config.to_dict() | rates))


NETWORKS = {
    "plain": (SmallNetwork, X),
    "timm's dropout": (lambda: resnet(drop_rate=0.4), IMAGES),
    "timm's stochastic depth": (lambda: resnet(drop_path_rate=0.5), IMAGES),
    "bert": (bert, WORDS),
    "bert's attention": (lambda: bert(0.0, 0.5), WORDS),
}
EACH_NETWORK = pytest.mark.parametrize("name", NETWORKS)


def passes_in_training_mode(network: nn.Module, inputs: dict | Tensor, count: int, seed: int) -> Tensor:
    """Logits [count, B, C], torch's generator seeded once before; batch norms by their running statistics."""
    network.train()
    for module in network.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    torch.manual_seed(seed)
    outputs = [network(**inputs) if isinstance(inputs, dict) else network(inputs) for _ in range(count)]
    return torch.stack([each if isinstance(each, Tensor) else each.logits for each in outputs]).detach()


def seed_that(generator: torch.Generator) -> int:
    return torch.empty((), dtype=torch.int64).random_(generator=generator).item()


@EACH_NETWORK
def test_draws_are_passes_in_training_mode_with_a_seed_from_the_generator(name):
    make, inputs = NETWORKS[name]
    network = make()
    actual = MCDropoutTeacher(network).draw_logits(inputs, 4, seeded()).detach()
    assert torch.equal(actual, passes_in_training_mode(network, inputs, 4, seed_that(seeded())))
    assert (actual[0] - actual[1]).abs().max() > 1e-3


def test_draws_have_the_moments_of_masks_that_are_written_out():
    network = SmallNetwork().eval()
    with torch.no_grad():
        features = network.backbone(X)
        masks = torch.rand(20_000, 6, 5).lt(0.5) / 0.5
        explicit = F.linear(features * masks, network.head.weight, network.head.bias).softmax(dim=-1)
    actual = MCDropoutTeacher(network).predict(X, 4_000, seeded(), return_samples=True)
    assert_equal_means(actual.samples - explicit[:4_000], torch.zeros(6, 3))
    assert_equal_means((actual.samples - actual.mean).square(), explicit.var(dim=0).double())
    deterministic = DeterministicTeacher(network).predict(X).mean
    assert (actual.mean - deterministic).abs().max() > 0.01


@EACH_NETWORK
@pytest.mark.parametrize("training", [True, False])
def test_statistics_modes_and_torchs_generator_are_left_alone(name, training):
    make, inputs = NETWORKS[name]
    network = make().train(training)
    list(network.modules())[1].train(not training)  # a part in another mode than the rest
    modes = [module.training for module in network.modules()]
    buffers = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    MCDropoutTeacher(network).predict(inputs, 3, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in network.state_dict().items())


def test_a_pass_that_fails_leaves_modes_and_torchs_generator_too():
    network = SmallNetwork().eval()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        MCDropoutTeacher(network).predict(torch.zeros(2, 7), 3, seeded())
    assert torch.equal(torch.get_rng_state(), state) and not any(module.training for module in network.modules())


def test_the_generator_decides_and_without_one_torchs_own():
    teacher = MCDropoutTeacher(SmallNetwork())
    draws = [teacher.draw_logits(X, 3, seeded(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    generator = seeded()
    assert not torch.equal(teacher.draw_logits(X, 3, generator), teacher.draw_logits(X, 3, generator))
    torch.manual_seed(5)
    first, second = teacher.draw_logits(X, 3, None), teacher.draw_logits(X, 3, None)
    torch.manual_seed(5)
    assert torch.equal(teacher.draw_logits(X, 3, None), first) and not torch.equal(first, second)


def test_a_single_draw_is_one_pass_and_has_no_variance():
    network = SmallNetwork()
    actual = MCDropoutTeacher(network).predict(X, 1, seeded(), return_samples=True)
    expected = passes_in_training_mode(network, X, 1, seed_that(seeded())).softmax(dim=-1)
    assert actual.variance is None and torch.equal(actual.samples, expected) and torch.equal(actual.mean, expected[0])


def test_the_weights_of_variational_layers_are_their_means():
    network = make_variational(SmallNetwork(), "full", initial_std=1.0)
    ordinary = SmallNetwork()
    ordinary.load_state_dict({name: network.state_dict()[name] for name in ordinary.state_dict()})
    actual = [MCDropoutTeacher(each).draw_logits(X, 3, seeded()) for each in (network, ordinary)]
    assert torch.equal(*actual)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_generator_may_be_on_another_device_than_the_network():
    teacher = MCDropoutTeacher(SmallNetwork())
    for network, generator in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")):
        state = torch.cuda.get_rng_state()
        draws = [
            teacher.to(network).predict(X, 4, torch.Generator(generator).manual_seed(2)).mean for _ in range(2)
        ]  # fmt: skip
        assert torch.equal(*draws) and torch.equal(torch.cuda.get_rng_state(), state)


# What a user can get wrong


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (nn.Sequential(nn.Linear(4, 3)), X),
        (nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3)), X),
        (resnet(), IMAGES),
        (bert(0.0, 0.0), WORDS),
    ],
)
def test_a_network_without_dropout_is_refused(network, inputs):
    with pytest.raises(UserError, match="this network has no dropout: train it with some .drop_rate="):
        MCDropoutTeacher(network).predict(inputs, 3)


def test_few_examples_that_happen_to_lose_no_unit_are_no_reason_to_refuse():
    network = nn.Sequential(nn.Dropout(1e-6), nn.Linear(4, 3)).eval()
    actual = MCDropoutTeacher(network).predict(X[:1], 3, seeded(), return_samples=True)
    torch.testing.assert_close(actual.samples, network(X[:1]).softmax(dim=-1).expand(3, 1, 3).detach())


# Saving


@EACH_NETWORK
def test_a_saved_teacher_draws_the_same(name, tmp_path):
    make, inputs = NETWORKS[name]
    teacher = MCDropoutTeacher(make(), temperature=2.0, tempering="per_sample")
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=SmallNetwork() if name == "plain" else None)
    assert type(loaded) is MCDropoutTeacher and loaded.describe() == teacher.describe()
    assert loaded.describe()["method"] == "mc_dropout"
    samples = [each.predict(inputs, 3, seeded(), return_samples=True).samples for each in (teacher, loaded)]
    assert torch.equal(*samples)


def convolutions() -> nn.Module:
    """Two convolutions of one pixel each, all weights 1: the second reads 4 channels."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False), nn.Flatten())
    for layer in network[:2]:
        nn.init.constant_(layer.weight, 1.0)
    return network.eval()


def test_filters_are_dropped_whole_and_before_each_convolution_but_the_first():
    teacher = MCDropoutTeacher(convolutions(), filter_rate=0.25)
    drawn = teacher.draw_logits(torch.ones(500, 1, 1, 1), 8, seeded())
    kept = drawn[..., 0] * 0.75  # of 4 channels, each of 1, the others are scaled by 1 / 0.75
    assert torch.equal(drawn, drawn[..., :1].expand_as(drawn)) and set(kept.unique().tolist()) <= {0, 1, 2, 3, 4}
    assert kept.mean().item() == pytest.approx(3, abs=0.05) and kept.var().item() == pytest.approx(
        4 * 0.75 * 0.25, abs=0.05
    )
    two = teacher.draw_logits(torch.ones(500, 1, 1, 2), 1, seeded())[0].view(500, 4, 2)
    assert torch.equal(two[..., 0], two[..., 1])  # both pixels of a map are dropped together
    assert torch.equal(teacher.network.train()(torch.ones(1, 1, 1, 1)), torch.full((1, 4), 4.0))  # the hooks are gone


def test_dropped_filters_are_saved_with_the_teacher_and_old_folders_have_none(tmp_path):
    network = resnet()
    teacher = MCDropoutTeacher(network, filter_rate=0.2)
    teacher.save_pretrained(tmp_path / "filters")
    MCDropoutTeacher(network).save_pretrained(tmp_path / "units")
    loaded, units = (Teacher.from_pretrained(tmp_path / name) for name in ("filters", "units"))
    assert (loaded.filter_rate, units.filter_rate) == (0.2, 0) and "filter_rate" not in units.get_state()[0]
    expected = teacher.predict(IMAGES, 3, seeded(), return_samples=True).samples
    assert torch.equal(loaded.predict(IMAGES, 3, seeded(), return_samples=True).samples, expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: MCDropoutTeacher(SmallNetwork(), filter_rate=0.1), "this network has no two of them: drop units"),
        (lambda: MCDropoutTeacher(resnet(), filter_rate=1.0), "filter_rate must be between 0 and 1, and it is 1.0"),
        (lambda: MCDropout(filter_wise=True), "nobody says which: pass drop_rate=0.1"),
        (lambda: MCDropout(drop_rate=0.1, masks=0), "masks must be a whole number of at least 1"),
    ],
)
def test_dropout_of_filters_that_can_not_be(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        wrong()
