"""The loss against loops over examples and classes in probability space, and against torchdistill's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchdistill.losses.mid_level import KDLoss

from hf_bkd.losses import TEMPERATURE_SCALES, distillation_loss, kl_to_target, temperature_factor
from hf_bkd.targets import mixed_target, temper

B, C = 7, 5


@pytest.fixture
def logits():
    return torch.randn(B, C, dtype=torch.float64) * 3


@pytest.fixture
def teacher_logits():
    return torch.randn(B, C, dtype=torch.float64) * 3


@pytest.fixture
def labels():
    return torch.randint(C, (B,))


def naive_softmax(row, temperature):
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def naive_loss(logits, labels, target, kd_lambda, t_s, scale, smoothing=0.0, divisor=None):
    """(total, cross-entropy, KL) of nested lists, one probability at a time; ``target`` holds probabilities."""
    ce = kl = 0.0
    for i, row in enumerate(logits):
        plain, softened = naive_softmax(row, 1.0), naive_softmax(row, t_s)
        for c in range(len(row)):
            wanted = (1 - smoothing) * (c == labels[i]) + smoothing / len(row)
            ce -= wanted * math.log(plain[c])
            if target[i][c] > 0:
                kl += target[i][c] * (math.log(target[i][c]) - math.log(softened[c]))
    ce, kl = ce / (divisor or len(logits)), kl / (divisor or len(logits))
    return (1 - kd_lambda) * ce + kd_lambda * scale * kl, ce, kl


FACTORS = {"product": lambda t_t, t_s: t_t * t_s, "squared": lambda t_t, t_s: t_s * t_s, "none": lambda t_t, t_s: 1.0}


@pytest.mark.parametrize("convention", TEMPERATURE_SCALES)
@pytest.mark.parametrize("kd_lambda", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(("t_t", "t_s"), [(1.0, 1.0), (4.0, 1.5), (0.7, 2.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("divisor", [None, 19])
def test_equals_a_loop_over_probabilities(
    logits, labels, teacher_logits, convention, kd_lambda, t_t, t_s, smoothing, divisor
):
    target = [naive_softmax(row, t_t) for row in teacher_logits.tolist()]
    expected = naive_loss(
        logits.tolist(), labels.tolist(), target, kd_lambda, t_s, FACTORS[convention](t_t, t_s), smoothing, divisor
    )
    found = distillation_loss(
        logits,
        labels if kd_lambda != 1 else None,
        torch.tensor(target, dtype=torch.float64) if kd_lambda > 0 else None,
        kd_lambda,
        t_s,
        temperature_factor(convention, t_t, t_s),
        smoothing,
        divisor,
    )
    assert found.total.item() == pytest.approx(expected[0], rel=1e-12)
    assert (found.cross_entropy is None) == (kd_lambda == 1)
    assert (found.distillation is None) == (kd_lambda == 0)
    if kd_lambda != 1:
        assert found.cross_entropy.item() == pytest.approx(expected[1], rel=1e-12)
    if kd_lambda > 0:
        assert found.distillation.item() == pytest.approx(expected[2], rel=1e-12)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="'hinton'; it must be one of product, squared, none"):
        temperature_factor("hinton", 1.0, 1.0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_is_torchdistills_with_one_minus_alpha_for_lambda_and_the_squared_scale(
    logits, labels, teacher_logits, temperature, alpha
):
    """Theirs is alpha CE + (1 - alpha) T^2 KL(softmax(z_t / T) || softmax(z_s / T)), "batchmean"."""
    module = KDLoss("student", "output", "teacher", "output", temperature=temperature, alpha=alpha)
    theirs = module({"student": {"output": logits}}, {"teacher": {"output": teacher_logits}}, labels)
    factor = temperature_factor("squared", temperature, temperature)
    target = (teacher_logits / temperature).softmax(dim=-1)
    ours = distillation_loss(logits, labels, target, 1 - alpha, temperature, factor)
    assert ours.total.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_zeros_in_the_target_count_nothing_and_their_gradient_is_finite(logits):
    target = torch.tensor([[1.0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0]], dtype=torch.float64)
    logits = logits[:2].requires_grad_()
    expected = naive_loss(logits.tolist(), [0, 0], target.tolist(), 1.0, 1.0, 1.0)[2]
    loss = distillation_loss(logits, None, target, 1.0).total
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, (logits.softmax(dim=-1) - target) / 2)


def test_divergence_from_itself_is_zero_and_else_positive(logits, teacher_logits):
    torch.testing.assert_close(
        kl_to_target((logits / 3).softmax(dim=-1), logits, 3.0), torch.zeros(B, dtype=torch.float64)
    )
    assert (kl_to_target(teacher_logits.softmax(dim=-1), logits) > 0).all()


@pytest.mark.parametrize("kd_lambda", [0.0, 0.3, 1.0, 1.7])
def test_gradient_is_that_of_cross_entropy_towards_the_mixed_target(logits, labels, teacher_logits, kd_lambda):
    target = teacher_logits.softmax(dim=-1)
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(distillation_loss(logits, labels, target, kd_lambda).total, logits)
    (mixed,) = torch.autograd.grad(F.cross_entropy(logits, mixed_target(labels, target, kd_lambda)), logits)
    torch.testing.assert_close(ours, mixed)


def test_gradient_of_a_lambda_above_1_by_hand():
    """At equal logits q = 1/2: the target -0.5 (1, 0) + 1.5 (0.9, 0.1) is (0.85, 0.15), and the gradient q - t."""
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(distillation_loss(logits, torch.tensor([0]), target, 1.5).total, logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.35, 0.35]], dtype=torch.float64))


@pytest.mark.parametrize(("of_label", "unbounded"), [(0.3, True), (0.34, False), (0.9, False)])
def test_a_loss_without_a_lower_bound_is_counted(of_label, unbounded):
    """With lambda = 1.5 the loss grows by 1.5 p_y - 0.5 for each unit by which the label's logit falls."""
    target = torch.tensor([[of_label, 1 - of_label]], dtype=torch.float64)
    logits = torch.tensor([[0.0, 0.0], [-1000.0, 0.0], [-2000.0, 0.0]], dtype=torch.float64)
    parts = [distillation_loss(row[None], torch.tensor([0]), target, 1.5) for row in logits]
    near, far = parts[1].total, parts[2].total
    assert (far - near).item() == pytest.approx(1000 * (1.5 * of_label - 0.5))
    assert (far < near) == unbounded
    assert [part.unbounded.item() for part in parts] == [float(unbounded)] * 3


@pytest.mark.parametrize(("t_t", "t_s"), [(1.0, 1.0), (4.0, 1.5), (0.7, 2.0)])
@pytest.mark.parametrize("convention", TEMPERATURE_SCALES)
def test_the_bound_is_that_of_the_loss_at_its_temperatures(labels, teacher_logits, convention, t_t, t_s):
    target, scale = (teacher_logits / t_t).softmax(dim=-1), temperature_factor(convention, t_t, t_s)
    falls = []
    for row, label in zip(target, labels, strict=True):
        near, far = torch.zeros(2, 1, C, dtype=torch.float64).unbind()
        near[0, label], far[0, label] = -1e4, -2e4
        each = (distillation_loss(z, label[None], row[None], 1.6, t_s, scale).total for z in (near, far))
        falls.append(float(next(each) > next(each)))
    found = distillation_loss(torch.zeros(B, C, dtype=torch.float64), labels, target, 1.6, t_s, scale)
    assert found.unbounded.item() == pytest.approx(sum(falls) / B)


def test_an_example_without_a_label_has_a_bound_and_learns_from_its_soft_label_alone(logits, labels, teacher_logits):
    labels, target = labels.clone(), (teacher_logits * 3).softmax(dim=-1)
    labels[2:] = -100
    found = distillation_loss(logits, labels, target, 1.5)
    subtracted = 1.5 * kl_to_target(target[:2], logits[:2]).sum() - 0.5 * F.cross_entropy(
        logits[:2], labels[:2], reduction="sum"
    )
    torch.testing.assert_close(found.total, (subtracted + kl_to_target(target[2:], logits[2:]).sum()) / B)
    below = 1.5 * target[:2].gather(1, labels[:2, None]) < 0.5
    assert found.unbounded.item() == pytest.approx(below.sum().item() / B)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kd_lambda", [0.0, 0.3, 1.0])
def test_half_precision_logits_give_a_float32_loss_of_their_rounded_values(
    logits, labels, teacher_logits, low, kd_lambda
):
    target, rounded = teacher_logits.softmax(dim=-1).float(), logits.to(low)
    found = distillation_loss(rounded, labels, target, kd_lambda, 2.0, 2.0)
    exact = distillation_loss(rounded.double(), labels, target.double(), kd_lambda, 2.0, 2.0)
    for ours, reference in zip(found, exact, strict=True):
        assert (ours is None) == (reference is None)
        if ours is not None:
            assert ours.dtype == torch.float32
            assert ours.item() == pytest.approx(reference.item(), rel=1e-5)


def test_a_target_in_half_precision_does_not_lower_that_of_the_loss(logits, teacher_logits):
    target = teacher_logits.softmax(dim=-1).half()
    found = kl_to_target(target, logits.float(), 2.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kl_to_target(target.double(), logits, 2.0).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kd_lambda", [0.0, 0.3, 1.0])
def test_sequences_are_examples_in_a_row(kd_lambda):
    logits, target = torch.randn(3, 4, C), torch.randn(3, 4, C).softmax(dim=-1)
    labels = torch.randint(C, (3, 4))
    sequences = distillation_loss(logits, labels, target, kd_lambda, 2.0, 3.0, 0.1)
    rows = distillation_loss(logits.flatten(0, 1), labels.flatten(), target.flatten(0, 1), kd_lambda, 2.0, 3.0, 0.1)
    torch.testing.assert_close(sequences.total, rows.total)


@pytest.mark.parametrize("kd_lambda", [0.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_positions_labeled_minus_100_count_in_neither_term(kd_lambda, smoothing):
    logits, target = torch.randn(3, 4, C, dtype=torch.float64), torch.randn(3, 4, C, dtype=torch.float64).softmax(-1)
    labels = torch.randint(C, (3, 4))
    labels[0, 2:] = labels[2] = -100
    counted = labels != -100
    expected = distillation_loss(logits[counted], labels[counted], target[counted], kd_lambda, 2.0, 3.0, smoothing)
    found = distillation_loss(logits, labels, target, kd_lambda, 2.0, 3.0, smoothing)
    torch.testing.assert_close(found.total, expected.total)
    given = distillation_loss(logits, labels, target, kd_lambda, 2.0, 3.0, smoothing, num_items=10)
    torch.testing.assert_close(given.total, expected.total * 6 / 10)


@pytest.mark.parametrize("kd_lambda", [0.0, 0.3, 1.0])
def test_micro_batches_add_up_to_the_step(logits, labels, teacher_logits, kd_lambda):
    target = temper(teacher_logits.softmax(dim=-1), 2.0)
    whole = distillation_loss(logits, labels, target, kd_lambda, 2.0, 4.0).total
    parts = [
        distillation_loss(
            logits[part], labels[part], target[part], kd_lambda, 2.0, 4.0, num_items=torch.tensor(B)
        ).total
        for part in (slice(0, 2), slice(2, 3), slice(3, B))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_lambda_for_each_example_weighs_each_by_itself(labels, logits, teacher_logits):
    target, lambdas = teacher_logits.softmax(dim=-1), torch.linspace(0, 1, B, dtype=torch.float64)
    each = [
        distillation_loss(logits[i : i + 1], labels[i : i + 1], target[i : i + 1], lambdas[i].item(), 2.0, 3.0, 0.1)
        for i in range(B)
    ]
    found = distillation_loss(logits, labels, target, lambdas, 2.0, 3.0, 0.1)
    torch.testing.assert_close(found.total, sum(parts.total for parts in each) / B)
    constant = distillation_loss(logits, labels, target, torch.full((B,), 0.3), 2.0, 3.0, 0.1)
    single = distillation_loss(logits, labels, target, 0.3, 2.0, 3.0, 0.1)
    for ours, scalar in zip(constant[:3], single[:3], strict=True):
        torch.testing.assert_close(ours, scalar)
    assert constant.kd_lambda.item() == pytest.approx(0.3) and found.kd_lambda.item() == pytest.approx(0.5)


@pytest.mark.parametrize("kd_lambda", [0.2, 0.9, torch.linspace(0.1, 1, B, dtype=torch.float64)])
def test_an_example_without_a_label_is_taught_by_its_soft_label_alone(labels, logits, teacher_logits, kd_lambda):
    target = teacher_logits.softmax(dim=-1)
    unlabeled = labels.clone()
    unlabeled[[1, 3]] = -100
    known = unlabeled != -100
    lambdas = torch.as_tensor(kd_lambda, dtype=torch.float64).expand(B)
    entropy = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    divergence = (target * (target.log() - (logits / 2).log_softmax(dim=-1))).sum(dim=-1)
    each = torch.where(known, (1 - lambdas) * entropy + lambdas * 3 * divergence, 3 * divergence)
    actual = distillation_loss(logits, unlabeled, target, kd_lambda, 2.0, 3.0, 0.1)
    torch.testing.assert_close(actual.total, each.mean())
    torch.testing.assert_close(
        distillation_loss(logits, unlabeled, None, 0.0).total, F.cross_entropy(logits, unlabeled)
    )


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0)])
def test_a_step_without_any_label_has_loss_0_and_finite_gradients(num_items):
    logits = torch.randn(B, C, requires_grad=True)
    loss = distillation_loss(logits, torch.full((B,), -100), None, 0.0, num_items=num_items).total
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max().item() == 0


def test_without_weight_on_the_teacher_it_is_plain_cross_entropy_to_the_bit(labels):
    logits = torch.randn(B, C)
    assert distillation_loss(logits, labels, None, 0.0).total == F.cross_entropy(logits, labels, reduction="sum") / B
