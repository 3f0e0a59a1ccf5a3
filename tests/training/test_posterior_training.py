"""Training posteriors: the weight and the size of the divergence, and IVON under the Trainer."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_bkd import DistillationTrainer, UserError
from hf_bkd.models.variational_layers import gaussian_kl
from tests.training import problem_helpers
from tests.training.training_helpers import (
    NO_SCHEDULE,
    Bayesian,
    C,
    D,
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
    trained,
)

# The weight of the divergence


# (warmup, annealing): the weight at given shares of the training
SCHEDULES = {
    (0.5, 0.25): {0: 0, 0.25: 0, 0.5: 0, 0.55: 0.2, 0.625: 0.5, 0.75: 1, 0.995: 1},
    (0.5, 0.0): {0: 0, 0.495: 0, 0.5: 1, 0.995: 1},
    (0.0, 0.5): {0: 0, 0.005: 0.01, 0.25: 0.5, 0.5: 1, 0.8: 1},
    (0.0, 1.0): {0: 0, 0.3: 0.3, 0.995: 0.995},
    (0.0, 0.0): {0: 1, 0.5: 1, 0.995: 1},
    (1.0, 0.0): {0: 0, 0.5: 0, 0.995: 0},
    (0.3, 0.2): {0.295: 0, 0.3: 0, 0.35: 0.25, 0.5: 1},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_divergence_weighs_nothing_then_rises_linearly_to_one(tmp_path, schedule):
    settings = dict(zip(NO_SCHEDULE, schedule, strict=True))
    trainer = DistillationTrainer(new(Plain), arguments(tmp_path, kd_lambda=0.0, **settings))
    for share, expected in SCHEDULES[schedule].items():
        trainer.state = SimpleNamespace(global_step=round(share * 200), max_steps=200)
        assert trainer._kl_weight() == pytest.approx(expected, abs=1e-12)


def test_the_defaults_are_100_and_50_of_200_epochs(tmp_path):
    args = arguments(tmp_path)
    assert (args.kl_warmup * 200, args.kl_annealing * 200) == (100, 50)


@pytest.mark.parametrize(("batch_size", "accumulated"), [(8, 1), (2, 4)])
def test_the_loss_of_each_step_carries_the_divergence_by_that_weight(tmp_path, monkeypatch, batch_size, accumulated):
    monkeypatch.setattr("hf_bkd.training.trainer.gaussian_kl", lambda model: torch.tensor(3.0 * N))
    trainer = trained(
        tmp_path, kd_lambda=0.0, kl_warmup=0.25, kl_annealing=0.5, max_steps=12,
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulated,
    )  # fmt: skip
    found = [loss - entropy for loss, entropy in zip(losses(trainer), losses(trainer, "cross_entropy"), strict=True)]
    expected = [3 * min(max((step - 3) / 6, 0), 1) for step in range(12)]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", NO_SCHEDULE)
@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_shares_out_of_range_are_refused(tmp_path, name, share):
    with pytest.raises(UserError, match=f"{name} must be between 0 and 1, and it is {share}"):
        arguments(tmp_path, **{name: share})


# Its size


def loss_by_hand(
    model: nn.Module, values: dict[str, Tensor], rows: list[int], kd_lambda: float, noise: float
) -> Tensor:
    """Of the model that ``Full`` makes, with all of its noise the same number."""
    first, head = model.layers[0], model.layers[2]
    features = values["features"][rows].to(first.weight)

    def drawn(layer: nn.Module, inputs: Tensor) -> Tensor:
        variance = inputs**2 @ (2 * layer.weight_log_std).exp().T + (2 * layer.bias_log_std).exp()
        return inputs @ layer.weight.T + layer.bias + noise * variance.sqrt()

    hidden = drawn(first, features).tanh()
    logits = drawn(head, hidden) + noise * (hidden @ head.weight_factor[0].T + head.bias_factor[0])
    target = values["teacher_probs"][rows].to(logits)
    distillation = (target * (target.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    cross_entropy = F.cross_entropy(logits, values["labels"][rows])
    return (1 - kd_lambda) * cross_entropy + kd_lambda * distillation + gaussian_kl(model) / N


@pytest.mark.parametrize("kd_lambda", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize(("batch_size", "accumulated"), [(8, 1), (2, 4)])
def test_a_variational_network_pays_its_divergence_over_the_training_set(
    tmp_path, batch_size, accumulated, noise, kd_lambda, monkeypatch
):
    """The first step's loss and gradient are those of E + KL / N, accumulated or not."""
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, noise))
    values, dataset = examples(), resident(kind=Recording)
    trainer = trained(
        tmp_path, Full, dataset=dataset, kd_lambda=kd_lambda, max_steps=1, learning_rate=0.05,
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulated, **NO_SCHEDULE,
    )  # fmt: skip
    rows = sum(dataset.order, [])[:8]
    model = new(Full).double()
    loss = loss_by_hand(model, values, rows, kd_lambda, noise)
    assert losses(trainer)[0] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.05 * parameter.grad
    assert largest_difference(model, trainer.model.double()) < 1e-6


def test_weight_decay_leaves_a_posterior_alone(tmp_path):
    for kind, decayed in (
        (Plain, ["layers.0.weight", "layers.2.weight"]),
        (Bayesian, ["layers.0.weight"]),
        (Full, []),
    ):
        trainer = DistillationTrainer(new(kind), arguments(tmp_path), train_dataset=resident())
        assert trainer.get_decay_parameter_names(trainer.model) == decayed


def test_evaluation_is_that_of_the_means(tmp_path):
    values = examples()
    model = new(Full).train()
    trainer = DistillationTrainer(
        model, arguments(tmp_path), train_dataset=resident(values), eval_dataset=resident(values)
    )
    ordinary = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C))
    ordinary.load_state_dict({name: model.layers.state_dict()[name] for name in ordinary.state_dict()})
    expected = F.cross_entropy(ordinary(values["features"]), values["labels"]).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_training_of_a_posterior_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = trained(tmp_path, Full, kd_lambda=0.0, num_train_epochs=4, save_strategy="epoch")
    resumed = DistillationTrainer(whole.model.__class__(), whole.args, train_dataset=resident())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert same_weights(resumed.model, whole.model)
    assert losses(resumed)[-3:] == losses(whole)[-3:]


@pytest.mark.parametrize("change", ["lacks a part", "another shape"])
def test_a_checkpoint_of_another_network_is_refused(tmp_path, change):
    trained(tmp_path, kd_lambda=0.5, save_strategy="epoch")
    other = DistillationTrainer(new(Bayesian), arguments(tmp_path), train_dataset=resident())
    words = r"layers.2.weight_log_std is no such weight there, and here \(4, 8\)"
    if change == "another shape":
        other.model.layers[0] = nn.Linear(D, 5)
        words = r"layers.0.bias is \(8,\) there, and here \(5,\)"
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(UserError, match=words):
        other.train(resume_from_checkpoint=True)
    assert all(torch.equal(before[name], value) for name, value in other.model.state_dict().items())


@pytest.mark.parametrize("kind", ["labels", "numbers and variances"])
def test_each_label_of_an_example_weighs_against_the_divergence(kind, tmp_path, monkeypatch):
    """The loss is the mean over an example's labels, and the divergence stands beside their sum."""
    size = problem_helpers.N * problem_helpers.C
    monkeypatch.setattr("hf_bkd.training.trainer.gaussian_kl", lambda model: torch.tensor(3.0 * size))
    ran = problem_helpers.trained(
        tmp_path, kind, problem_helpers.examples(kind), kd_lambda=0.0, max_steps=1, **NO_SCHEDULE
    )
    (total,), (labels,) = losses(ran), losses(ran, ran.likelihood.label_term)
    assert total - labels == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize("kd_lambda", [0.0, 1.0])
def test_each_token_weighs_against_the_divergence(kd_lambda, tmp_path, monkeypatch):
    """The loss is the mean over labeled tokens, and the divergence stands beside the sum over all of them."""
    rows = problem_helpers.labeled("tokens")
    size = sum(label != -100 for each in rows["labels"] for label in each)
    assert size > len(rows)
    monkeypatch.setattr("hf_bkd.training.trainer.gaussian_kl", lambda model: torch.tensor(3.0 * size))
    ran = problem_helpers.trained(tmp_path, "tokens", rows, kd_lambda=kd_lambda, max_steps=1, **NO_SCHEDULE)
    (total,), (other,) = losses(ran), losses(ran, "distillation" if kd_lambda else "cross_entropy")
    assert total - other == pytest.approx(3, abs=1e-4)


def test_squared_errors_train_no_posterior(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_bkd.training.trainer.gaussian_kl", lambda model: torch.tensor(3.0))
    rows = problem_helpers.examples("numbers")
    with pytest.raises(UserError, match="as wide as their unit makes it: take a network with twice as many outputs"):
        problem_helpers.trained(tmp_path, "numbers", rows, kd_lambda=0.0, max_steps=1)
