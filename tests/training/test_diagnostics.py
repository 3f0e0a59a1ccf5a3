"""The diagnostics: per-example gradients of the training's own examples, which they leave as they were."""

import datasets
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hf_bkd import DiagnosticsCallback, DistillationTrainer, LaplaceTeacher, UserError, add_soft_labels
from hf_bkd.soft_labels import read
from tests.training.training_helpers import (
    C,
    N,
    Plain,
    arguments,
    examples,
    losses,
    new,
    resident,
    same_weights,
    trained,
)

NAMES = ("gradient_noise_one_hot", "gradient_noise_stored", "gradient_noise_exact")


class Dropping(Plain):
    """With dropout and batch norm, which a measurement must not draw from or update."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, C))


def logged(trainer, name) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def with_diagnostics(folder, kind=Plain, dataset=None, diagnostics=None, **changes) -> DistillationTrainer:
    trainer = DistillationTrainer(new(kind), arguments(folder, **changes), train_dataset=dataset or resident())
    trainer.add_callback(DiagnosticsCallback(trainer, **(diagnostics or {})))
    trainer.train()
    return trainer


def test_logs_the_mean_squared_gradient_of_single_examples(tmp_path):
    values, exact = examples(), torch.randn(N, C).softmax(dim=-1)
    how = {"every": 2, "num_examples": 9, "exact": exact, "seed": 4}
    rows = torch.randperm(N, generator=torch.Generator().manual_seed(4))[:9].tolist()
    trainer = with_diagnostics(tmp_path, diagnostics=how, max_steps=4, kd_lambda=0.5)
    targets = (nn.functional.one_hot(values["labels"], C).float(), values["teacher_probs"], exact)
    for name, target in zip(NAMES, targets, strict=True):
        found = logged(trainer, name)
        assert list(found) == [0, 2, 4]
        for step, model in ((0, new(Plain)), (4, trainer.model)):
            total = 0.0
            for i in rows:
                logits = model(values["features"][i : i + 1])
                grads = torch.autograd.grad(-(target[i] * logits.log_softmax(-1)).sum(), list(model.parameters()))
                total += sum(g.square().sum().item() for g in grads)
            assert found[step] == pytest.approx(total / 9, rel=1e-4)
    assert "mc_variance" not in str(trainer.state.log_history)


@pytest.mark.parametrize("kind", [Plain, Dropping])
@pytest.mark.parametrize("kd_lambda", [0.0, 0.5])
def test_a_training_that_is_looked_into_is_the_same(tmp_path, kind, kd_lambda):
    looked = with_diagnostics(tmp_path, kind, diagnostics={"every": 1}, kd_lambda=kd_lambda)
    alone = trained(tmp_path, kind, kd_lambda=kd_lambda)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(looked.model.state_dict()[name], value), name
    assert ("gradient_noise_stored" in str(looked.state.log_history)) is (kd_lambda > 0)


def labeled_rows() -> datasets.Dataset:
    values, network = examples(), new(Plain)
    rows = datasets.Dataset.from_dict({n: values[n].tolist() for n in ("features", "labels")}).with_format("torch")
    batches = [(values["features"], values["labels"])]
    teacher = LaplaceTeacher.fit(network, batches, prior_precision=1.0, link="mc")
    rows = rows.add_column("comment", ["x"] * N)
    return add_soft_labels(rows, teacher, 6, storage="float32", progress=False,
                           preprocessor=lambda rows: {"features": torch.as_tensor(rows["features"])})  # fmt: skip


def test_stored_variance_tells_a_lambda(tmp_path):
    dataset = labeled_rows()
    trainer = with_diagnostics(tmp_path, dataset=dataset, diagnostics={"every": 3, "num_examples": 100}, max_steps=3)
    labels = read(dataset)
    variance = labels.variance.sum(dim=1)
    label = 1 - labels.probs.square().sum(dim=1) + variance / 6
    assert logged(trainer, "mc_variance")[3] == pytest.approx(variance.mean().item(), rel=1e-5)
    expected = label.sum() / (label.sum() + variance.sum() / 6)
    assert logged(trainer, "lambda_hat")[3] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", [lambda rows: rows, lambda rows: rows.to_iterable_dataset()])
def test_variances_are_decoded_with_unused_columns_removed(tmp_path, kind):
    """Whatever the dataset, examples pass the collator once."""
    settings = {"teacher_weights": "inverse_variance", "max_steps": 2}
    trainer = DistillationTrainer(new(Plain), arguments(tmp_path, **settings), train_dataset=kind(labeled_rows()))
    trainer.train()
    assert losses(trainer) == pytest.approx(losses(trained(tmp_path, dataset=kind(labeled_rows()), max_steps=2)))


def test_an_adaptive_lambda_is_looked_into_like_any_other(tmp_path):
    how = {"dataset": labeled_rows(), "lambda_schedule": "adaptive", "max_steps": 3}
    looked = with_diagnostics(tmp_path, diagnostics={"every": 3}, **how)
    assert list(logged(looked, "gradient_noise_stored")) == [0, 3]
    assert same_weights(looked.model, trained(tmp_path, **how).model)


def test_the_heads_gradients_alone(tmp_path):
    values = examples()
    trainer = with_diagnostics(tmp_path, diagnostics={"every": 5, "num_examples": N, "head_only": True}, max_steps=5)
    with torch.no_grad():
        features = trainer.model.layers[1](trainer.model.layers[0](values["features"]))
        residual = trainer.model(values["features"]).softmax(-1) - values["teacher_probs"]
    expected = (residual.square().sum(1) * (features.square().sum(1) + 1)).mean().item()
    assert logged(trainer, "gradient_noise_stored")[5] == pytest.approx(expected, rel=1e-4)


def test_a_text_model_is_looked_at_by_its_head_and_says_so_else(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=20, num_labels=C, **sizes)
    rows = {
        "input_ids": torch.randint(1, 20, (N, 5)).tolist(),
        "attention_mask": [[1, 1, 1, 1, i % 2] for i in range(N)],
        "label": [i % C for i in range(N)],
    }
    dataset = datasets.Dataset.from_dict(rows)
    for head_only in (True, False):
        args = arguments(tmp_path, kd_lambda=0.0, max_steps=1)
        trainer = DistillationTrainer(BertForSequenceClassification(config), args, train_dataset=dataset)
        trainer.add_callback(DiagnosticsCallback(trainer, every=1, head_only=head_only))
        if head_only:
            trainer.train()
            assert list(logged(trainer, "gradient_noise_one_hot")) == [0, 1]
        else:
            with pytest.raises(UserError, match="BertForSequenceClassification can't .* head_only=True"):
                trainer.train()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, and it is 0"),
        ({"num_examples": 0}, "num_examples must be a whole number of at least 1, and it is 0"),
        ({"exact": torch.ones(3, C) / C}, f"exact has 3 rows, and the training set {N}"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, how, message):
    trainer = DistillationTrainer(new(Plain), arguments(tmp_path), train_dataset=resident())
    with pytest.raises(UserError, match=message):
        DiagnosticsCallback(trainer, **how)


def test_a_stream_has_no_examples_to_choose(tmp_path):
    stream = labeled_rows().to_iterable_dataset()
    trainer = DistillationTrainer(new(Plain), arguments(tmp_path, max_steps=1), train_dataset=stream)
    with pytest.raises(UserError, match="load it without streaming"):
        DiagnosticsCallback(trainer)
