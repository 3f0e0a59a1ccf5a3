"""Training on the labels of several teachers: how they are weighted and combined."""

import datasets
import pytest
import torch

from hf_bkd import BatchedDataset, DistillationTrainer, DistillationTrainingArguments, UserError
from hf_bkd.losses import distillation_loss
from hf_bkd.soft_labels import attach, read
from hf_bkd.targets import (
    entropy_weights,
    inverse_variance_weights,
    mix_teachers,
    mixture_energy,
    mixture_responsibilities,
)
from tests.training.training_helpers import C, N, Plain, arguments, examples, new, trained

DRAWS = {"a": 4, "b": 10}


def teacher_probs() -> torch.Tensor:
    """[N, 2, C]: the second is far surer."""
    sure = torch.randn(N, C, generator=torch.Generator().manual_seed(7)).mul(6).softmax(dim=-1)
    return torch.stack([examples()["teacher_probs"], sure], dim=1)


def variances() -> torch.Tensor:
    return torch.rand(N, 2, C, generator=torch.Generator().manual_seed(3)) * torch.tensor([[0.3], [0.1]])


def rows(probs: torch.Tensor, variance: torch.Tensor | None = None, temperature: float = 1.0) -> datasets.Dataset:
    values = examples()
    data = datasets.Dataset.from_dict({name: values[name].tolist() for name in ("features", "labels")})
    for m, (name, draws) in enumerate(DRAWS.items()):
        teacher = {"method": "variational", "num_classes": C}
        record = {"format": 1, "temperature": temperature, "tempering": "post_average", "num_samples": draws}
        data = attach(
            data,
            probs[:, m].numpy(),
            record | {"teacher": teacher, "dataset": {}, "class_names": None},
            variance=None if variance is None else variance[:, m].numpy(),
            storage="float32",
            name=name,
        )
    return data


def in_memory(labeled: datasets.Dataset) -> BatchedDataset:
    values = {name: value for name, value in examples().items() if name != "teacher_probs"}
    return BatchedDataset(values, labels={name: read(labeled, name) for name in DRAWS})


def one_step(folder, dataset, **how) -> list[torch.Tensor]:
    settings = {"per_device_train_batch_size": N, "max_steps": 1, "kd_lambda": 0.7} | how
    return [p.detach() for p in trained(folder, dataset=dataset, **settings).model.parameters()]


def expected_step(weights: torch.Tensor | None, **how) -> list[torch.Tensor]:
    """Of plain SGD on the loss towards teachers with these weights [N, 2]."""
    values, model = examples(), new(Plain)
    target = mix_teachers(teacher_probs(), weights)
    distillation_loss(model(values["features"]), values["labels"], target, 0.7, **how).total.backward()
    return [(p - 0.1 * p.grad).detach() for p in model.parameters()]


def assert_same(found, expected) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [lambda d: d, in_memory])
@pytest.mark.parametrize("how", ["equal", "entropy", "inverse_variance"])
def test_teachers_are_weighted_example_by_example(tmp_path, how, kind):
    probs = teacher_probs()
    of_means = variances().sum(dim=-1) / torch.tensor(list(DRAWS.values()))
    weights = {
        "equal": None,
        "entropy": entropy_weights(probs),
        "inverse_variance": inverse_variance_weights(of_means),
    }[how]
    found = one_step(tmp_path, kind(rows(probs, variances())), teacher_weights=how)
    assert_same(found, expected_step(weights))


@pytest.mark.parametrize("weights", ["equal", "entropy"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_mixture_takes_the_step_of_its_energy(tmp_path, weights, temperature):
    """kd_lambda = c s / (1 + c s) makes the loss (sum CE + c * energy) / (1 + c s), up to what has no gradient."""
    strength, c = 5.0, 0.3
    share = c * strength / (1 + c * strength)
    probs = teacher_probs()
    how = {"combine": "mixture", "teacher_weights": weights, "prior_strength": strength, "kd_lambda": share}
    how |= {"student_temperature": temperature, "temperature_scale": "none"}
    found = one_step(tmp_path, rows(probs), **how)
    values, model = examples(), new(Plain)
    logits = model(values["features"])
    log_q = (logits / temperature).log_softmax(dim=-1)
    energy = mixture_energy(log_q, probs, entropy_weights(probs) if weights == "entropy" else None, strength)
    cross_entropy = torch.nn.functional.cross_entropy(logits, values["labels"])
    ((cross_entropy + c * energy.mean()) / (1 + c * strength)).backward()
    assert_same(found, [(p - 0.1 * p.grad).detach() for p in model.parameters()])
    responsibilities = mixture_responsibilities(log_q, probs, None, strength)
    assert (responsibilities[:, 0] - 0.5).abs().max() > 0.1  # the teachers do disagree


def test_one_teacher_needs_no_weights(tmp_path):
    labeled = rows(teacher_probs()).remove_columns(["teacher_probs__b", "teacher_provenance__b"])
    plain = one_step(tmp_path, labeled)
    assert_same(one_step(tmp_path, labeled, teacher_weights="entropy", combine="mixture"), plain)


def test_teachers_at_a_common_temperature_are_tempered_before_they_are_weighed(tmp_path):
    probs = teacher_probs()
    tempered = probs.log().div(2).softmax(dim=-1)
    found = one_step(
        tmp_path, rows(probs), teacher_temperature=2.0, teacher_weights="entropy", temperature_scale="none"
    )
    again = one_step(tmp_path, rows(tempered), teacher_weights="entropy", temperature_scale="none")
    assert_same(found, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_weights": "inverse_variance"}, "teacher_weights='inverse_variance' needs the column teacher_var"),
        ({"teacher_weights": "entropic"}, "teacher_weights is 'entropic'; it must be one of equal, entropy, inverse"),
        ({"combine": "product"}, "combine is 'product'; it must be one of average, mixture"),
        ({"prior_strength": 0.0}, "prior_strength must be above 0 and finite, and it is 0"),
        ({"online_teacher": True, "combine": "mixture"}, "an online MultiTeacher has weights of its own"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        DistillationTrainer(new(Plain), arguments(tmp_path, **changes), train_dataset=rows(teacher_probs()))


def test_variances_of_another_temperature_are_refused(tmp_path):
    args = DistillationTrainingArguments(str(tmp_path), teacher_weights="inverse_variance", use_cpu=True)
    dataset = rows(teacher_probs(), variances(), temperature=2.0)
    with pytest.raises(UserError, match="at the temperature of their draws"):
        DistillationTrainer(new(Plain), args, train_dataset=dataset)
