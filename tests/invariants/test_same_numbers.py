"""Promise 2: however a training is cut into processes and sittings, the numbers are the same (float32, CPU)."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    Views,
    add_soft_labels,
)
from hf_bkd.soft_labels import SoftLabels
from hf_bkd.training.checkpoints import last_checkpoint

RECORD = {"format": 1, "temperature": 1.0, "tempering": "post_average"}
PREPROCESSOR = ImagePreprocessor((0.5,) * 3, (0.25,) * 3)
N, C = 48, 4  # divides into rounds of 8: accelerate fills an incomplete one up with examples from the start


class Network(nn.Module):
    """No batch norm, whose statistics are each process' own."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * 6 * 6, C)
        )

    def forward(self, pixel_values):
        return self.layers(pixel_values)


def dataset() -> BatchedDataset:
    generator = torch.Generator().manual_seed(0)
    values = {
        "pixel_values": torch.randint(256, (N, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "labels": torch.randint(C, (N,), generator=generator),
    }
    values["labels"][::3] = -100  # rows without a label, which fall unevenly on processes
    labels = SoftLabels.of(torch.randn(N, C, generator=generator).softmax(dim=-1), RECORD)
    views = Views(CropAndFlip(padding=2), seed=3)
    return BatchedDataset(values, PREPROCESSOR, views, {None: labels})


def prepared() -> datasets.Dataset:
    """Photographs whose views were labeled, which the trainer decodes and prepares row by row."""
    pixels = np.random.default_rng(0).integers(256, size=(N, 8, 8, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=C)})
    rows = {"image": [Image.fromarray(each) for each in pixels], "label": np.arange(N) % C}
    torch.manual_seed(2)
    return add_soft_labels(
        datasets.Dataset.from_dict(rows, features=features),
        DeterministicTeacher(Network().eval()),
        preprocessor=PREPROCESSOR,
        views=Views(CropAndFlip(padding=2), num_views=2, seed=3),
        progress=False,
    )


def trainer(
    folder: Path, batch_size: int, dropout: float = 0.0, data: Callable = dataset, **changes
) -> DistillationTrainer:
    torch.manual_seed(1)
    args = DistillationTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        num_train_epochs=3,
        learning_rate=0.05,
        save_strategy="steps",
        save_steps=4,
        logging_steps=1,
        eval_strategy="epoch",
        disable_tqdm=True,
        use_cpu=True,
        **{"kd_lambda": 0.5} | changes,
    )
    sets = {"train_dataset": data(), "eval_dataset": data()}
    return DistillationTrainer(Network(dropout), args, processing_class=PREPROCESSOR, **sets)


def losses(history: list[dict], term: str = "loss") -> list[float]:
    return [entry[term] for entry in history if term in entry]


def in_each_process(rank: int, folder: Path, number: int, batch_size: int, data: Callable, changes: dict) -> None:
    """Train as one of ``number`` gloo processes; the first writes the weights and the history into ``folder``."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one was forked from
    sizes = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", **sizes}
    store = torch.distributed.FileStore(str(folder / "store"), number)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=number)
    distributed = trainer(folder, batch_size, data=data, **changes)
    distributed.train()
    if distributed.is_world_process_zero():
        save_file(distributed.accelerator.unwrap_model(distributed.model).state_dict(), folder / "weights.safetensors")
        said = {"world_size": distributed.args.world_size, "history": distributed.state.log_history}
        (folder / "said.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


def run_in_processes(folder: Path, number: int, batch_size: int, data: Callable, **changes) -> tuple[dict, dict]:
    """Train in ``number`` processes; returns the weights and what the first process wrote."""
    folder.mkdir()
    given = folder, number, batch_size, data, changes
    torch.multiprocessing.start_processes(in_each_process, given, number, start_method="fork")
    return load_file(folder / "weights.safetensors"), json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("data", [dataset, prepared])
def test_one_process_equals_two(tmp_path, data):
    alone = trainer(tmp_path / "1", batch_size=8, data=data)
    alone.train()
    weights, said = run_in_processes(tmp_path / "2", number=2, batch_size=4, data=data)
    assert said["world_size"] == 2
    assert losses(said["history"]) == pytest.approx(losses(alone.state.log_history), rel=1e-5)
    for term in ("distillation", "cross_entropy"):
        assert losses(said["history"], term) == pytest.approx(losses(alone.state.log_history, term), rel=1e-5)
    evaluated = [e["eval_loss"] for e in said["history"] if "eval_loss" in e]
    expected = [e["eval_loss"] for e in alone.state.log_history if "eval_loss" in e]
    assert len(evaluated) == 3 and evaluated == pytest.approx(expected, rel=1e-5)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=2e-6)
    started = trainer(tmp_path / "3", batch_size=8).model.state_dict()
    assert max((started[name] - weights[name]).abs().max() for name in weights) > 1e-2


def cross_fitted() -> BatchedDataset:
    """Enough rows to tell how noisy their labels are, with soft labels that say that they are cross-fitted."""
    generator, rows = torch.Generator().manual_seed(5), 64
    values = {
        "pixel_values": torch.randint(256, (rows, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "labels": torch.randint(C, (rows,), generator=generator),
    }
    right = 4 * torch.rand(rows, 1, generator=generator) * nn.functional.one_hot(values["labels"], C)
    probs = (torch.randn(rows, C, generator=generator) + right).softmax(dim=-1)
    return BatchedDataset(values, PREPROCESSOR, labels={None: SoftLabels.of(probs, RECORD | {"folds": {"number": 2}})})


@pytest.mark.parametrize("changes", [{"kd_lambda": 1.4}, {"kd_lambda": 1.0, "lambda_schedule": "bias_aware"}])
def test_one_process_equals_two_also_where_labels_are_subtracted_or_lambda_differs(tmp_path, changes):
    alone = trainer(tmp_path / "1", batch_size=8, data=cross_fitted, **changes)
    alone.train()
    weights, said = run_in_processes(tmp_path / "2", number=2, batch_size=4, data=cross_fitted, **changes)
    term = "unbounded" if changes["kd_lambda"] > 1 else "kd_lambda"
    for each in ("loss", "cross_entropy", term):
        alike = pytest.approx(losses(alone.state.log_history, each), rel=1e-5, abs=1e-6)  # a loss may be near 0
        assert losses(said["history"], each) == alike
    assert 0 < np.mean(losses(said["history"], term)) < 1
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=5e-6)


class InterruptAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", params=[dataset, prepared])
def whole(tmp_path_factory, request):
    """A training that nothing interrupts."""
    whole = trainer(tmp_path_factory.mktemp("whole"), batch_size=8, dropout=0.3, data=request.param)
    whole.data = request.param
    whole.train()
    return whole


@pytest.mark.parametrize("step", [5, 6, 9], ids=["mid-epoch", "end of an epoch", "after two checkpoints"])
def test_resumed_equals_uninterrupted(tmp_path, whole, step):
    """With dropout and augmentation, from a checkpoint in the middle of an epoch: to the last bit."""
    cut = trainer(tmp_path / "cut", batch_size=8, dropout=0.3, data=whole.data)
    cut.add_callback(InterruptAt(step))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    rest = trainer(tmp_path / "cut", batch_size=8, dropout=0.3, data=whole.data)
    rest.train(resume_from_checkpoint=True)
    assert losses(rest.state.log_history) == losses(whole.state.log_history)
    assert losses(rest.state.log_history, "cross_entropy") == losses(whole.state.log_history, "cross_entropy")
    assert rest.evaluations() == whole.evaluations()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(rest.model.state_dict()[name], value)


def test_resuming_without_a_checkpoint_starts_anew(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None
    fresh = trainer(tmp_path, batch_size=8)
    fresh.train(resume_from_checkpoint=True)
    assert fresh.state.global_step == 18
