"""lambda by the errors of cross-fitted soft labels: the same for every kind of dataset, and refused without them."""

import datasets
import pytest
import torch
from datasets import ClassLabel
from torch import nn

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    UserError,
    Views,
    add_soft_labels,
)
from hf_bkd.losses import distillation_loss
from hf_bkd.soft_labels import attach, read
from hf_bkd.targets import bias_aware_lambda, error_by_confidence
from tests.training.training_helpers import C, D, Plain, arguments, largest_difference, losses, new, trained

N = 120
RECORD = {
    "format": 1, "temperature": 1.0, "tempering": "per_sample", "class_names": None, "dataset": {},
    "folds": {"number": 3, "seed": 0, "weights": []}, "teacher": {"method": "deterministic", "num_classes": C},
}  # fmt: skip
BIAS_AWARE = {"lambda_schedule": "bias_aware"}


def values() -> dict[str, torch.Tensor]:
    """A teacher that is right where it is sure."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(C, (N,), generator=generator)
    sure = torch.rand(N, 1, generator=generator) * 4
    logits = torch.randn(N, C, generator=generator) + sure * nn.functional.one_hot(labels, C)
    return {"features": torch.randn(N, D, generator=generator), "labels": labels, "probs": logits.softmax(dim=-1)}


def rows(name=None, storage="float32", labels=None, **record) -> datasets.Dataset:
    made = values()
    plain = {"features": made["features"].tolist(), "labels": made["labels"].tolist() if labels is None else labels}
    return attach(
        datasets.Dataset.from_dict(plain), made["probs"].numpy(), RECORD | record, storage=storage, name=name
    )


def in_memory(labeled: datasets.Dataset) -> BatchedDataset:
    made = values()
    return BatchedDataset({name: made[name] for name in ("features", "labels")}, labels={None: read(labeled)})


def by_hand(known=slice(None)) -> torch.Tensor:
    made = values()
    claimed = 1 - made["probs"].square().sum(dim=1)
    squares = (nn.functional.one_hot(made["labels"], C) - made["probs"]).square().sum(dim=1)
    return bias_aware_lambda(claimed, error_by_confidence(claimed[known], squares[known], 2.0))


def test_a_step_minimizes_the_loss_with_these_lambdas_and_logs_their_mean(tmp_path):
    whole = {"per_device_train_batch_size": N, "max_steps": 1, "kd_lambda": 0.9}
    trainer = trained(tmp_path, dataset=rows(), **whole, **BIAS_AWARE)
    made, by_example = values(), 0.9 * by_hand()
    assert by_example.min() < 0.5 and by_example.max() == pytest.approx(0.9)
    model = new(Plain)
    loss = distillation_loss(model(made["features"]), made["labels"], made["probs"], by_example).total
    assert losses(trainer)[0] == pytest.approx(loss.item(), rel=1e-5)
    assert losses(trainer, "kd_lambda")[0] == pytest.approx(by_example.mean().item(), rel=1e-5)
    loss.backward()
    for mine, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.detach() - 0.1 * mine.grad, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_all_kinds_of_datasets_batches_and_names_train_alike(tmp_path):
    whole = trained(tmp_path, dataset=rows(), **BIAS_AWARE)
    ones = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    for other in (
        trained(tmp_path, dataset=in_memory(rows()), **BIAS_AWARE),
        trained(tmp_path, dataset=rows(), **ones, **BIAS_AWARE),
        trained(tmp_path, dataset=rows(name="a"), **BIAS_AWARE),
    ):
        assert largest_difference(whole.model, other.model) < 5e-6
    assert largest_difference(whole.model, trained(tmp_path, dataset=rows()).model) > 1e-4


def test_rows_without_a_label_say_nothing_of_the_noise_and_learn_from_their_soft_label(tmp_path):
    labels = values()["labels"].tolist()
    labels[::3] = [-100] * 40
    trainer = trained(tmp_path, dataset=rows(labels=labels), max_steps=1, per_device_train_batch_size=N, **BIAS_AWARE)
    known = torch.tensor(labels) >= 0
    made, by_example = values(), by_hand(known)
    loss = distillation_loss(new(Plain)(made["features"]), torch.tensor(labels), made["probs"], by_example).total
    assert losses(trainer)[0] == pytest.approx(loss.item(), rel=1e-5)


def test_classes_in_another_order_are_matched_by_name(tmp_path):
    """The student's classes are the dataset's in reverse, and the soft labels' are the dataset's."""
    names = ["a", "b", "c", "d"]
    named = rows(class_names=names).cast_column("labels", ClassLabel(names=names))
    student = new(Plain)
    student.config = type("Config", (), {"id2label": dict(enumerate(names[::-1])), "num_labels": C})()
    trainer = DistillationTrainer(student, arguments(tmp_path, **BIAS_AWARE), train_dataset=named)
    claimed = 1 - values()["probs"].square().sum(dim=1)
    torch.testing.assert_close(bias_aware_lambda(claimed, trainer._source.by_example.error), by_hand())


def test_labels_that_are_each_there_or_not(tmp_path):
    made = values()
    hot = (made["probs"] > torch.rand(N, C, generator=torch.Generator().manual_seed(3))).float()
    dataset = attach(
        datasets.Dataset.from_dict({"features": made["features"].tolist(), "labels": hot.tolist()}),
        made["probs"].numpy(),
        RECORD | {"problem_type": "multi_label_classification"},
        storage="float32",
    )
    trainer = trained(tmp_path, dataset=dataset, max_steps=1, **BIAS_AWARE)
    claimed = (made["probs"] * (1 - made["probs"])).sum(dim=1)
    error = error_by_confidence(claimed, (hot - made["probs"]).square().sum(dim=1), C)
    torch.testing.assert_close(trainer._source.by_example.error.errors, error.errors)


def test_real_cross_fitted_labels_train(tmp_path):
    dataset = rows().select_columns(["features", "labels"])

    def fit(rest, fold):
        torch.manual_seed(fold)
        return DeterministicTeacher(new(Plain))

    labeled = add_soft_labels(dataset.with_format("torch"), folds=3, fit=fit, progress=False)
    trainer = trained(tmp_path, dataset=labeled.with_format(None), **BIAS_AWARE)
    assert all(0 < value <= 1 for value in losses(trainer, "kd_lambda"))


@pytest.mark.parametrize("storage", ["float16", "uint8", "top_k"])
def test_views_of_an_example_count_once(tmp_path, storage):
    """60 examples in two views make two bins; an evaluation set needs no soft labels."""
    number = 60
    images = torch.randint(256, (number, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=C)})
    rows = {"image": list(images), "label": [row % C for row in range(number)]}
    data = datasets.Dataset.from_dict(rows, features=features)

    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, C))

    preprocessor = ImagePreprocessor((0.5,), (0.25,))
    options = {"views": Views(CropAndFlip(padding=1), num_views=2), "preprocessor": preprocessor, "progress": False}
    options |= {
        "storage": storage,
        "top_k": 2,
        "folds": 2,
        "fit": lambda rest, fold: DeterministicTeacher(network(fold)),
    }
    labeled = add_soft_labels(data, **options)
    resident = BatchedDataset.from_images(labeled, preprocessor)
    settings = {"eval_strategy": "epoch"} | BIAS_AWARE
    evaluated = {"eval_dataset": BatchedDataset.from_images(data, preprocessor)}
    trainer = DistillationTrainer(network(2), arguments(tmp_path, **settings), train_dataset=resident, **evaluated)
    probs = read(labeled).probs
    labels = nn.functional.one_hot(torch.tensor(data["label"][:]), C)
    squares = sum((labels - probs[:, view]).square().sum(dim=1) for view in (0, 1)) / 2
    claimed = sum(1 - probs[:, view].square().sum(dim=1) for view in (0, 1)) / 2
    expected = error_by_confidence(claimed, squares, 2.0)
    torch.testing.assert_close(trainer._source.by_example.error, expected)
    trainer.train()
    assert all(0 < value <= 1 for value in losses(trainer, "kd_lambda"))


def both():
    second = rows(name="b").select_columns(["teacher_probs__b", "teacher_provenance__b"])
    return datasets.concatenate_datasets([rows(name="a"), second], axis=1)


def of_numbers():
    made = values()
    plain = {"features": made["features"].tolist(), "labels": made["probs"].tolist()}
    return attach(
        datasets.Dataset.from_dict(plain),
        made["probs"].numpy(),
        RECORD | {"problem_type": "regression"},
        storage="float32",
    )


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        (lambda: rows(folds=None), {}, "teacher_probs is not cross-fitted: label with add_soft_labels"),
        (lambda: rows(folds={"number": 0}), {}, "teacher_probs is not cross-fitted"),
        (both, {}, "labels of one teacher, and there are teacher_probs__a, teacher_probs__b: remove"),
        (of_numbers, {}, "teacher_mean holds numbers of a regression, which have no confidence: take a fixed lambda"),
        (lambda: rows(temperature=2.0), {}, "a temperature of 2 changes them: label at 1"),
        (
            rows,
            {"teacher_temperature": 3.0},
            "a temperature of 3 changes them: label at 1, and omit teacher_temperature",
        ),
        (lambda: rows().to_iterable_dataset(), {"max_steps": 1}, "load them without streaming"),
        (lambda: rows().remove_columns("labels"), {}, "the training set has no labels column"),
        (lambda: rows().select(range(49)), {}, "at least 50 labeled examples, and there are 49: pass a fixed lambda"),
        (lambda: rows(labels=[-100] * N), {}, "at least 50 labeled examples, and there are 0"),
    ],
)
def test_what_does_not_tell_its_errors_is_refused(tmp_path, dataset, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        DistillationTrainer(new(Plain), arguments(tmp_path, **BIAS_AWARE, **changes), train_dataset=dataset())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (BIAS_AWARE | {"online_teacher": True}, "lambda_schedule='bias_aware' reads all soft labels before the first"),
        (BIAS_AWARE | {"distance": "dkd"}, "lambda_schedule='bias_aware' is derived for the divergence itself"),
        (
            BIAS_AWARE | {"kd_lambda": 1.2},
            "lambda_schedule='bias_aware' needs a kd_lambda of at most 1, and it is 1.2",
        ),
        ({"kd_lambda": 1.2, "distance": "dist"}, "kd_lambda=1.2 is derived for the divergence itself"),
        ({"kd_lambda": 1.2, "combine": "mixture"}, "combine='mixture' needs a kd_lambda of at most 1"),
        (
            {"kd_lambda": 1.2, "label_smoothing_factor": 0.1},
            "label_smoothing_factor=0.1 needs a kd_lambda of at most 1",
        ),
        ({"kd_lambda": 2.1}, "kd_lambda must be between 0 and 2, and it is 2.1"),
        ({"kd_lambda": float("nan")}, "kd_lambda must be between 0 and 2, and it is nan"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        DistillationTrainingArguments(str(tmp_path), **changes)


def test_with_a_lambda_above_1_the_share_without_a_bound_is_logged(tmp_path):
    """It needs labels, which lambda = 1 would not read, and is the same in accumulated batches."""
    trainer = trained(tmp_path, dataset=rows(), kd_lambda=1.5, per_device_train_batch_size=N, max_steps=2)
    made = values()
    below = made["probs"].gather(1, made["labels"][:, None])[:, 0] < 1 - 1 / 1.5
    assert 0 < below.sum() < N
    assert losses(trainer, "unbounded") == pytest.approx([below.float().mean().item()] * 2)
    small = {"per_device_train_batch_size": 7, "gradient_accumulation_steps": 18}
    again = trained(tmp_path, dataset=rows(), kd_lambda=1.5, max_steps=2, **small)
    assert losses(again, "unbounded") == pytest.approx(losses(trainer, "unbounded"))
    with pytest.raises(UserError, match="no labels column"):
        trained(tmp_path, dataset=rows().remove_columns("labels"), kd_lambda=1.5)
    assert not losses(trained(tmp_path, dataset=rows(), kd_lambda=1.0, max_steps=1), "unbounded")
