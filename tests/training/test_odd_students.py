"""Students that can be trained, and would come back as others, or are no classifiers."""

import datasets
import numpy as np
import pytest
import torch
import transformers

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    UserError,
    add_soft_labels,
)

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}


def arguments(folder, **settings) -> DistillationTrainingArguments:
    own = {"kd_lambda": 0, "max_steps": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    return DistillationTrainingArguments(str(folder), **own | settings)


def tokens() -> datasets.Dataset:
    ids = np.random.default_rng(0).integers(5, 60, (6, 4))
    return datasets.Dataset.from_dict({"input_ids": ids.tolist(), "labels": [0, 1, 2] * 2})


def points() -> datasets.Dataset:
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    return datasets.Dataset.from_dict({"x": x.tolist(), "labels": [0, 1, 2] * 2})


def test_a_head_that_was_put_in_by_hand_is_said_to_be_lost(tmp_path, caplog):
    student = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, intermediate_size=16))
    DistillationTrainer(student, arguments(tmp_path), train_dataset=tokens()).train()
    assert "made anew" not in caplog.text
    student.classifier = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    DistillationTrainer(student, arguments(tmp_path), train_dataset=tokens()).train()
    assert "BertForSequenceClassification can't be made anew from its config (classifier.0.weight is " in caplog.text


class Softmax(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 3), torch.nn.Softmax(dim=-1))


def test_probabilities_in_place_of_logits_are_refused(tmp_path):
    for call in (
        lambda: DistillationTrainer(Softmax(), arguments(tmp_path), train_dataset=points()),
        lambda: add_soft_labels(points(), DeterministicTeacher(Softmax()), progress=False),
    ):
        with pytest.raises(UserError, match="Softmax returns probabilities, and logits are needed"):
            call()
    with pytest.raises(UserError):
        LaplaceTeacher.fit(Softmax(), points(), prior_precision=1.0)


def test_a_network_that_draws_random_numbers_in_evaluation_mode_is_refused():
    class Dropping(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.5)

    teacher, state = DeterministicTeacher(Dropping(4, 3)), torch.get_rng_state()
    with pytest.raises(UserError, match="Dropping draws random numbers in evaluation mode.*training=self.training"):
        add_soft_labels(points(), teacher, progress=False)
    assert torch.equal(state, torch.get_rng_state())


def test_a_preprocessor_that_makes_other_inputs_each_time_is_refused():
    def noisy(rows):
        return {"input": torch.tensor(rows["x"]) + torch.rand(len(rows["x"]), 4)}

    with pytest.raises(UserError, match="other inputs of the same rows each time.*augmentations as views="):
        add_soft_labels(points(), DeterministicTeacher(torch.nn.Linear(4, 3)), preprocessor=noisy, progress=False)


@pytest.mark.parametrize(("metric", "greater"), [("nll", False), ("eval_brier", False), ("ece", False)])
def test_the_best_model_is_that_of_the_lowest_loss(tmp_path, metric, greater):
    assert arguments(tmp_path, metric_for_best_model=metric).greater_is_better is greater
    assert arguments(tmp_path, metric_for_best_model="accuracy").greater_is_better is True
    assert arguments(tmp_path, metric_for_best_model=metric, greater_is_better=True).greater_is_better is True


def test_numbers_that_float32_cannot_tell_apart_are_refused():
    times = datasets.Dataset.from_dict(
        {"time": [1.7e9 + i for i in range(6)], "other": [0.5] * 6, "label": [0, 1] * 3}
    )
    with pytest.raises(
        UserError, match="the column time differ by less than float32 tells apart.*subtract their mean"
    ):
        add_soft_labels(times, DeterministicTeacher(torch.nn.Linear(2, 2)), progress=False)
    missing = datasets.Dataset.from_dict({"x": [0.1, float("nan"), 0.3], "y": [1.0, 2.0, 3.0]})
    with pytest.raises(UserError, match="x holds a number that is not finite"):
        add_soft_labels(missing, DeterministicTeacher(torch.nn.Linear(2, 2)), progress=False)


def test_rows_that_lost_their_label_are_counted_aloud(tmp_path, caplog):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    rows = datasets.Dataset.from_dict({"x": x.tolist(), "label": ["A", None, "C"] * 2}).class_encode_column("label")
    DistillationTrainer(torch.nn.Linear(4, 2), arguments(tmp_path), train_dataset=rows)
    assert "2 of 6 rows have no label in column label" in caplog.text and "keep_default_na=False" in caplog.text


def test_the_best_model_is_not_looked_for_without_labels(tmp_path):
    args = arguments(tmp_path, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps")
    with pytest.raises(UserError, match="load_best_model_at_end compares evaluations, and the evaluation set has no"):
        bare = points().remove_columns("labels")
        DistillationTrainer(torch.nn.Linear(4, 3), args, train_dataset=points(), eval_dataset=bare)
    DistillationTrainer(torch.nn.Linear(4, 3), args, train_dataset=points(), eval_dataset=points())
