"""Sharpness against dense Hessians, not by torch.func: its are wrong for the weights of layer norms (torch 2.15)."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_bkd import create_classifier
from hf_bkd.models.calling import call_network, logits_of
from hf_bkd.training.sharpness import Sharpness, sharpness

SIZES = (5, 3, 8)


class Plain(nn.Module):
    """x [B, 4] through batch norm and dropout to logits [B, 3]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def cnn():
    return create_classifier("cnn6_small", 3, in_chans=1, image_size=8, mean=[0.5], std=[0.25], width=3)


def vit():
    """Attention and layer norms. Its head starts at 0, where few weights matter; float32 would lose the rest."""
    size = {"embed_dim": 4, "num_heads": 2, "depth": 1, "patch_size": 4, "mlp_ratio": 1}
    network = create_classifier("vit_tiny_patch16_224", 3, in_chans=1, image_size=8, mean=[0.5], std=[0.25], **size)
    nn.init.normal_(network.timm_model.head.weight)
    return network.double()


def images(size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(size, 1, 8, 8), "labels": torch.randint(3, (size,))}


def pairs(targets: list[Tensor] | None = None) -> list[tuple[Tensor, Tensor]]:
    targets = targets or [torch.randint(3, (size,)) for size in SIZES]
    return [(torch.randn(size, 4), target) for size, target in zip(SIZES, targets, strict=True)]


def dense(model: nn.Module, inputs: Tensor | dict, targets: Tensor) -> Tensor:
    """The Hessian [P, P] of the mean cross-entropy in evaluation mode."""
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    start = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    model.eval()

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            return logits_of(call_network(self.model, inputs))

    def loss(weights: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in shapes.values()])
        given = {f"model.{name}": part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(Logits(), given, (inputs,)), targets)

    return torch.autograd.functional.hessian(loss, start)


def check(found: Sharpness, hessian: Tensor) -> None:
    assert found.largest_eigenvalue == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-4)
    assert abs(found.trace - hessian.trace().item()) < 4 * found.trace_error


def test_a_small_networks_sharpness_is_that_of_the_dense_hessian_over_batches_of_unequal_size():
    model, batches = Plain().double(), pairs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    found = sharpness(model, iter(batches), num_samples=200)
    inputs, labels = map(torch.cat, zip(*batches, strict=True))
    hessian = dense(model, inputs.double(), labels)
    check(found, hessian)
    trace = hessian.trace().item()
    assert found.trace == pytest.approx(trace, rel=0.15)
    off_diagonal = hessian - hessian.diagonal().diag()
    deviation = (2 * off_diagonal.square().sum()).sqrt().item()  # of v^T H v for random signs v
    assert found.trace_error == pytest.approx(deviation / math.sqrt(200), rel=0.3)
    assert found.largest_eigenvalue == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-8)


@pytest.mark.parametrize("make", [cnn, vit])
def test_the_sharpness_of_timm_models_is_that_of_the_dense_hessian(make):
    model = make()
    if make is cnn:  # a dense Hessian of the last convolution would take long
        model.timm_model.convolutions[6].requires_grad_(False)
    batches = [images(size) for size in SIZES]
    found = sharpness(model, batches, num_samples=20)
    both = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    labels = both.pop("labels")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = dense(model.double(), {"pixel_values": both["pixel_values"].double()}, labels)
    check(found, hessian)
    assert found.largest_eigenvalue > 0.1


def test_the_largest_eigenvalue_is_the_greatest_and_not_that_of_the_greatest_size():
    class Saddle(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            bent = (x * self.weights.square()).sum(dim=1)
            return torch.stack([bent, torch.zeros_like(bent)], dim=1)

    # at 0 the loss -log softmax(bent) curves as -x: Hessian diag(-x)
    found = sharpness(Saddle(), [(torch.tensor([[10.0, -0.5, 0.0]]), torch.tensor([0]))])
    assert found == pytest.approx((0.5, -9.5, 0), abs=1e-9)


def test_a_saturated_model_is_perfectly_flat():
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e4], [-1e4]]))
    assert sharpness(model, [(torch.ones(3, 1), torch.zeros(3).long())]) == (0, 0, 0)


def test_the_target_may_be_probabilities_in_pairs_or_in_a_column_of_their_own():
    model = Plain().double()
    probs = [torch.softmax(torch.randn(size, 3), dim=1) for size in SIZES]
    batches = pairs(probs)
    expected = dense(model, torch.cat([x for x, _ in batches]).double(), torch.cat(probs).double())
    measured = partial(sharpness, model, num_samples=20)
    found = measured(batches)
    check(found, expected)
    column = [{"x": x, "labels": torch.zeros(len(x)).long(), "teacher_probs": p} for x, p in batches]
    assert measured(column, target="teacher_probs") == found
    hard = measured(column)
    assert hard == measured([(x, torch.zeros(len(x)).long()) for x, _ in batches]) != found


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_global_generator_alone():
    model, batches = Plain().double(), pairs()
    state = torch.random.get_rng_state()
    measured = partial(sharpness, model, batches, num_samples=20)
    first = measured(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert measured(seed=3) == first
    other = measured(seed=4)
    assert other.trace != first.trace
    assert other.largest_eigenvalue == pytest.approx(first.largest_eigenvalue, rel=1e-5)
    assert math.isnan(measured(num_samples=1).trace_error)


def test_the_model_is_left_as_it_was():
    model = cnn().train()
    model.timm_model.convolutions[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        sharpness(model, [images(6)], num_samples=2)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_measured_is_told():
    model, x, labels = Plain(), torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    for data, options, message in (
        ([], {}, "data holds no examples"),
        ([(x, labels)], {"num_samples": 0}, "num_samples must be .* at least 1, and it is 0"),
        ([{"x": x}], {}, "target is 'labels', and the batches hold only x"),
        ([{"x": x, "labels": labels}], {"target": "teacher_probs"}, "target is 'teacher_probs', .* only x, labels"),
        ([x], {}, "batches must be .* this one is a Tensor"),
        ([(x, labels + 1)], {}, r"target must be class indices \[B\] in 0 to 2 .* shape \[4\], from 1 to 3"),
        ([(x, labels - 1)], {}, "from -1 to 1"),
        ([(x, labels[:, None])], {}, r"shape \[4, 1\]"),
        ([(x, torch.ones(4, 2) / 2)], {}, r"target has the shape \[4, 2\], and the logits have \[4, 3\]"),
        ([(x, torch.ones(4, 3))], {}, "target must sum to one .* sums to 3"),
        ([(x / 0, labels)], {}, "the Hessian is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            sharpness(model, data, **options)
    with pytest.raises(ValueError, match=r"no weight of the Plain requires a gradient"):
        sharpness(model.requires_grad_(False), [(x, labels)])
