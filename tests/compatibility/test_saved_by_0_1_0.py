"""What version 0.1.0 saved is read by this one, with the numbers that it was saved with.

The files lie in ``saved_by_0_1_0`` beside this test; its ``make.py`` wrote them, and what the functions below read of
them into ``expected.json``, all with that version.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, TrainerCallback, set_seed

from hf_bkd import (
    CropAndFlip,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    Perceptron,
    ResidentDataset,
    Teacher,
    Views,
    add_soft_labels,
    check_against_teacher,
    join_soft_labels,
)
from hf_bkd.cli import main as command_line
from hf_bkd.soft_labels import read
from hf_bkd.study import DETERMINISTIC, LAPLACE, ONE_HOT, Splits, Study, Vectors
from hf_bkd.study import main as run_study
from hf_bkd.theory import GaussianMixture

SAVED = Path(__file__).parent / "saved_by_0_1_0"
NAMES = ["red", "green", "blue"]
PREPROCESS, VIEWS = ImagePreprocessor((0.5,), (0.25,)), Views(CropAndFlip(padding=1), number=2, seed=5)
ROWS, FIT = 12, ["teacher", "fit", "--method", "deterministic", "--model", "cnn6_small", "--dataset", "data"]


class Tiny(nn.Module):
    """x [B, 4] to logits [B, 3], with a norm and dropout."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def mixture() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]), torch.eye(2) / 2)


def points(number: int = 5) -> Tensor:
    return torch.sin(torch.arange(4.0 * number) ** 1.5).reshape(number, 4)


def pictures(number: int = ROWS) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(256, size=(number, 8, 8), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [Image.fromarray(each) for each in pixels], "label": [i % 3 for i in range(number)]}
    return datasets.Dataset.from_dict(rows, features=features)


def quadrants(rows: dict[str, list]) -> dict[str, Tensor]:
    """What a plain network reads of pictures: the means of four parts."""
    pixels = torch.tensor(np.stack([np.asarray(each) for each in rows["image"]]) / 255, dtype=torch.float32)
    return {"x": pixels.unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(3, 4)).flatten(1)}


INPUTS = {
    "plain": points(),
    "image": {"pixel_values": torch.cos(torch.arange(3.0 * 64) ** 1.5).reshape(3, 1, 8, 8)},
    "text": {"input_ids": torch.arange(20).reshape(4, 5), "attention_mask": torch.ones(4, 5, dtype=torch.long)},
    "oracle": points(4).reshape(-1, 2),
}
NETWORKS: dict[str, Callable[[], nn.Module | None]] = {"plain": Tiny, "oracle": mixture}
TEACHERS = sorted(str(path.parent.relative_to(SAVED / "teachers")) for path in SAVED.glob("teachers/*/*/teacher.json"))
LABELS = sorted(path.name for path in SAVED.glob("labels/*"))
REPORTS = sorted(path.name for path in SAVED.glob("results/*"))


def load_teacher(name: str) -> Teacher:
    return Teacher.from_pretrained(SAVED / "teachers" / name, network=NETWORKS.get(name.split("/")[0], lambda: None)())


def load_labels(name: str, tmp_path: Path) -> datasets.Dataset:
    path = SAVED / "labels" / name
    if path.is_dir():
        return datasets.load_from_disk(path)
    return datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))


def names_of(rows: datasets.Dataset) -> list[str | None]:
    found = [name.partition("__")[2] or None for name in rows.column_names if name.startswith("teacher_probs")]
    return sorted(found, key=str)


# What is read, the same for expected.json and for the tests


def read_teacher(name: str) -> dict[str, Any]:
    teacher = load_teacher(name)
    answer = teacher.predict(INPUTS[name.split("/")[0]], 6, torch.Generator().manual_seed(8), return_samples=True)
    return {
        "kind": type(teacher).__name__,
        "weights": teacher.fingerprint(),
        "description": teacher.describe(),
        "mean": answer.mean.tolist(),
        "variance": None if answer.variance is None else answer.variance.tolist(),
        "samples": answer.samples.flatten(1).std(dim=1).tolist(),
    }


def read_labels(name: str, tmp_path: Path) -> dict[str, Any]:
    rows, content = load_labels(name, tmp_path), {}
    for teacher in names_of(rows):
        labels = read(rows, teacher)
        variance = None if labels.variance is None else labels.variance.tolist()
        content[str(teacher)] = {"probs": labels.probs.tolist(), "variance": variance}
        suffix = "" if teacher is None else f"__{teacher}"
        assert labels.provenance == json.loads(rows.features[f"teacher_provenance{suffix}"].names[0])
    return {"ids": rows["example_id"][:], "teachers": content}


def read_views(tmp_path: Path) -> list:
    """Pixels and labels of four rows in the view of the second epoch."""
    rows = ResidentDataset.from_images(load_labels("views", tmp_path), PREPROCESS, progress=False)
    rows.set_epoch(1)
    batch = rows[[0, 3, 5, 7]]
    return [batch["pixel_values"].double().sum(dim=(1, 2)).tolist(), batch["teacher_probs"].tolist()]


def read_students() -> dict[str, list]:
    network = AutoModelForImageClassification.from_pretrained(SAVED / "student").eval()
    student = SAVED / "study" / "students" / "all" / "seed-0" / "deterministic"
    perceptron = Perceptron.from_pretrained(student).eval()
    posterior = Teacher.from_pretrained(student / "posterior", network=Perceptron.from_pretrained(student))
    with torch.no_grad():
        return {
            "transformers": network(**INPUTS["image"]).logits.tolist(),
            "perceptron": perceptron(points()).tolist(),
            "posterior": posterior.predict(points(), 20, torch.Generator().manual_seed(1)).mean.tolist(),
        }


# What goes on from where it was interrupted


class Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


def trainer(folder: Path, tmp_path: Path) -> DistillationTrainer:
    """Of a plain network with dropout, on features beside stored labels, five steps between checkpoints."""
    values = {"x": points(ROWS).tolist()}
    labels = load_labels("float32", tmp_path)
    rows = labels.remove_columns("image").rename_column("label", "labels").add_column("x", values["x"])
    set_seed(4)
    args = DistillationTrainingArguments(
        str(folder), per_device_train_batch_size=4, num_train_epochs=4, learning_rate=0.05, kd_lambda=0.6,
        student_temperature=2.0, lambda_schedule="adaptive", save_steps=5, save_strategy="steps", logging_steps=1,
        disable_tqdm=True, use_cpu=True, report_to="none",
        dataloader_pin_memory=False,
    )  # fmt: skip
    return DistillationTrainer(Tiny(), args, train_dataset=rows)


def resumed_training(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Losses of all steps, and the student's logits after the last."""
    resumed = trainer(folder, tmp_path)
    resumed.train(resume_from_checkpoint=True)
    log = resumed.state.log_history
    logged = ("loss", "cross_entropy", "distillation")
    losses = {name: [entry[name] for entry in log if name in entry] for name in logged}
    with torch.no_grad():
        return losses | {"logits": resumed.model.eval()(points()).tolist(), "step": resumed.state.global_step}


def fit_arguments() -> list[str]:
    options = {
        "output_dir": "teacher", "num_train_epochs": 4, "learning_rate": 0.2, "per_device_train_batch_size": 6,
        "augment": 1, "disable_tqdm": 1, "use_cpu": 1, "validation_size": 6, "seed": 3, "optim": "sgd",
    }  # fmt: skip
    return [*FIT, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def resumed_fit() -> dict[str, Any]:
    """In the folder that the training lies in, which has its data beside it."""
    command_line(fit_arguments())
    teacher = Teacher.from_pretrained("teacher")
    mean = teacher.predict(INPUTS["image"]).mean.tolist()
    return {"record": teacher.record, "temperature": teacher.temperature, "mean": mean}


def write_data(folder: Path) -> None:
    datasets.DatasetDict(train=pictures(30)).save_to_disk(folder / "data")


class Counting:
    """Counts the examples that a teacher is asked about."""

    def __init__(self, teacher: Teacher):
        self.predict, self.asked, teacher.predict = teacher.predict, 0, self

    def __call__(self, inputs: Any, *rest: Any, **more: Any) -> Any:
        self.asked += len(next(iter(inputs.values())))
        return self.predict(inputs, *rest, **more)


def resumed_labels(name: str, folder: Path, limit: int | None = None) -> dict[str, Any]:
    """Label twelve pictures, four a shard; how many of them a teacher was asked about."""
    network, counts = "image/laplace", []

    def counted(teacher: Teacher) -> Teacher:
        counts.append(Counting(teacher))
        return teacher

    settings: dict[str, Any] = {"preprocess": PREPROCESS, "shard_rows": 4, "seed": 2, "storage": "float32"}
    if name == "folds":
        settings |= {"folds": 2, "fit": lambda rest, fold: counted(load_teacher(network)), "shard_rows": 2}
    elif name == "several":
        several = load_teacher("plain/multi")
        for member in several.members.values():
            counted(member)
        settings |= {"teacher": several, "preprocess": quadrants}
    else:
        settings["teacher"] = counted(load_teacher(network))
        settings["views"] = VIEWS
    rows = add_soft_labels(pictures(), num_samples=5, folder=folder, progress=False, **settings)
    content = {str(teacher): read(rows, teacher).probs.tolist() for teacher in names_of(rows)}
    return {"probs": content, "asked": sum(each.asked for each in counts)}


# A study of features


def blobs(size: int, seed: int) -> datasets.Dataset:
    labels = np.arange(size) % 3
    features = labels[:, None] + np.sin(np.arange(4.0 * size).reshape(size, 4) ** 1.5 + seed)
    kinds = {"features": datasets.List(datasets.Value("float32"), length=4)}
    kinds |= {"label": datasets.ClassLabel(names=NAMES), "name": datasets.Value("string")}
    rows = {"features": features.tolist(), "label": labels.tolist(), "name": [f"{seed}-{i}" for i in range(size)]}
    return datasets.Dataset.from_dict(rows, datasets.Features(kinds))


STUDY = Study(
    "saved",
    (ONE_HOT, DETERMINISTIC, LAPLACE),
    {"": lambda options, seed: Splits(blobs(30, 1), blobs(15, 2), blobs(24, 3), Vectors())},
    posterior={"prior_precision": (1.0,), "chains": 2, "steps": 60, "burn_in": 20, "thinning": 5},
)
DEFAULTS = {
    "dataset": "blobs", "student_model": "mlp-3", "teacher_model": "mlp-4", "seeds": "0", "num_train_epochs": 4,
    "learning_rate": 1e-2, "per_device_train_batch_size": 10, "num_samples": 10, "save_strategy": "no",
    "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip


def report_numbers(folder: Path) -> list[float]:
    """All numbers in the tables of a page that is written anew."""
    command_line(["report", str(folder)])
    rows = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("|")]
    return sorted(float(word) for word in re.findall(r"(?<![\w.])[-+]?\d+\.\d+", " ".join(rows)))


# Tests


def expected(name: str) -> Any:
    return json.loads((SAVED / "expected.json").read_text())[name]


def assert_same(now: Any, before: Any, tolerance: float = 1e-6, where: str = "") -> None:
    """Numbers up to a tolerance, and all else as it was; what is new beside it is of no matter."""
    if isinstance(before, dict):
        for name, value in before.items():
            assert name in now, f"{where} lacks {name}"
            assert_same(now[name], value, tolerance, f"{where}.{name}")
    elif isinstance(before, list):
        assert len(now) == len(before), where
        for number, value in enumerate(before):
            assert_same(now[number], value, tolerance, f"{where}[{number}]")
    elif isinstance(before, float):
        assert now == pytest.approx(before, rel=tolerance, abs=tolerance), where
    else:
        assert now == before, where


DRAWS_CHANGED = {"plain/laplace_full_mc"}  # by a root that doesn't depend on the batch
MOMENTS_CHANGED = {  # the variance is between members, no longer between all draws; a single draw is repeated
    "plain/ensemble": {"variance"}, "plain/multi": {"variance", "samples"}, "text/multi": {"variance", "samples"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    datasets.disable_progress_bars()


@pytest.fixture
def steps(monkeypatch):
    """One entry for each training step that is done, so that nothing is begun anew unseen."""
    done, step = [], DistillationTrainer.training_step

    def counted(self, *args, **kwargs):
        done.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", counted)
    return done


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAVED / name, tmp_path / Path(name).name))


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher(name):
    now, before = read_teacher(name), expected("teachers")[name]
    changed = {"mean", "variance", "samples"} if name in DRAWS_CHANGED else MOMENTS_CHANGED.get(name, set())
    before = {key: value for key, value in before.items() if key not in changed}
    assert before
    assert_same(now, before)


def test_there_is_a_teacher_of_every_kind():
    kinds = {each["kind"] for each in expected("teachers").values()}
    assert kinds == {
        "ClassMap", "DeterministicTeacher", "EnsembleTeacher", "LangevinTeacher", "LaplaceTeacher", "MCDropoutTeacher",
        "MultiTeacher", "OracleTeacher", "VariationalTeacher",
    }  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels(name, tmp_path):
    assert_same(read_labels(name, tmp_path), expected("labels")[name])


def test_labels_belong_to_their_pictures_and_teacher(tmp_path):
    rows = load_labels("float32", tmp_path)
    assert check_against_teacher(rows, load_teacher("image/laplace"), PREPROCESS) < 1e-5
    labels = load_labels("alone.parquet", tmp_path)
    joined = join_soft_labels(pictures().select(range(ROWS - 1, 2, -1)), labels)
    assert torch.equal(read(joined).probs, read(labels).probs.flip(0)[: ROWS - 3])


def test_views_of_labels_are_shown_again(tmp_path):
    assert_same(read_views(tmp_path), expected("views"))


def test_students():
    assert_same(read_students(), expected("students"), 1e-5)


def test_a_training_goes_on_from_its_checkpoint(tmp_path, steps):
    before = expected("training")
    assert before["step"] == 12 and len(before["loss"]) == 12
    assert_same(resumed_training(copied("training", tmp_path), tmp_path), before, 1e-5)
    assert steps == list(range(5, 12))


def test_an_unfinished_teacher_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    copied("teacher.training", tmp_path)
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        resumed_fit()
    assert "teacher.training holds a training with method" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["views", "folds", "several"])
def test_a_labelling_goes_on(name, tmp_path):
    folder = copied(f"labelling/{name}", tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*.arrow")}
    assert_same(resumed_labels(name, folder), expected("labelling")[name])
    assert before and all(path.read_bytes() == content for path, content in before.items())


def test_an_unfinished_study_is_refused_in_a_sentence(tmp_path, capsys):
    folder = copied("study", tmp_path)
    with pytest.raises(SystemExit):
        run_study(STUDY, DEFAULTS, ["--output_dir", str(folder)])
    assert re.search(
        r"study holds a run with arm .* and this one has .*: pass another --output_dir", capsys.readouterr().err
    )


@pytest.mark.parametrize("name", REPORTS)
def test_results_are_reported(name, tmp_path):
    folder = copied(f"results/{name}", tmp_path)
    now, results = report_numbers(folder), json.loads((folder / "results.json").read_text())
    numbers = expected("reports")[name]
    if "arms" in results:  # ECE is omitted where labels are noisy, and accuracies stand as percentages
        arms = {(record["arm"], record.get("condition")) for record in results["arms"]}
        of_arm = [
            [r["metrics"]["accuracy"] for r in results["arms"] if (r["arm"], r.get("condition")) == arm]
            for arm in arms
        ]
        numbers = [round(100 * sum(values) / len(values), 2) for values in of_arm]
    for number in numbers:
        assert number in now, f"{number} is gone from the tables"
        now.remove(number)
