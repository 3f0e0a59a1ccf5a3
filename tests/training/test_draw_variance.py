"""lambda by example: read from the stored variance, the same for every kind of dataset, and refused without it."""

import datasets
import pytest
import torch

from hf_bkd import (
    BatchedDataset,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    LaplaceTeacher,
    UserError,
    VariationalTeacher,
    Views,
    add_soft_labels,
    make_variational,
)
from hf_bkd.data.augmentations import CropAndFlip
from hf_bkd.likelihoods import Gaussian
from hf_bkd.losses import distillation_loss
from hf_bkd.soft_labels import attach, read
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.soft_labels.record import TeacherRecord
from hf_bkd.targets import adaptive_lambda, noise_ratio
from hf_bkd.training.draw_variance import AdaptiveLambda
from tests.training.training_helpers import C, N, Plain, arguments, examples, new, trained

SAMPLES = 6
RECORD = {
    "format": 1, "temperature": 1.0, "tempering": "post_average", "class_names": None, "dataset": {},
    "num_samples": SAMPLES, "teacher": {"method": "variational", "num_classes": C},
}  # fmt: skip
ADAPTIVE = {"lambda_schedule": "adaptive"}


def variances() -> torch.Tensor:
    return torch.rand(N, C, generator=torch.Generator().manual_seed(9)) * 0.1


def rows(name=None, summed=False, variance=True, storage="float32", **record) -> datasets.Dataset:
    values = examples()
    plain = {key: value.tolist() for key, value in values.items() if key != "teacher_probs"}
    spread = variances().sum(dim=1, keepdim=True) if summed else variances()
    return attach(
        datasets.Dataset.from_dict(plain),
        values["teacher_probs"].numpy(),
        RECORD | record,
        variance=spread.numpy() if variance else None,
        storage=storage,
        name=name,
    )


def in_memory(labeled: datasets.Dataset) -> BatchedDataset:
    values = {name: value for name, value in examples().items() if name != "teacher_probs"}
    return BatchedDataset(values, labels={None: read(labeled)})


def lambdas(dataset, kd_lambda=1.0):
    adaptive = AdaptiveLambda(dataset, stored_labels(dataset, None, C), kd_lambda)
    probs, spread = examples()["teacher_probs"], variances()
    return adaptive({"teacher_variance": spread}, probs), adaptive.ratio


def test_lambda_is_that_of_the_formula_with_the_ratio_of_the_whole_set():
    probs, spread = examples()["teacher_probs"], variances()
    ratio = noise_ratio(probs, spread, SAMPLES)
    found, used = lambdas(rows(), kd_lambda=0.8)
    assert used == pytest.approx(ratio, rel=1e-5)
    torch.testing.assert_close(found, 0.8 * adaptive_lambda(probs, spread, SAMPLES, ratio))
    assert found.std() > 1e-4


def test_a_step_minimizes_the_loss_with_these_lambdas(tmp_path):
    trainer = trained(tmp_path, dataset=rows(), per_device_train_batch_size=N, max_steps=1, kd_lambda=0.9, **ADAPTIVE)
    values, (by_example, _) = examples(), lambdas(rows(), 0.9)
    model = new(Plain)
    loss = distillation_loss(model(values["features"]), values["labels"], values["teacher_probs"], by_example).total
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    for mine, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.detach() - 0.1 * mine.grad, theirs.detach(), rtol=1e-5, atol=1e-6)


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("summed", [False, True])
def test_all_kinds_of_datasets_and_batches_train_alike(tmp_path, summed):
    labeled = rows(summed=summed)
    whole = trained(tmp_path, dataset=labeled, kd_lambda=1.0, **ADAPTIVE)
    ones = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    for other in (
        trained(tmp_path, dataset=in_memory(labeled), **ADAPTIVE),
        trained(tmp_path, dataset=labeled, **ones, **ADAPTIVE),
    ):
        torch.testing.assert_close(weights(other), weights(whole), rtol=0, atol=2e-6)
    assert (weights(trained(tmp_path, dataset=labeled)) - weights(whole)).abs().max() > 1e-4


def test_without_spread_it_is_distillation_with_lambda_1(tmp_path):
    zero = attach(rows().remove_columns("teacher_variance"), examples()["teacher_probs"].numpy(), RECORD,
                  variance=torch.zeros(N, C).numpy(), storage="float32")  # fmt: skip
    torch.testing.assert_close(weights(trained(tmp_path, dataset=zero, **ADAPTIVE)),
                               weights(trained(tmp_path, dataset=rows())), rtol=0, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("storage", ["float16", "uint8", "top_k"])
def test_labels_of_a_real_posterior_in_views_train(tmp_path, storage):
    images = torch.randint(256, (N, 8, 8), dtype=torch.uint8).numpy()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=C)})
    data = datasets.Dataset.from_dict({"image": list(images), "label": [i % C for i in range(N)]}, features=features)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, C))
    make_variational(network, "head", initial_std=0.05)
    how = {"views": Views(CropAndFlip(padding=1), num_views=2), "preprocessor": ImagePreprocessor((0.5,), (0.25,))}
    labeled = add_soft_labels(data, VariationalTeacher(network), 5, storage=storage, top_k=2, progress=False, **how)
    dataset = BatchedDataset.from_images(labeled, how["preprocessor"])
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, C))
    trainer = DistillationTrainer(student, arguments(tmp_path, **ADAPTIVE), train_dataset=dataset)
    adaptive = trainer._source.by_example
    assert adaptive.num_samples == 5 and 0 < adaptive.ratio < 1
    trainer.train()


def test_the_draws_behind_a_mean_are_counted():
    network, drawn = {"method": "deterministic"}, {"method": "laplace", "link": "mc"}
    assert TeacherRecord.from_json({"method": "variational"}).draws(10) == 10
    assert TeacherRecord.from_json(drawn).draws(10) == 10
    assert TeacherRecord.from_json({"method": "laplace", "link": "probit"}).draws(10) == 1
    assert TeacherRecord.from_json({"method": "ensemble", "members": [network] * 3}).draws(10) == 3
    assert TeacherRecord.from_json({"method": "ensemble", "members": [network, drawn]}).draws(10) == 20


def both(**_):
    first = rows(name="a")
    second = rows(name="b").select_columns(["teacher_probs__b", "teacher_variance__b", "teacher_provenance__b"])
    return datasets.concatenate_datasets([first, second], axis=1)


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        (lambda: rows(variance=False), {}, "column teacher_variance, the variance between the teacher's draws"),
        (lambda: rows(name="a", variance=False), {}, "column teacher_variance__a,"),
        (both, {}, "labels of one teacher, and there are teacher_probs__a, teacher_probs__b"),
        (lambda: rows(num_samples=None), {}, "record tells how many draws"),
        (lambda: rows(temperature=2.0), {}, "at the temperature of their draws"),
        (rows, {"teacher_temperature": 2.0}, "at the temperature of their draws"),
        (lambda: rows().to_iterable_dataset(), {"max_steps": 1}, "load them without streaming"),
        (lambda: rows(num_samples=1), {}, "num_samples must be at least 2"),
    ],
)
def test_labels_that_cannot_tell_their_spread_are_refused(tmp_path, dataset, changes, message):
    with pytest.raises(UserError, match=message):
        DistillationTrainer(new(Plain), arguments(tmp_path, **ADAPTIVE, **changes), train_dataset=dataset())


def test_draws_tempered_one_by_one_may_be_at_any_temperature(tmp_path):
    trained(tmp_path, dataset=rows(temperature=2.0, tempering="per_sample"), max_steps=1, **ADAPTIVE)


def test_a_named_teachers_labels_are_read(tmp_path):
    torch.testing.assert_close(weights(trained(tmp_path, dataset=rows(name="a"), **ADAPTIVE)),
                               weights(trained(tmp_path, dataset=rows(), **ADAPTIVE)))  # fmt: skip


def test_a_missing_label_is_noticed_also_with_lambda_1(tmp_path):
    with pytest.raises(UserError, match="no labels column"):
        trained(tmp_path, dataset=rows().remove_columns("labels"), **ADAPTIVE)


def test_arguments_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(UserError, match="lambda_schedule is 'adaptve'; it must be one of fixed, adaptive"):
        DistillationTrainingArguments(str(tmp_path), lambda_schedule="adaptve")
    with pytest.raises(UserError, match="an online teacher stores none"):
        DistillationTrainingArguments(str(tmp_path), online_teacher=True, **ADAPTIVE)


def of_laplace(likelihood, network, labels, **settings):
    """Labels of a Laplace teacher whose posterior is wide, and the dataset that it was fitted on."""
    features = examples()["features"]
    dataset = datasets.Dataset.from_dict({"features": features.tolist(), "label": labels.tolist()})
    batches = [{"features": features, "labels": labels}]
    teacher = LaplaceTeacher.fit(network, batches, prior_precision=0.5, problem_type=likelihood, **settings)
    return add_soft_labels(dataset, teacher, num_samples=4, progress=False)


def numbers_of(width: int) -> torch.Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(3))


def test_a_variance_in_closed_form_weighs_each_number_by_itself(tmp_path):
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    known = Gaussian(observation_variance=(0.5,))
    labeled = of_laplace(known, network, numbers_of(1)[:, 0])
    student = torch.nn.Sequential(torch.nn.Linear(6, 1))
    args = arguments(tmp_path, kd_lambda=0.8, problem_type="regression", num_train_epochs=1, **ADAPTIVE)
    made = DistillationTrainer(student, args, train_dataset=labeled)
    batch = made.batch_of(list(range(N)))
    lambdas = made._source.kd_lambda(batch, made._source.target(batch))
    drawn, noise = (torch.tensor(labeled[name][:])[:, 0] for name in ("teacher_variance", "teacher_noise"))
    assert torch.allclose(noise, torch.tensor(0.5)) and drawn.std() > 0
    assert torch.allclose(lambdas, 0.8 / (1 + drawn / (drawn + noise)), rtol=1e-5)
    made.train()


def test_labels_that_are_there_or_not_have_no_variance_in_closed_form(tmp_path):
    hot = (numbers_of(C) > 0).float()
    labeled = of_laplace("multi_label_classification", new(Plain), hot)
    args = arguments(tmp_path, kd_lambda=0.8, problem_type="multi_label_classification", **ADAPTIVE)
    with pytest.raises(UserError, match="label with a teacher that draws \\(LaplaceTeacher with link='mc'"):
        DistillationTrainer(new(Plain), args, train_dataset=labeled)
    drawn = of_laplace("multi_label_classification", new(Plain), hot, link="mc")
    made = DistillationTrainer(new(Plain), args, train_dataset=drawn)
    batch = made.batch_of(list(range(N)))
    target = made._source.target(batch)
    probs, variance = (torch.tensor(drawn[name][:]) for name in ("teacher_probs", "teacher_variance"))
    summed = variance.sum(dim=1)
    label = (probs * (1 - probs)).sum(dim=1) + summed / 4
    ratio = (3 * (summed / label).clamp(0, 1) + 10 * summed.sum() / label.sum()) / 13
    assert torch.allclose(made._source.kd_lambda(batch, target), 0.8 / (1 + ratio / 4), rtol=1e-3)
