"""Training on a GPU: the CPU's losses, every precision, every kind of supervision, resumed bit for bit, no waiting."""

import copy
import sys
from pathlib import Path

import datasets
import pytest
import torch
from torch import nn

from hf_bkd import (
    IVON,
    BatchedDataset,
    DiagnosticsCallback,
    DistillationTrainer,
    MultiTeacher,
    VariationalTeacher,
    add_soft_labels,
    make_variational,
)
from tests.teachers.teacher_helpers import small_bert

from .gpu_helpers import (
    PREPROCESS,
    SIDE,
    VIEWS,
    C,
    N,
    arguments,
    held,
    images,
    inputs,
    laplace,
    losses,
    network,
    weights,
)

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from gpu_waits import Waits  # noqa: E402

pytestmark = pytest.mark.gpu
PLAIN = {"kd_lambda": 0.0}


def labeled(**settings):
    return add_soft_labels(images(), laplace(), 4, preprocessor=PREPROCESS, progress=False, **settings)


def labeled_twice():
    two = MultiTeacher({"a": laplace(), "b": laplace()})
    return add_soft_labels(images(), two, 4, preprocessor=PREPROCESS, progress=False)


# how a student is supervised: its dataset, and arguments of its training
SUPERVISION = {
    "labels alone": (images, PLAIN),
    "smoothed labels": (images, PLAIN | {"label_smoothing_factor": 0.1}),
    "stored": (labeled, {"kd_lambda": 0.7, "student_temperature": 2.0}),
    "stored, soft labels alone": (labeled, {"kd_lambda": 1.0}),
    "stored, views": (lambda: labeled(views=VIEWS), {"kd_lambda": 0.7}),
    "stored, top 2": (lambda: labeled(storage="top_k", top_k=2), {"kd_lambda": 0.7}),
    "stored, bytes": (lambda: labeled(storage="uint8"), {"kd_lambda": 0.7}),
    "adaptive lambda": (labeled, {"kd_lambda": 1.0, "lambda_schedule": "adaptive"}),
    "two teachers, entropy weights": (labeled_twice, {"kd_lambda": 0.7, "teacher_weights": "entropy"}),
    "two teachers, inverse variance": (labeled_twice, {"kd_lambda": 0.7, "teacher_weights": "inverse_variance"}),
    "two teachers, mixture": (labeled_twice, {"kd_lambda": 0.7, "combine": "mixture"}),
    "online": (images, {"kd_lambda": 0.7, "online_teacher": True, "teacher_samples": 3}),
}


def ivon(model: nn.Module) -> IVON:
    return IVON(model.parameters(), lr=1.0, ess=N, hess_init=100.0, betas=(0.9, 0.999))


# how a student's posterior is trained, if it has one: what changes the network, and its optimizer
STUDENTS = {
    "point": (lambda model: model, lambda model: None),
    "variational head": (lambda model: make_variational(model, "head", rank=2), lambda model: None),
    "variational network": (lambda model: make_variational(model, "full"), lambda model: None),
    "ivon": (lambda model: model, ivon),
}


# the student's own part of a step is the same however it is supervised
STEPS = [(supervision, "point") for supervision in SUPERVISION]
OTHERS = [student for student in STUDENTS if student != "point"]
STEPS += [(supervision, student) for supervision in ("labels alone", "stored, views") for student in OTHERS]


def without_norms() -> nn.Module:
    """A network whose step on a batch is the sum of the steps on its parts."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * (SIDE - 2) ** 2, C))


def trainer_of(
    folder: Path,
    device: torch.device,
    supervision: str = "stored",
    student: str = "point",
    model: nn.Module | None = None,
    **changes,
) -> DistillationTrainer:
    make, settings = SUPERVISION[supervision]
    prepare, optimizer = STUDENTS[student]
    model = prepare(network(7) if model is None else model).to(device)
    teacher = laplace().to(device) if settings.get("online_teacher") else None
    return DistillationTrainer(
        model,
        arguments(folder, device, **(settings | changes)),
        train_dataset=held(make(), device),
        eval_dataset=held(images(), device),
        teacher=teacher,
        optimizers=(optimizer(model), None),
    )


def trained(*args, **changes) -> DistillationTrainer:
    trainer = trainer_of(*args, **changes)
    trainer.train()
    assert all(weight.isfinite().all() for weight in weights(trainer.model))
    return trainer


@pytest.mark.parametrize("supervision", SUPERVISION)
def test_losses_are_those_of_the_cpu(supervision, device, tmp_path):
    found = {}
    for place, on in (("here", torch.device("cpu")), ("there", device)):
        trainer = trained(tmp_path / place, on, supervision)
        assert next(trainer.model.parameters()).device.type == on.type
        found[place] = losses(trainer), trainer.evaluate()["eval_nll"]  # before another trainer takes its device
    (expected, nll), (own, own_nll) = found["here"], found["there"]
    assert own == pytest.approx(expected, abs=2e-3) and own[0] == pytest.approx(expected[0], abs=1e-5)
    assert own_nll == pytest.approx(nll, abs=1e-2)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fast_precisions_learn_what_float32_does(precision, student, device, tmp_path):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("a CPU has no loss scaling")
    settings = {"num_train_epochs": 8, "learning_rate": 0.2}
    exact = trained(tmp_path / "exact", device, student=student, **settings)
    fast = trained(tmp_path / "fast", device, student=student, **settings, **{precision: True})
    assert (fast.accelerator.scaler is not None) == (precision == "fp16")
    assert losses(fast)[0] == pytest.approx(losses(exact)[0], rel=0.1)
    found = losses(fast)
    assert sum(found[9:12]) < 0.95 * sum(found[:3])  # before the KL divergence of so few examples sets in
    if student == "ivon":
        stds = fast.optimizer.optimizer.posterior_std(fast.model)
        teacher = VariationalTeacher(fast.model, stds)
        assert teacher.predict(inputs(), 3).mean.isfinite().all()


@pytest.mark.parametrize("supervision", ["labels alone", "stored", "stored, soft labels alone"])
def test_accumulated_batches_make_the_step_of_a_large_one(supervision, device, tmp_path):
    whole = trained(tmp_path / "whole", device, supervision, model=without_norms())
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    accumulated = trained(tmp_path / "parts", device, supervision, model=without_norms(), **parts)
    assert losses(accumulated) == pytest.approx(losses(whole), abs=1e-5)
    for found, expected in zip(weights(accumulated.model), weights(whole.model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", [None, "bf16", "fp16"])
@pytest.mark.parametrize(
    ("student", "settings"),
    [("point", {"optim": "adamw_torch"}), ("variational network", {"optim": "sgd"}), ("ivon", {})],
)
def test_a_resumed_training_is_the_same_bit_for_bit(student, settings, precision, device, tmp_path):
    if device.type == "cpu" and precision:
        pytest.skip("fast precisions are the card's")
    settings = settings | {"save_strategy": "epoch", "num_train_epochs": 3} | ({precision: True} if precision else {})
    straight = trained(tmp_path, device, "stored, views", student, **settings)
    resumed = trainer_of(tmp_path, device, "stored, views", student, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == straight.state.global_step == 9
    assert losses(resumed) == losses(straight)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed.model), weights(straight.model), strict=True))


def test_channels_last_changes_nothing_but_speed(device, tmp_path):
    plain = trained(tmp_path / "plain", device, "stored, views", model=network(7))
    model = network(7).to(memory_format=torch.channels_last)
    last = trained(tmp_path / "last", device, "stored, views", model=model, save_strategy="epoch")
    assert losses(last) == pytest.approx(losses(plain), abs=2e-3)
    last.model.save_pretrained(tmp_path / "student")


@pytest.mark.parametrize(("supervision", "student"), STEPS)
def test_no_step_of_ours_waits_for_the_device(supervision, student, device, tmp_path):
    """What transformers waits for is not counted: its look for a loss that is not finite, above all."""
    if device.type != "cuda":
        pytest.skip("only CUDA tells")
    waits = Waits(first=3, last=8)
    quiet = {"logging_steps": 10**6, "num_train_epochs": 4, "logging_nan_inf_filter": False}
    trainer = trainer_of(tmp_path, device, supervision, student, **quiet)
    trainer.add_callback(waits)
    with waits.watching():
        trainer.train()
    assert not waits.own, waits.found


def test_rows_that_lie_in_the_hosts_memory_train_alike(device, tmp_path):
    def rows():
        return held(labeled(), torch.device("cpu"))

    args = arguments(tmp_path, device, **SUPERVISION["stored"][1])
    mixed = DistillationTrainer(network(7).to(device), args, train_dataset=rows(), eval_dataset=held(images(), device))
    mixed.train()
    assert losses(mixed) == pytest.approx(losses(trained(tmp_path / "held", device)), abs=1e-5)
    assert mixed.evaluate()["eval_accuracy"] == mixed.evaluate(rows())["eval_accuracy"]


def test_diagnostics_look_into_a_training_on_the_device(device, tmp_path):
    trainer = trainer_of(tmp_path, device)
    trainer.add_callback(DiagnosticsCallback(trainer, every=2, num_examples=6, exact=torch.full((N, C), 1 / C)))
    trainer.train()
    found = [entry for entry in trainer.state.log_history if "gradient_noise_exact" in entry]
    assert len(found) == 4 and all(entry["gradient_noise_stored"] > 0 for entry in found)


def token_rows(device: torch.device) -> BatchedDataset:
    """Texts of 3 to 10 tokens, padded at their ends."""
    lengths = [3 + row % 8 for row in range(N)]
    rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(N)], "label": [n % C for n in range(N)]})

    def tokenize(rows: dict[str, list]) -> dict[str, torch.Tensor]:
        tokens = torch.randint(1, 20, (N, 10), generator=torch.Generator().manual_seed(0))
        mask = (torch.arange(10) < torch.tensor(lengths)[:, None]).long()
        return {"input_ids": tokens * mask, "attention_mask": mask}

    return BatchedDataset.from_texts(rows, tokenize, device)


def test_texts_are_learned_without_waiting_for_the_longest(device, tmp_path):
    trainers = []
    for on in (torch.device("cpu"), device):
        torch.manual_seed(1)
        args = arguments(tmp_path, on, **PLAIN, logging_nan_inf_filter=False)
        trainers.append(DistillationTrainer(small_bert(C).to(on), args, train_dataset=token_rows(on)))
        waits = Waits(first=2, last=6)
        if on.type == "cuda":
            trainers[-1].add_callback(waits)
        with waits.watching():
            trainers[-1].train()
        assert not [place for place in waits.own if "training/trainer.py" not in place], waits.found
    # dropout's masks are the device's own
    assert losses(trainers[1])[0] == pytest.approx(losses(trainers[0])[0], abs=0.3)


def test_two_trainings_after_each_other_are_the_same(device, tmp_path):
    model = network(7)
    first, second = (trained(tmp_path / name, device, model=copy.deepcopy(model)) for name in "ab")
    assert losses(first) == losses(second)


def test_a_compiled_student_learns_the_same(device, tmp_path):
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    plain = trained(tmp_path / "plain", device)
    compiled = trained(tmp_path / "compiled", device, torch_compile=True, torch_compile_backend=backend)
    assert hasattr(compiled.model_wrapped, "_orig_mod")
    assert losses(compiled) == pytest.approx(losses(plain), abs=2e-2)
