"""Students of a Dirichlet: the loss of explicit draws, stored and online, in any batches, resumed, and refused."""

import datasets
import pytest
import torch
from torch import nn
from torch.distributions import Dirichlet

from hf_bkd import (
    DeterministicTeacher,
    DirichletStudent,
    DistillationTrainer,
    EnsembleTeacher,
    UserError,
    add_soft_labels,
)
from hf_bkd.dirichlet import matched_log_probs, negative_log_likelihood
from hf_bkd.models.problem_types import is_dirichlet
from hf_bkd.teachers.loading import load_teacher
from tests.training.training_helpers import (
    C,
    D,
    N,
    Plain,
    arguments,
    examples,
    largest_difference,
    losses,
    new,
    trained,
)

M = 3
DIRICHLET = {"distance": "dirichlet", "learning_rate": 0.01}


class Member(nn.Module):
    num_classes = C

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(D, C)

    def forward(self, features):
        return self.fc(features)


def teacher(first=0, **how):
    return EnsembleTeacher([DeterministicTeacher(Member(first + seed)) for seed in range(M)], **how)


def preprocess(rows):
    return {"features": torch.tensor(rows["features"])}


def plain() -> datasets.Dataset:
    values = examples()
    return datasets.Dataset.from_dict({"features": values["features"].tolist(), "labels": values["labels"].tolist()})


def rows(asked=None, mean_log_probs=True, **how) -> datasets.Dataset:
    how = {"storage": "float32", "preprocessor": preprocess, "progress": False} | how
    return add_soft_labels(plain(), teacher() if asked is None else asked, mean_log_probs=mean_log_probs, **how)


def draws(first=0):
    with torch.no_grad():
        return torch.stack([Member(first + seed)(examples()["features"]) for seed in range(M)]).softmax(dim=-1)


def first_loss(folder, dataset, **changes) -> float:
    return losses(trained(folder, dataset=dataset, per_device_train_batch_size=N, max_steps=1, **DIRICHLET | changes))[
        0
    ]


def log_probs_of_draws(drawn):
    with torch.no_grad():
        return Dirichlet(new(Plain)(examples()["features"]).double().exp()).log_prob(drawn.double())


def test_the_loss_is_the_density_of_the_draws(tmp_path):
    assert first_loss(tmp_path, rows()) == pytest.approx(-log_probs_of_draws(draws()).mean().item(), abs=1e-5)


def test_of_several_teachers_it_is_that_of_all_their_draws(tmp_path):
    dataset = rows({"a": teacher(), "b": teacher(7)})
    expected = -log_probs_of_draws(torch.cat([draws(), draws(7)])).mean().item()
    assert first_loss(tmp_path, dataset) == pytest.approx(expected, abs=1e-5)


def test_without_the_column_the_variance_is_matched(tmp_path):
    probs = draws().double()
    mean, variance = probs.mean(dim=0), probs.var(dim=0).sum(dim=-1)
    logs = matched_log_probs(mean, variance, 1 - mean.square().sum(dim=-1) + variance / M)
    with torch.no_grad():
        expected = negative_log_likelihood(logs, new(Plain)(examples()["features"])).mean().item()
    for kind in ("full", "sum"):
        dataset = rows(mean_log_probs=False, variance=kind)
        assert first_loss(tmp_path / kind, dataset) == pytest.approx(expected, abs=1e-4)


def test_stored_and_online_are_the_same_step_by_step(tmp_path):
    stored = trained(tmp_path, dataset=rows(), kd_lambda=0.6, **DIRICHLET)
    asked = arguments(tmp_path, kd_lambda=0.6, online_teacher=True, **DIRICHLET)
    online = DistillationTrainer(new(Plain), asked, train_dataset=plain(), teacher=teacher())
    online.train()
    assert losses(stored) == pytest.approx(losses(online), rel=1e-5, abs=1e-5)


def test_accumulated_batches_are_one_batch(tmp_path):
    whole = trained(tmp_path, dataset=rows(), **DIRICHLET)
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert largest_difference(whole.model, trained(tmp_path, dataset=rows(), **parts, **DIRICHLET).model) < 1e-6


def test_resumed_is_uninterrupted(tmp_path):
    how = {"save_strategy": "steps", "save_steps": 2, **DIRICHLET}
    whole = trained(tmp_path / "whole", dataset=rows(), max_steps=4, **how)
    trained(tmp_path / "parts", dataset=rows(), max_steps=4, **how)
    again = DistillationTrainer(new(Plain), arguments(tmp_path / "parts", max_steps=4, **how), train_dataset=rows())
    again.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert largest_difference(whole.model, again.model) == 0


def test_the_student_says_what_it_is_until_it_is_taught_otherwise(tmp_path):
    trainer = trained(tmp_path, dataset=rows(), **DIRICHLET)
    trainer.save_model(tmp_path / "student")
    loaded, _ = load_teacher(str(tmp_path / "student"), new(Plain))
    assert loaded.method == "dirichlet"
    other = DistillationTrainer(loaded.network, arguments(tmp_path, max_steps=1), train_dataset=rows())
    assert is_dirichlet(loaded.network)
    other.train()
    assert not is_dirichlet(loaded.network)


def test_a_student_of_a_student_gets_its_dirichlet_back(tmp_path):
    """Of which mean and variance tell all, whatever the number of draws that nobody averaged."""
    first = trained(tmp_path, dataset=rows(), num_train_epochs=5, **DIRICHLET).model
    labeled = rows(DirichletStudent(first), mean_log_probs=False)
    with torch.no_grad():
        alpha = first(examples()["features"]).double().exp()
        logs = torch.digamma(alpha) - torch.digamma(alpha.sum(dim=-1, keepdim=True))
        expected = negative_log_likelihood(logs, new(Plain)(examples()["features"])).mean().item()
    assert first_loss(tmp_path / "second", labeled) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"student_temperature": 2.0}, "student_temperature is 2"),
        ({"teacher_temperature": 2.0}, "at the temperature of their draws"),
        ({"lambda_schedule": "adaptive"}, "derived for the divergence itself"),
        ({"combine": "mixture"}, "derived for the divergence itself"),
        ({"problem_type": "multi_label_classification"}, "problem"),
    ],
)
def test_what_means_nothing_for_it_is_refused(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        trained(tmp_path, dataset=rows(), **DIRICHLET, **changes)


def test_a_student_whose_logits_are_too_large_to_begin_with_is_refused(tmp_path):
    student = new(Plain)
    student.layers[2].bias.data[1] = 400.0
    with pytest.raises(UserError, match="logits reach 400 before"):
        DistillationTrainer(student, arguments(tmp_path, **DIRICHLET), train_dataset=rows())


def test_labels_that_say_nothing_of_draws_are_refused(tmp_path):
    one = rows(DeterministicTeacher(Member(0)), mean_log_probs=False)
    with pytest.raises(UserError, match="neither teacher_mean_log_probs nor teacher_variance"):
        trained(tmp_path, dataset=one, **DIRICHLET)
    asked = arguments(tmp_path, online_teacher=True, **DIRICHLET)
    with pytest.raises(UserError, match="distance='dirichlet' averages over a teacher's draws"):
        DistillationTrainer(new(Plain), asked, train_dataset=plain(), teacher=DeterministicTeacher(Member(0)))
    tempered = rows(teacher(temperature=2.0), mean_log_probs=False)
    with pytest.raises(UserError, match="at the temperature of their draws"):
        trained(tmp_path, dataset=tempered, **DIRICHLET)
