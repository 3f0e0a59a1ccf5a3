"""What would break or wait on a GPU, found out where there is none: no devices are mixed, and no value is read."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_bkd import IVON, BatchedDataset, CropAndFlip, DistillationTrainer, Views
from hf_bkd.data.augmentations import ColorJitter, CutMix, Mixup, RandomErasing, RandomResizedCrop
from hf_bkd.data.preprocessing import Pool, look
from hf_bkd.theory.bayes import GaussianMixture
from hf_bkd.theory.sweeps import noisy_responses
from hf_bkd.training.supervision import OnlineTeacher
from hf_bkd.utils.random import ExampleGenerator

from .gpu_helpers import PREPROCESS, SIDE, TEACHERS, N, asked_with
from .pretended import Traffic, pretended_gpu
from .test_trainer import STEPS, trainer_of

# what all examples share is drawn on the host; which class is which is brought to the device at each question
FROM_THE_HOST = ("utils/random.py", "teachers/langevin.py", "teachers/multi.py")
ROWS = [3, 0, 7, 5]


def on_gpu(inputs):
    return inputs.to("cuda") if isinstance(inputs, torch.Tensor) else {n: v.to("cuda") for n, v in inputs.items()}


def moved(dataset: BatchedDataset) -> BatchedDataset:
    """The same dataset, as if it lay on the pretended card."""
    values = {name: value.to("cuda") for name, value in dataset.values.items()}
    labels = {name: labels.to("cuda") for name, labels in dataset.labels.items()}
    return BatchedDataset(values, dataset.preprocessor, dataset.views, labels, dataset.example_ids)


def test_mixed_devices_and_values_that_are_read_are_noticed():
    with pretended_gpu():
        there, here = torch.zeros(3, device="cuda"), torch.zeros(3)
        with pytest.raises(RuntimeError, match="device"):
            there + here
        with pytest.raises(RuntimeError, match="indices should be"), Traffic():
            here[torch.tensor([0], device="cuda")]
        with pytest.raises(Exception, match="local_scalar|data-dependent|data dependent"):
            float(there.sum())
        with Traffic() as traffic:
            there.cpu(), torch.tensor([1], device="cuda"), here.to("cuda", non_blocking=True)
        assert len(traffic.places) == 2


@pytest.mark.parametrize("name", [name for name in TEACHERS if not name.startswith("oracle")])  # it checks values
def test_teachers_answer(name):
    teacher, generator = TEACHERS[name](), ExampleGenerator(torch.arange(N), seed=3, view=1)
    with pretended_gpu():
        teacher.to("cuda")
        asked = on_gpu(asked_with(name))
        teacher.predict(asked, 3, generator)  # what is brought to the device once
        with Traffic() as traffic:
            answer = teacher.predict(asked, 3, generator, return_samples=True)
        assert answer.mean.device.type == answer.samples.device.type == "cuda"
    assert not [place for place in traffic.places if not place.startswith(FROM_THE_HOST)]


@pytest.mark.parametrize("seeded", [False, True])
def test_examples_of_a_mixture_are_drawn_where_it_is(seeded):
    mixture = GaussianMixture(torch.eye(3, 2), torch.eye(2))
    generator = torch.Generator().manual_seed(0) if seeded else None
    with pretended_gpu():
        mixture.to("cuda")
        points, labels = mixture.sample(5, generator)
        responses = noisy_responses(points, 0.5, 2, generator)
        assert points.device.type == labels.device.type == responses.device.type == "cuda"


VIEWS = {
    "plain": None,
    "crop and flip": Views(CropAndFlip(padding=2)),
    "all": Views(RandomResizedCrop(SIDE), ColorJitter(0.1, 0.1, 0.1), RandomErasing(0.5), Mixup(1.0)),
    "cutmix": Views(CropAndFlip(padding=2), CutMix(1.0), num_views=2),
}


@pytest.mark.parametrize("views", VIEWS)
def test_batches_are_read_without_waiting(views):
    with pretended_gpu():
        values = {"pixel_values": torch.zeros(N, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")}
        dataset = BatchedDataset(values, PREPROCESS, VIEWS[views], example_ids=np.arange(N))
        dataset._pool = Pool.of(np.arange(N), values["pixel_values"], "cuda")  # made of values: the ids
        dataset[ROWS]  # what is brought to the device once
        with Traffic() as traffic:
            batch = dataset[ROWS]
        assert {value.device.type for value in batch.values()} == {"cuda"} and not traffic.places


@pytest.mark.parametrize("views", ["all", "cutmix"])
def test_images_in_the_hosts_memory_are_mixed_in(views):
    with pretended_gpu(), Traffic():
        shown = torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")
        pool = Pool.of(np.arange(10), torch.zeros(10, 3, SIDE, SIDE, dtype=torch.uint8))
        assert look(shown, torch.arange(4, device="cuda"), VIEWS[views], 0, pool).device.type == "cuda"


@pytest.mark.parametrize(("supervision", "student"), STEPS)
def test_a_step_is_made_without_waiting(supervision, student, tmp_path, monkeypatch):
    """The part of a step that is ours: the batch, the loss, IVON's draw and update. A gradient can't be pretended."""
    ivons, teachers = (sys.modules[kind.__module__] for kind in (IVON, OnlineTeacher))
    monkeypatch.setattr(ivons, "standard_normals", lambda params, *key: [torch.randn_like(each) for each in params])
    generator = ExampleGenerator(torch.arange(len(ROWS)), seed=0)  # its seed is a value
    monkeypatch.setattr(teachers, "ExampleGenerator", lambda ids, *key: for_examples(generator, ids))
    trainer = trainer_of(tmp_path, torch.device("cpu"), supervision, student)
    trainer.state.max_steps = 1
    with pretended_gpu():
        step_on_gpu(trainer)
        with Traffic() as traffic:
            step_on_gpu(trainer, again=True)
    assert not traffic.places


def for_examples(generator: ExampleGenerator, ids: torch.Tensor) -> ExampleGenerator:
    generator.draws = replace(generator.draws, ids=ids)
    return generator


def step_on_gpu(trainer: DistillationTrainer, again: bool = False) -> None:
    if not again:
        trainer.model.to("cuda")
        trainer.train_dataset = moved(trainer.train_dataset)
        if hasattr(trainer._source, "teacher"):
            trainer._source.teacher.to("cuda")
    model, optimizer = trainer.model.train(), trainer._ivon
    batch = trainer.train_dataset[ROWS]
    if optimizer is not None:
        optimizer.perturb()
    loss = trainer.compute_loss(model, batch, num_items_in_batch=torch.as_tensor(trainer._count_items(batch)))
    assert loss.device.type == "cuda"
    if optimizer is not None:
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
