"""What every teacher does with its draws: tempering, moments, inputs, generators."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from hf_bkd.models.classifier import create_classifier
from hf_bkd.teachers import (
    DeterministicTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
    predict_all,
)
from hf_bkd.utils.errors import UserError
from hf_bkd.utils.random import ExampleGenerator, standard_normal
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points, small_bert


class FixedDraws(Teacher):
    """Hands out given logits [S, B, C]."""

    method = "fixed draws"

    def __init__(self, logits: Tensor, **settings):
        super().__init__(nn.Linear(1, logits.shape[-1]), **settings)
        self.logits = logits

    def draw_logits(self, inputs, num_samples, generator):
        return self.logits[:num_samples]


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


LOGITS = 3 * torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(5))
X = torch.zeros(5, 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_per_sample_tempering_is_the_mean_of_tempered_draws(temperature):
    drawn = probabilities(LOGITS.double().numpy() / temperature)
    actual = FixedDraws(LOGITS, temperature=temperature, tempering="per_sample").predict(X, 6, return_samples=True)
    np.testing.assert_allclose(actual.mean, drawn.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(actual.samples, drawn, rtol=1e-5)
    np.testing.assert_allclose(actual.variance, drawn.var(axis=0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_post_average_tempering_is_a_power_of_the_mean_of_untempered_draws(temperature):
    drawn = probabilities(LOGITS.double().numpy())
    powers = drawn.mean(axis=0) ** (1 / temperature)
    actual = FixedDraws(LOGITS, temperature=temperature, tempering="post_average").predict(X, 6, return_samples=True)
    np.testing.assert_allclose(actual.mean, powers / powers.sum(axis=-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(actual.samples, drawn, rtol=1e-5)
    np.testing.assert_allclose(actual.variance, drawn.var(axis=0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("tempering", ["per_sample", "post_average"])
def test_temperature_one_leaves_the_mean_of_the_draws(tempering):
    actual = FixedDraws(LOGITS, tempering=tempering).predict(X, 6, return_samples=True)
    assert torch.equal(actual.mean, actual.samples.mean(dim=0))
    assert actual.mean.dtype == torch.float32


@pytest.mark.parametrize("tempering", ["per_sample", "post_average"])
def test_probabilities_below_float32_survive_a_high_temperature(tempering):
    logits = torch.tensor([[[0.0, -150.0, -400.0]]])
    actual = FixedDraws(logits, temperature=20.0, tempering=tempering).predict(X).mean
    np.testing.assert_allclose(actual, probabilities(logits[0].double().numpy() / 20), rtol=1e-5)


def test_a_single_draw_has_no_variance_and_samples_come_on_request():
    teacher = FixedDraws(LOGITS)
    one = teacher.predict(X, 1)
    assert one.variance is None and one.samples is None
    assert teacher.predict(X, 2).variance.shape == (5, 4)
    assert teacher.predict(X, 2, return_samples=True).samples.shape == (2, 5, 4)


@pytest.mark.parametrize("num_samples", [0, -3])
def test_fewer_than_one_draw_is_refused(num_samples):
    with pytest.raises(UserError, match="num_samples must be a whole number of at least 1"):
        FixedDraws(LOGITS).predict(X, num_samples)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(UserError, match="temperature must be above 0"):
        FixedDraws(LOGITS, temperature=temperature)


def test_an_unknown_tempering_is_refused():
    with pytest.raises(UserError, match="tempering is 'both'.*per_sample, post_average"):
        FixedDraws(LOGITS, tempering="both")


def laplace(structure: str = "kron") -> LaplaceTeacher:
    return LaplaceTeacher.fit(
        SmallNetwork(), in_batches(*points(40)), structure=structure, prior_precision=2.0, link="mc"
    )


def laplace_full() -> LaplaceTeacher:
    return laplace("full")


def variational(posterior: str = "head") -> VariationalTeacher:
    return VariationalTeacher(make_variational(SmallNetwork(), posterior, initial_std=0.3, rank=1))


def variational_full() -> VariationalTeacher:
    return variational("full")


def dropout() -> MCDropoutTeacher:
    return MCDropoutTeacher(SmallNetwork())


def deterministic() -> DeterministicTeacher:
    return DeterministicTeacher(SmallNetwork(), temperature=2.0)


GAUSSIANS = [laplace, laplace_full, variational, variational_full]
POSTERIORS = pytest.mark.parametrize("make", [*GAUSSIANS, dropout])
WITHOUT_DROPOUT = pytest.mark.parametrize("make", [deterministic, *GAUSSIANS])
ALL = pytest.mark.parametrize("make", [deterministic, *GAUSSIANS, dropout])


@POSTERIORS
def test_the_same_generator_gives_the_same_draws_and_another_others(make):
    teacher, (x, _) = make(), points(7)
    draws = [
        teacher.predict(x, 4, torch.Generator().manual_seed(seed), return_samples=True).samples for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1])
    # (of dropout's few masks some are the same)
    assert not torch.isclose(draws[0], draws[2]).all(dim=-1).all()
    assert not torch.isclose(draws[0][0], draws[0][1]).all(dim=-1).all()
    if make is not dropout:
        assert not torch.isclose(draws[0], draws[2]).all(dim=-1).any()
        assert not torch.isclose(draws[0][0], draws[0][1]).all(dim=-1).any()


@POSTERIORS
def test_draws_come_from_the_given_generator_alone_and_else_from_the_global_one(make):
    teacher, (x, _) = make(), points(7)
    before = torch.get_rng_state()
    teacher.predict(x, 4, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    without = [teacher.predict(x, 4).mean for _ in range(2)]
    assert not torch.equal(*without)
    torch.set_rng_state(before)
    assert torch.equal(teacher.predict(x, 4).mean, without[0])


def test_noise_is_drawn_on_the_generators_device_and_brought_to_the_networks():
    drawn, expected = (torch.Generator().manual_seed(3) for _ in range(2))
    noise = standard_normal((2, 3), torch.empty(0, device="meta", dtype=torch.float64), drawn)
    torch.randn(2, 3, generator=expected)
    assert noise.device.type == "meta" and noise.dtype == torch.float64
    assert torch.equal(drawn.get_state(), expected.get_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", GAUSSIANS)
def test_a_cpu_generator_gives_the_same_draws_on_a_gpu(make):
    teacher, (x, _) = make(), points(7)
    here = teacher.predict(x, 4, torch.Generator().manual_seed(3), return_samples=True).samples
    there = teacher.to("cuda").predict(x, 4, torch.Generator().manual_seed(3), return_samples=True).samples
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)


@WITHOUT_DROPOUT
def test_a_network_in_train_mode_predicts_in_evaluation_mode_without_gradients(make):
    teacher, (x, _) = make(), points(7)
    network = teacher.network.train()
    statistics = network.backbone[1].running_mean.clone(), network.backbone[1].running_var.clone()
    first, second = (teacher.predict(x, 4, torch.Generator().manual_seed(3), return_samples=True) for _ in range(2))
    assert torch.equal(first.samples, second.samples)  # no dropout
    assert torch.equal(teacher.predict(x[:1], 4, torch.Generator()).mean.isfinite(), torch.ones(1, 3).bool())
    assert torch.equal(network.backbone[1].running_mean, statistics[0])
    assert torch.equal(network.backbone[1].running_var, statistics[1])
    assert not any(part.requires_grad for part in first if part is not None)
    assert all(parameter.grad is None for parameter in network.parameters())


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precisions_predict_nearly_the_same_in_float32(make, dtype):
    teacher, (x, _) = make(), points(7)
    expected = teacher.predict(x, 4, torch.Generator().manual_seed(3)).mean
    teacher.network.to(dtype)
    actual = teacher.predict(x.to(dtype), 4, torch.Generator().manual_seed(3)).mean
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.03 if dtype == torch.bfloat16 else 1e-5)


def test_keyword_arguments_and_the_first_argument_are_the_same_inputs():
    network, (x, _) = SmallNetwork(), points(6)
    teacher = DeterministicTeacher(network)
    assert torch.equal(teacher.predict({"x": x}).mean, teacher.predict(x).mean)
    bert = DeterministicTeacher(small_bert())
    words = {"input_ids": torch.randint(20, (2, 6)), "attention_mask": torch.tensor([[1] * 6, [1] * 3 + [0] * 3])}
    expected = torch.softmax(bert.network(**words).logits, dim=-1)
    torch.testing.assert_close(bert.predict(words).mean, expected)
    torch.testing.assert_close(bert.predict(BatchEncoding(words)).mean, expected)
    assert not torch.allclose(bert.predict(words["input_ids"]).mean, expected)  # the mask went with them


def test_predict_all_goes_through_pairs_and_dicts_in_order():
    teacher, (x, labels) = laplace(), points(40)
    batches = in_batches(x, labels, 15)
    probs, actual = predict_all(teacher, batches, num_samples=3, seed=9)
    generator = torch.Generator().manual_seed(9)
    expected = torch.cat([teacher.predict(part, 3, generator).mean for part, _ in batches])
    assert torch.equal(probs, expected) and torch.equal(actual, labels)
    as_dicts = [BatchEncoding({"x": part, "labels": part_labels}) for part, part_labels in batches]
    assert torch.equal(predict_all(teacher, as_dicts, num_samples=3, seed=9)[0], expected)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "no examples to predict"),
        ([{"x": torch.zeros(2, 4)}], "'labels' entry; this one is a dict with x"),
        ([(torch.zeros(2, 4),)], "this one is a tuple"),
        ([torch.zeros(2, 4)], "this one is a Tensor"),
    ],
)
def test_batches_without_labels_are_refused(batches, words):
    with pytest.raises(UserError, match=words):
        predict_all(deterministic(), batches)


def test_a_network_in_bfloat16_takes_float32_images():
    network = create_classifier("cnn6_small", 3, in_chans=1, image_size=8, mean=(0.5,), std=(0.3,))
    images = torch.randn(4, 1, 8, 8)
    expected = DeterministicTeacher(network).predict({"pixel_values": images}).mean
    plain = network.timm_model.to(torch.bfloat16)
    assert DeterministicTeacher(plain).predict(images).mean.dtype == torch.float32
    torch.testing.assert_close(DeterministicTeacher(plain).predict(images).mean, expected, atol=0.02, rtol=0)


class SelfDrawing(nn.Module):
    """A network that draws noise by itself, from the generators of three libraries."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        noise = torch.rand(len(x), 3) + torch.tensor(np.random.rand(len(x), 3)).float() + random.random()
        return self.head(x) + noise * torch.tensor([1.0, 2.0, 3.0])


def test_what_a_network_draws_by_itself_comes_from_the_generator_of_the_examples():
    teacher, x, ids = DeterministicTeacher(SelfDrawing()), torch.ones(5, 4), torch.arange(5)
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    first = teacher.predict(x, generator=ExampleGenerator(ids, 3)).mean
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    assert all(callable(draw) and draw() is not None for draw in (random.random, np.random.rand, torch.rand(1).item))
    assert torch.equal(first, teacher.predict(x, generator=ExampleGenerator(ids, 3)).mean)
    assert not torch.equal(first, teacher.predict(x, generator=ExampleGenerator(ids, 4)).mean)
    assert not torch.equal(first, teacher.predict(x).mean)
