"""Oracles run through everything that real teachers run through."""

import datasets
import pytest
import torch
from torch import nn

from hf_bkd import DistillationTrainer, DistillationTrainingArguments, OracleTeacher, Teacher, add_soft_labels
from hf_bkd.soft_labels import read
from hf_bkd.theory import GaussianMixture

C, D, N = 3, 2, 40
TASK = GaussianMixture(torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]), 0.7 * torch.eye(D))
X, Y = TASK.sample(N, torch.Generator().manual_seed(0))


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, C)

    def forward(self, x):
        return self.head(x)


def rows() -> datasets.Dataset:
    features = datasets.Features(
        {"x": datasets.List(datasets.Value("float32"), length=D), "label": datasets.ClassLabel(num_classes=C)}
    )
    return datasets.Dataset.from_dict({"x": X.float().tolist(), "label": Y.tolist()}, features).with_format("torch")


def test_without_noise_it_says_the_exact_probabilities():
    answer = OracleTeacher(TASK).predict(X, num_samples=5)
    torch.testing.assert_close(answer.mean, TASK.posterior(X).float())
    assert answer.variance is None


def test_noisy_oracles_scatter_around_them_as_told():
    exact = TASK.posterior(X)
    answer = OracleTeacher(TASK, concentration=5.0).predict(X, 6_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(answer.mean, exact.float(), rtol=0, atol=0.02)
    torch.testing.assert_close(answer.variance, (exact * (1 - exact) / 6).float(), rtol=0.15, atol=3e-4)
    answer = OracleTeacher(TASK, variance=1e-4).predict(X, 6_000, torch.Generator().manual_seed(0))
    inside = exact.min(dim=1).values > 0.05  # where nothing is clipped
    assert inside.sum() > 5
    torch.testing.assert_close(answer.mean[inside], exact[inside].float(), rtol=0, atol=1e-3)
    # renormalizing takes each class' share of the sum's noise away: Var[eps - p sum eps]
    expected = 1e-4 * (1 - 2 * exact + C * exact.square())
    torch.testing.assert_close(answer.variance[inside], expected[inside].float(), rtol=0.1, atol=0)


@pytest.mark.parametrize("noise", [{}, {"concentration": 2.0}, {"variance": 0.05}])
def test_is_saved_labels_and_teaches_like_any_teacher(tmp_path, noise):
    OracleTeacher(TASK, **noise).save_pretrained(tmp_path / "oracle")
    blank = GaussianMixture(torch.zeros(C, D), torch.eye(D))
    teacher = Teacher.from_pretrained(tmp_path / "oracle", network=blank)
    labeled = add_soft_labels(rows(), teacher, num_samples=4, storage="float32", seed=3, progress=False)
    direct = add_soft_labels(
        rows(), OracleTeacher(TASK, **noise), 4, storage="float32", seed=3, batch_size=7, progress=False
    )
    assert torch.equal(read(labeled).probs, read(direct).probs)
    assert ("teacher_variance" in labeled.column_names) is bool(noise)

    def losses(dataset, **options):
        torch.manual_seed(0)
        args = DistillationTrainingArguments(
            str(tmp_path / "student"), max_steps=8, learning_rate=0.1, per_device_train_batch_size=8, logging_steps=1,
            use_cpu=True, disable_tqdm=True, save_strategy="no", report_to="none", remove_unused_columns=False,
            **options,
        )  # fmt: skip
        trainer = DistillationTrainer(Student(), args, train_dataset=dataset, teacher=OracleTeacher(TASK, **noise))
        trainer.train()
        return [entry["distillation"] for entry in trainer.state.log_history if "distillation" in entry]

    stored = losses(labeled)
    assert stored[-1] < stored[0]
    if not noise:  # a drawn oracle's draws belong to ids, which rows without images or text don't have
        torch.testing.assert_close(losses(rows(), online_teacher=True), stored, rtol=1e-5, atol=1e-6)


def test_two_noises_at_once_are_refused():
    with pytest.raises(ValueError, match="either concentration, .* or variance"):
        OracleTeacher(TASK, concentration=1.0, variance=1.0)
    with pytest.raises(ValueError, match="concentration must be above 0 and finite, and it is -1"):
        OracleTeacher(TASK, concentration=-1.0)
    with pytest.raises(ValueError, match="variance must be above 0 and finite, and it is 0"):
        OracleTeacher(TASK, variance=0.0)
