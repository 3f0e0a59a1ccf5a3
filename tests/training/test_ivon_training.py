"""IVON under the Trainer: against a loop written out, and where the means have to be in place."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_bkd import IVON, DistillationTrainer, Teacher, VariationalTeacher
from hf_bkd.teachers import predict_all
from tests.training.training_helpers import (
    NO_SCHEDULE,
    Full,
    N,
    Plain,
    Recording,
    arguments,
    examples,
    largest_difference,
    losses,
    new,
    resident,
    same_weights,
)

SETTINGS = {"lr": 0.2, "ess": N, "hess_init": 0.3, "betas": (0.8, 0.95), "weight_decay": 0.01, "seed": 3}


def trainer_of(folder, kind=Plain, optimizer=IVON, dataset=None, callbacks=(), **changes) -> DistillationTrainer:
    model = new(kind)
    return DistillationTrainer(
        model,
        arguments(folder, **{"kd_lambda": 0.0, "lr_scheduler_type": "constant"} | changes),
        train_dataset=resident() if dataset is None else dataset,
        eval_dataset=resident(examples(1)),
        optimizers=(optimizer(model.parameters(), **SETTINGS), None),
        callbacks=list(callbacks),
    )


def trained(folder, *args, **changes) -> DistillationTrainer:
    trainer = trainer_of(folder, *args, **changes)
    trainer.train()
    return trainer


def stds(trainer: DistillationTrainer) -> dict[str, Tensor]:
    return trainer.optimizer.optimizer.posterior_std(trainer.model)


def values_of(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def step_by_hand(model: nn.Module, optimizer: IVON, rows: list[int], kd_lambda: float) -> None:
    values = examples()
    optimizer.zero_grad()
    with optimizer.draw():
        logits = model(values["features"][rows])
        target = values["teacher_probs"][rows]
        distillation = (target * (target.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
        cross_entropy = F.cross_entropy(logits, values["labels"][rows])
        ((1 - kd_lambda) * cross_entropy + kd_lambda * distillation).backward()
    optimizer.step()


@pytest.mark.parametrize("kd_lambda", [0.0, 0.3])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_trainers_steps_are_those_of_a_loop_written_out(tmp_path, kd_lambda, schedule):
    """Gradients are not clipped, whatever ``max_grad_norm`` says."""
    dataset = resident(kind=Recording)
    trainer = trained(tmp_path, dataset=dataset, kd_lambda=kd_lambda, lr_scheduler_type=schedule, max_grad_norm=1e-3)
    model = new(Plain)
    optimizer = IVON(model.parameters(), **SETTINGS)
    assert len(dataset.order) == 6
    for step, rows in enumerate(dataset.order):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 6 if schedule == "linear" else 1)
        step_by_hand(model, optimizer, rows, kd_lambda)
    assert largest_difference(model, trainer.model) < 1e-6
    torch.testing.assert_close(stds(trainer), optimizer.posterior_std(model), rtol=1e-5, atol=0)
    assert largest_difference(model, new(Plain)) > 0.05


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kd_lambda", [0.0, 0.5, 1.0])
def test_accumulated_small_batches_make_the_step_of_a_large_one(tmp_path, kd_lambda, batch_size):
    """Every epoch's last step has six examples."""
    runs = [
        trained(
            tmp_path, kd_lambda=kd_lambda, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
        )
        for size in (8, batch_size)
    ]  # fmt: skip
    assert [run.state.global_step for run in runs] == [6, 6]
    assert largest_difference(runs[0].model, runs[1].model) < 1e-6
    torch.testing.assert_close(stds(runs[0]), stds(runs[1]), rtol=1e-5, atol=0)
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    how = {"num_train_epochs": 4, "lr_scheduler_type": "linear", "save_strategy": "steps", "save_steps": 5}
    whole = trained(tmp_path, **how)
    resumed = trainer_of(tmp_path, **how)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed.state.global_step == whole.state.global_step == 12
    assert same_weights(resumed.model, whole.model)
    assert equal(list(stds(resumed).values()), list(stds(whole).values()))
    assert losses(resumed) == losses(whole)


# Where the means are


class Watched(Plain):
    """Remembers its weights at each pass."""

    def __init__(self):
        super().__init__()
        self.seen = {True: [], False: []}

    def forward(self, features):
        self.seen[self.training].append(values_of(self))
        return super().forward(features)


class Watching(TrainerCallback):
    """Remembers the weights at each of the Trainer's events between steps."""

    def __init__(self):
        self.seen = {}

    def note(self, event, state, model):
        self.seen.setdefault((event, state.global_step), values_of(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.note("step", state, model)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.note("evaluate", state, model)

    def on_save(self, args, state, control, model=None, **kwargs):
        self.note("save", state, model)


def test_evaluations_checkpoints_and_callbacks_see_the_means_and_training_the_draws(tmp_path):
    dataset, watching = resident(kind=Recording), Watching()
    each_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trained(tmp_path, Watched, dataset=dataset, callbacks=[watching], **each_step)
    model = new(Plain)
    optimizer = IVON(model.parameters(), **SETTINGS)
    evaluated = trainer.model.seen[False][2:]  # after the trainer's looks at the training and the evaluation set
    assert len(evaluated) == 6 * 3 and len(trainer.model.seen[True]) == 6
    for step, rows in enumerate(dataset.order[:6]):
        before = values_of(model)
        with optimizer.draw():
            draw = values_of(model)
        step_by_hand(model, optimizer, rows, 0.0)
        means = values_of(model)
        saved = load_file(tmp_path / f"checkpoint-{step + 1}" / "model.safetensors")
        stored = [saved[name] for name, _ in model.named_parameters()]
        at = [watching.seen[event, step + 1] for event in ("step", "evaluate", "save")]
        for found in (*evaluated[3 * step : 3 * step + 3], *at, stored):
            torch.testing.assert_close(found, means, rtol=0, atol=1e-6)
        torch.testing.assert_close(trainer.model.seen[True][step], draw, rtol=0, atol=1e-6)
        assert all((a - b).abs().max() > 1e-2 for a, b in zip(draw, before, strict=True))


class Skipping(IVON):
    """Its third step is skipped, as `torch.amp.GradScaler` does where gradients overflow."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        return None if self.calls == 3 else super().step(closure)


def test_a_skipped_step_leaves_the_means(tmp_path):
    watching = Watching()
    trained(tmp_path, optimizer=Skipping, callbacks=[watching], eval_strategy="steps", eval_steps=1)
    steps = [watching.seen["evaluate", step] for step in range(1, 7)]
    assert equal(steps[1], steps[2]) and not equal(steps[2], steps[3]) and not equal(steps[0], steps[1])


class Failing(Plain):
    """Its third pass in training runs out of memory, or is interrupted."""

    failure: BaseException = RuntimeError("out of memory")

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, features):
        self.passes += self.training
        if self.passes == 3:
            raise self.failure
        return super().forward(features)


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_step_that_fails_leaves_the_means(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(Failing, "failure", failure)
    watching = Watching()
    trainer = trainer_of(tmp_path, Failing, callbacks=[watching])
    with pytest.raises(type(failure)):
        trainer.train()
    assert equal(values_of(trainer.model), watching.seen["step", 2])


# What becomes of it


@pytest.mark.parametrize("kind", ["ivon", "variational"])
def test_bfloat16_autocast_trains_float32_weights(tmp_path, kind):
    runs = []
    for half in (False, True):
        torch.manual_seed(0)
        how = {"max_steps": 1, "bf16": half, "kd_lambda": 0.0}
        if kind == "ivon":
            trainer = trained(tmp_path, **how)
        else:
            trainer = DistillationTrainer(
                new(Full), arguments(tmp_path, **how, **NO_SCHEDULE), train_dataset=resident()
            )
            trainer.train()
        runs.append(trainer)
    assert {parameter.dtype for parameter in runs[1].model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in runs[1].model.parameters())
    assert 0 < largest_difference(runs[0].model, runs[1].model) < 0.02


def test_the_trained_posterior_becomes_a_teacher_that_is_saved(tmp_path):
    trainer = trained(tmp_path / "run", num_train_epochs=3)
    teacher = VariationalTeacher(trainer.model, stds(trainer))
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=Plain())
    batches = [(examples()["features"], examples()["labels"])]
    probs = [predict_all(each, batches, num_samples=5, seed=1)[0] for each in (teacher, loaded)]
    assert torch.equal(*probs)
    by_hand, generator = [], torch.Generator().manual_seed(1)
    for _ in range(5):
        model = copy.deepcopy(trainer.model).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += stds(trainer)[name] * torch.randn(parameter.shape, generator=generator)
            by_hand.append(model(examples()["features"]).softmax(dim=-1))
    torch.testing.assert_close(probs[0], torch.stack(by_hand).mean(dim=0))
