"""Teachers on a GPU say what they say on the CPU, and are fitted, saved and asked to label there."""

import numpy as np
import pytest
import torch

from hf_bkd import CropAndFlip, LaplaceTeacher, Teacher, Views, add_soft_labels, sharpness
from hf_bkd.data.augmentations import CutMix, Mixup, RandomResizedCrop
from hf_bkd.soft_labels import read
from hf_bkd.utils.random import ExampleGenerator

from .gpu_helpers import (
    PREPROCESS,
    SIDE,
    TEACHERS,
    VIEWS,
    C,
    N,
    asked_with,
    batches,
    dropout,
    images,
    inputs,
    langevin,
    laplace,
    network,
)

pytestmark = pytest.mark.gpu
DRAWS = 5
LABELING = {
    "of the images": None,
    "of views": VIEWS,
    "of views that mix": Views(CropAndFlip(padding=2), CutMix(1.0), num_views=2),
    "of resized views that mix": Views(RandomResizedCrop(SIDE), Mixup(0.4), num_views=2),
}


def same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=0, atol=tolerance)


def generator() -> ExampleGenerator:
    return ExampleGenerator(torch.arange(N), seed=3, view=1)


@pytest.mark.parametrize("name", TEACHERS)
def test_predictions_and_draws_are_those_of_the_cpu(name, device):
    teacher, asked = TEACHERS[name](), asked_with(name)
    expected = teacher.predict(asked, DRAWS, generator(), return_samples=True)
    found = teacher.to(device).predict(asked, DRAWS, generator(), return_samples=True)
    assert found.mean.device.type == teacher.device.type == device.type
    same(found.mean, expected.mean)
    same(found.samples, expected.samples)
    if expected.variance is not None:
        same(found.variance, expected.variance)


@pytest.mark.parametrize("name", ["laplace, draws", "variational network", "langevin, head", "multi"])
def test_torchs_own_generator_will_do(name, device):
    probs = TEACHERS[name]().to(device).predict(asked_with(name), 3).mean
    same(probs.sum(dim=-1), torch.ones(N))


def test_masks_of_dropout_depend_on_the_generator_and_leave_torchs_alone(device):
    teacher, state = dropout().to(device), torch.get_rng_state()
    first, again = (teacher.predict(inputs(), 3, generator(), return_samples=True).samples for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), state)
    many, here = teacher.predict(inputs(), 500, generator()), dropout().predict(inputs(), 500, generator())
    error = ((many.variance.cpu() + here.variance) / 500).sqrt()
    assert ((many.mean.cpu() - here.mean).abs() / error.clamp_min(1e-6)).max() < 6


@pytest.mark.parametrize("views", LABELING)
@pytest.mark.parametrize("name", ["deterministic", "laplace, draws", "variational network", "ensemble"])
def test_labels_are_those_of_the_cpu(name, views, device):
    teacher, settings = TEACHERS[name](), {"preprocessor": PREPROCESS, "views": LABELING[views], "progress": False}
    settings |= {"storage": "float32", "batch_size": 10}
    expected = read(add_soft_labels(images(), teacher, 3, **settings))
    found = read(add_soft_labels(images(), teacher.to(device), 3, **settings))
    same(found.probs, expected.probs)
    if expected.variance is not None:
        same(found.variance, expected.variance)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_labels_of_fast_passes_are_near_those_of_exact_ones(precision, device):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("a CPU's is too slow, or missing")
    teacher = laplace().to(device)
    settings = {"preprocessor": PREPROCESS, "progress": False}
    labeled = [add_soft_labels(images(), teacher, 3, **settings, mixed_precision=each) for each in (None, precision)]
    exact, fast = (read(dataset).probs for dataset in labeled)
    assert not torch.equal(exact, fast)
    same(fast, exact, tolerance=0.05)


@pytest.mark.parametrize("structure", ["kron", "diag", "full"])
@pytest.mark.parametrize("rule", [1.0, "marginal_likelihood", None])
def test_laplace_is_fitted_on_the_device(structure, rule, device):
    here, there = (
        LaplaceTeacher.fit(network().to(on), batches(on), batches(on), structure=structure, prior_precision=rule)
        for on in ("cpu", device)
    )
    assert there.curvature.device.type == device.type
    assert there.prior_precision == pytest.approx(here.prior_precision, rel=0.2)  # an optimum is flat
    same(there.predict(inputs()).mean, here.predict(inputs()).mean, tolerance=1e-4 if rule == 1.0 else 5e-3)


@pytest.mark.parametrize(
    ("parameters", "settings"), [("head", {}), ("head", {"sampler": "sgld", "batch_size": 8}), ("all", {})]
)
def test_langevin_chains_run_on_the_device(parameters, settings, device):
    here, there = (langevin(parameters, on, **settings) for on in ("cpu", device))
    assert all(value.device.type == device.type for value in there.weights.values())
    same(there.predict(inputs(), 20).mean, here.predict(inputs(), 20).mean, tolerance=0.15)


@pytest.mark.parametrize("name", ["laplace, draws", "variational network", "langevin, head", "ensemble", "multi"])
def test_a_teacher_saved_from_the_device_is_the_same_one(name, device, tmp_path):
    teacher = TEACHERS[name]().to(device)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert loaded.device.type == "cpu" and loaded.fingerprint() == teacher.fingerprint()
    same(
        loaded.to(device).predict(inputs(), 3, generator()).mean, teacher.predict(inputs(), 3, generator()).mean, 1e-6
    )


class Hungry:
    """A teacher that takes a fortieth of the card's memory for each example."""

    num_classes = C

    def __init__(self, device: torch.device):
        self.device, self.sizes = device, []
        self.share = torch.cuda.get_device_properties(device).total_memory // 40

    def predict(self, inputs, num_samples, generator):
        size = len(inputs["pixel_values"])
        self.sizes.append(size)
        taken = torch.empty(size * self.share, dtype=torch.uint8, device=self.device)
        probs = torch.full((size, C), 1 / C, device=taken.device)
        return type("Answer", (), {"mean": probs, "variance": None})

    def describe(self):
        return {"method": "hungry", "num_classes": C, "temperature": 1.0, "tempering": "post_average", "weights": "0"}


@pytest.mark.parametrize("folds", [None, 2])
def test_batches_are_halved_until_they_fit(folds, device):
    if device.type != "cuda":
        pytest.skip("only a card's memory is found out like this")
    teacher, dataset = Hungry(device), images(200)
    settings = {"preprocessor": PREPROCESS, "progress": False, "batch_size": 100}
    if folds:
        labeled = add_soft_labels(dataset, folds=folds, fit=lambda rest, fold: teacher, **settings)
    else:
        labeled = add_soft_labels(dataset, teacher, **settings)
    assert np.asarray(labeled["teacher_probs"][:]).shape == (200, C)
    assert teacher.sizes[0] == 100 and max(teacher.sizes[-4:]) <= 40
    torch.cuda.empty_cache()  # for the tests that follow


def test_sharpness_is_that_of_the_cpu(device):
    here, there = (sharpness(network().to(on), batches(on), num_samples=5) for on in ("cpu", device))
    assert there.largest_eigenvalue == pytest.approx(here.largest_eigenvalue, rel=1e-3)
    assert there.trace == pytest.approx(here.trace, rel=1e-3)
