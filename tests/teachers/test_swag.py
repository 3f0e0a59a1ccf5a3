"""SWAG against its formulas: moments of the snapshots, draws, and batch norms' statistics of each draw."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from transformers import TrainerCallback

from hf_bkd import BatchedDataset, DistillationTrainer, DistillationTrainingArguments, SWAGTeacher, Teacher
from hf_bkd.teachers import SWAG
from hf_bkd.teachers.snapshots import Moments, SnapshotCallback
from hf_bkd.teachers.swag import at_mean, has_batch_norm, statistics_at
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import SmallNetwork

N, BATCH, EPOCHS = 40, 8, 6


class Path(TrainerCallback):
    """Notes the weights and the learning rate after each step."""

    def __init__(self, network):
        self.network, self.weights, self.rates = network, [], []

    def on_step_end(self, args, state, control, **others):
        self.weights.append({name: p.detach().clone() for name, p in self.network.named_parameters()})

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **others):
        self.rates.append(optimizer.param_groups[0]["lr"])


def data(number=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 4, generator=generator)
    return BatchedDataset({"x": x, "labels": (x[:, 0] > 0).long() + (x[:, 1] > 1).long()})


def trained(tmp_path, network, callbacks, **options):
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=0.05,
        lr_scheduler_type="cosine",
        kd_lambda=0.0,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **{"save_strategy": "no", **options},
    )
    trainer = DistillationTrainer(network, args, train_dataset=data(), callbacks=list(callbacks))
    return trainer


def small(seed=0):
    torch.manual_seed(seed)
    return SmallNetwork()


@pytest.mark.parametrize(("start", "snapshots", "rank"), [(0.5, 5, 3), (0.5, 100, 4), (0.0, 10, 0)])
def test_the_moments_are_those_of_the_snapshots(tmp_path, start, snapshots, rank):
    network = small()
    callback, path = SnapshotCallback(start, snapshots, rank, rate=0.4), Path(network)
    trained(tmp_path, network, [callback, path]).train()
    steps = EPOCHS * N // BATCH
    first = int(start * steps)
    every = max((steps - first) // snapshots, 1)
    taken = [path.weights[number - 1] for number in range(first + every, steps + 1, every)]
    moments = callback.moments(network)
    assert moments.count == len(taken) >= min(snapshots, steps - first)
    for name in dict(network.named_parameters()):
        values = np.stack([each[name].double().numpy() for each in taken])
        np.testing.assert_allclose(moments.mean[name], values.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(moments.variance[name], values.var(axis=0), atol=1e-7)
        means = np.cumsum(values, axis=0) / np.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
        expected = (values - means)[-rank:] if rank else values[:0]
        np.testing.assert_allclose(np.sort(moments.deviations[name], axis=0), np.sort(expected, axis=0), atol=1e-6)
    assert path.rates[first:] == pytest.approx([0.4 * 0.05] * (steps - first))


def test_the_mean_is_torch_s_stochastic_weight_average(tmp_path):
    network = small()
    callback, averaged = SnapshotCallback(0.5, 5, 2), AveragedModel(network)

    class Torchs(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step > 15 and (state.global_step - 15) % 3 == 0:
                averaged.update_parameters(network)

    trained(tmp_path, network, [callback, Torchs()]).train()
    batches = list(data().batches())
    mean = at_mean(network, callback.moments(network).mean, batches, 10)
    update_bn([batch["x"] for batch in batches], averaged)
    for name, value in averaged.module.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(mean.state_dict()[name], value, atol=1e-5, rtol=1e-5)


def test_a_resumed_training_gathers_the_same(tmp_path):
    whole, halved = small(), small()
    first, second = SnapshotCallback(0.3, 20, 3), SnapshotCallback(0.3, 20, 3)
    trained(tmp_path / "whole", whole, [first]).train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            control.should_training_stop = state.global_step == 20

    options = {"save_strategy": "steps", "save_steps": 10}
    trained(tmp_path / "halved", halved, [SnapshotCallback(0.3, 20, 3), Stop()], **options).train()
    again = small(1)
    trained(tmp_path / "halved", again, [second], **options).train(resume_from_checkpoint=True)
    expected, found = first.moments(whole), second.moments(again)
    assert expected.count == found.count
    for part in ("mean", "variance", "deviations"):
        for name, value in getattr(expected, part).items():
            torch.testing.assert_close(getattr(found, part)[name], value, atol=0, rtol=0)


def without_norm(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def random_moments(network, rank=4, count=10):
    mean = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    variance = {name: torch.rand_like(p) for name, p in network.named_parameters()}
    deviations = {name: torch.randn(rank, *p.shape) for name, p in network.named_parameters()}
    return Moments(mean, variance, deviations, count)


def test_weights_are_drawn_with_the_mean_and_the_covariance_of_the_paper():
    network = without_norm()
    moments = random_moments(network)
    teacher = SWAGTeacher.fit(network, moments, [])
    generator = torch.Generator().manual_seed(0)
    draws = [teacher.draw_weights(generator)["0.bias"] for _ in range(6_000)]
    found = torch.stack(draws)
    deviations = moments.deviations["0.bias"]
    expected = torch.diag(moments.variance["0.bias"]) / 2 + deviations.T @ deviations / (2 * 3)
    torch.testing.assert_close(found.mean(dim=0), moments.mean["0.bias"], atol=0.05, rtol=0)
    torch.testing.assert_close(found.T.cov(), expected, atol=0.1, rtol=0.05)


def test_without_deviations_the_diagonal_has_the_whole_variance():
    network = without_norm()
    moments = random_moments(network, rank=0)
    teacher = SWAGTeacher.fit(network, moments, [])
    torch.testing.assert_close(teacher.std["2.bias"].square(), moments.variance["2.bias"])
    assert not teacher.factors and teacher.record["rank"] == 0


def test_each_draw_has_batch_norm_statistics_of_its_own():
    network, batches = small(), list(data().batches(BATCH))
    teacher = SWAGTeacher.fit(network, random_moments(network), batches, draws=3)
    answer = teacher.predict({"x": batches[0]["x"]}, 3, return_samples=True)
    for number in range(3):
        own = small()
        state = own.state_dict() | teacher._fixed_weights(number)
        own.load_state_dict(state)
        update_bn([batch["x"] for batch in batches], own)
        own.eval()
        torch.testing.assert_close(answer.samples[number], own(batches[0]["x"]).softmax(-1), atol=1e-5, rtol=1e-5)
    again = teacher.predict({"x": batches[0]["x"]}, 2, torch.Generator().manual_seed(9), return_samples=True)
    assert torch.equal(again.samples, answer.samples[:2])
    with pytest.raises(UserError, match="of 3 draws: ask for at most that many"):
        teacher.predict({"x": batches[0]["x"]}, 4)


def test_statistics_leave_the_network_as_it_was():
    network, batches = small(), list(data().batches(BATCH))
    network.train()
    network.head.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    statistics_at(network, {}, batches)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert network.backbone[1].momentum == 0.1 and has_batch_norm(network) and not has_batch_norm(without_norm())


def test_a_saved_teacher_answers_the_same(tmp_path):
    network, batches = small(), list(data().batches(BATCH))
    teacher = SWAGTeacher.fit(network, random_moments(network), batches, draws=2, seed=5)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", small(3))
    inputs = {"x": batches[0]["x"]}
    assert isinstance(loaded, SWAGTeacher) and loaded.seed == 5
    assert torch.equal(loaded.predict(inputs, 2).mean, teacher.predict(inputs, 2).mean)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda tmp: trained(tmp, small(), [SnapshotCallback(0.99)]).train(), "fewer than two snapshots"),
        (lambda tmp: SnapshotCallback().moments(small()), "0 snapshots of the weights were taken"),
        (lambda tmp: SWAGTeacher.fit(small(), random_moments(small()), []), "need batches of training examples"),
        (lambda tmp: SnapshotCallback(start=1.0), "in \\[0, 1\\)"),
        (lambda tmp: SWAG(rank=-1), "rank"),
        (lambda tmp: SWAG(draws=0), "draws"),
        (lambda tmp: SWAG(rate=0.0), "rate"),
    ],
)
def test_what_cannot_be_is_refused(wrong, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        wrong(tmp_path)
