"""What holds for one class per example holds for labels, numbers and tokens: stored is online, small is large."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_bkd.likelihoods import Gaussian
from tests.training.problem_helpers import (
    KINDS,
    C,
    examples,
    hot,
    labeled,
    numbers,
    rows,
    student,
    teacher,
    trained,
    trainer,
)
from tests.training.training_helpers import arguments, largest_difference, losses


@pytest.mark.parametrize("kd_lambda", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("kind", KINDS)
def test_stored_is_online_step_by_step(tmp_path, kind, kd_lambda):
    stored = trained(tmp_path, kind, labeled(kind), kd_lambda=kd_lambda)
    online = {"online_teacher": True, "teacher_samples": 6, "teacher_seed": 3}
    asked = trained(tmp_path, kind, examples(kind), teacher=teacher(kind), kd_lambda=kd_lambda, **online)
    assert losses(stored, "distillation") == pytest.approx(losses(asked, "distillation"), rel=2e-5)
    assert losses(stored) == pytest.approx(losses(asked), rel=2e-5) and len(losses(stored)) == 6
    assert largest_difference(stored.model, asked.model) < 1e-5


@pytest.mark.parametrize("kd_lambda", [0.0, 0.7, 1.0, 1.2])
@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_single_examples_make_the_step_of_a_batch(tmp_path, kind, kd_lambda):
    """Sentences have between none and seven labeled tokens, which a mean of means gets wrong."""
    dataset = labeled(kind)
    whole = trained(tmp_path, kind, dataset, kd_lambda=kd_lambda)
    ones = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    single = trained(tmp_path, kind, dataset, kd_lambda=kd_lambda, **ones)
    assert losses(whole) == pytest.approx(losses(single), rel=1e-4)
    assert largest_difference(whole.model, single.model) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_is_an_uninterrupted_one(tmp_path, kind):
    dataset = labeled(kind)
    settings = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch", "eval_dataset": examples(kind)}
    whole = trained(tmp_path / "whole", kind, dataset, **settings)
    half = trainer(tmp_path / "half", kind, dataset, **settings | {"max_steps": 3, "num_train_epochs": 1})
    half.train()
    again = trainer(tmp_path / "half", kind, dataset, **settings)
    again.train(resume_from_checkpoint=True)
    assert largest_difference(whole.model, again.model) == 0
    assert losses(whole) == losses(again)


def transformers_loss(folder, model, dataset) -> list[float]:
    ours = arguments(folder).to_dict()
    allowed = {name for name, each in TrainingArguments.__dataclass_fields__.items() if each.init}
    args = TrainingArguments(**{k: v for k, v in ours.items() if k in allowed and k != "accelerator_config"})
    plain = Trainer(model, args, train_dataset=dataset)
    plain.train()
    return losses(plain)


def classifier(problem_type, outputs=C) -> BertForSequenceClassification:
    torch.manual_seed(5)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 16}
    config = BertConfig(vocab_size=20, num_labels=outputs, problem_type=problem_type, **small, **still)
    return BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("problem_type", "labels", "outputs"),
    [
        ("multi_label_classification", hot(), C),
        ("regression", numbers(), C),
        ("regression", [row[0] for row in numbers()], 1),
    ],
)
def test_lambda_0_is_transformers_own_training(tmp_path, problem_type, labels, outputs):
    generator = torch.Generator().manual_seed(0)
    dataset = rows(labels=labels, input_ids=torch.randint(1, 20, (len(labels), 6), generator=generator).tolist())
    dataset = dataset.remove_columns("features")
    model = classifier(problem_type, outputs)
    ours = trained(tmp_path, "labels", dataset, model=model, kd_lambda=0.0, learning_rate=0.1)
    theirs = transformers_loss(tmp_path, classifier(problem_type, outputs), dataset)
    assert losses(ours) == pytest.approx(theirs, abs=1e-6)


def test_distilling_labels_is_binary_cross_entropy_on_soft_targets(tmp_path):
    dataset = labeled("labels")
    ours = trained(tmp_path, "labels", dataset, kd_lambda=1.0, per_device_train_batch_size=len(dataset), optim="sgd")
    model, optimizer = student("labels"), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    features, target = torch.tensor(dataset["features"][:]), torch.tensor(dataset["teacher_probs"][:])
    for _ in range(2):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(features), target).backward()
        optimizer.step()
    assert largest_difference(model, ours.model) < 1e-6


def test_distilling_numbers_weighs_each_by_its_variance(tmp_path):
    dataset = labeled("numbers")
    ours = trained(tmp_path, "numbers", dataset, kd_lambda=0.6, per_device_train_batch_size=len(dataset))
    model = student("numbers")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    features, labels, mean, drawn, noise = (
        torch.tensor(dataset[name][:])
        for name in ("features", "labels", "teacher_mean", "teacher_variance", "teacher_noise")
    )
    assert (noise == torch.tensor([0.5, 0.25, 1.0])).all() and (drawn > 0).all()
    for _ in range(2):
        optimizer.zero_grad()
        made, variance = model(features), drawn + noise
        squares = 0.4 * (made - labels).square() + 0.6 * (made - mean).square()
        (squares / (2 * variance)).mean().backward()
        optimizer.step()
    assert largest_difference(model, ours.model) < 1e-6


def test_a_student_of_mean_and_variance_learns_both(tmp_path):
    dataset = labeled("numbers")
    learned = {"optim": "adamw_torch", "max_steps": 400, "per_device_train_batch_size": 22, "kd_lambda": 1.0}
    ours = trained(tmp_path, "numbers and variances", dataset, **learned)
    assert ours.likelihood == Gaussian(predicts_variance=True)
    measured = torch.tensor(dataset["teacher_variance"][:]) + torch.tensor(dataset["teacher_noise"][:])
    prediction = ours.likelihood.prediction(torch.tensor(ours.predict(dataset).predictions))
    assert (prediction[:, C:] / measured).log().abs().mean() < 0.3


def in_each_process(rank: int, folder: Path, kind: str) -> None:
    """Train as one of two gloo processes; the first writes what it logged into ``folder``."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one was forked from
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes}
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    made = in_two_steps(folder, kind, 4)
    if made.is_world_process_zero():
        (folder / "said.json").write_text(json.dumps(made.state.log_history))
    torch.distributed.destroy_process_group()


def in_two_steps(folder, kind, batch_size):
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 3}
    given = {"per_device_train_batch_size": batch_size, "eval_dataset": examples(kind)}
    return trained(folder, kind, labeled(kind), **given, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(tmp_path, kind):
    """With other numbers of labeled tokens in each."""
    alone = in_two_steps(tmp_path, kind, 8)
    torch.multiprocessing.start_processes(in_each_process, (tmp_path, kind), 2, start_method="fork")
    both = json.loads((tmp_path / "said.json").read_text())
    for name in ("loss", "distillation", "eval_loss", f"eval_{alone.likelihood.headline}"):
        expected = losses(alone, name)
        assert expected and [entry[name] for entry in both if name in entry] == pytest.approx(expected, rel=1e-5)
