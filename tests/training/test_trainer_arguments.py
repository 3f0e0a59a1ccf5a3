"""Each argument of transformers' Trainer works, is refused in a sentence or has no meaning, as docs say."""

import inspect
import re
from dataclasses import fields
from types import FunctionType

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, UserError, add_soft_labels
from hf_bkd.training.settings import check_spread
from tests.docs.pages import ROOT

VERDICTS = {"works", "refused", "no meaning here"}
SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def listed(part: str) -> dict[str, str]:
    """Argument -> verdict, of a part of the page."""
    page = (ROOT / "docs" / "trainer_arguments.md").read_text().partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", page, re.MULTILINE)
    return {name: verdict for names, verdict in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize(
    ("part", "installed"),
    [
        ("TrainingArguments", [each.name for each in fields(TrainingArguments)]),
        ("Trainer", [*inspect.signature(Trainer.__init__).parameters][1:]),
    ],
)
def test_every_argument_of_the_installed_version_is_on_the_page(part, installed):
    verdicts = listed(part)
    assert not set(installed) - verdicts.keys(), "arguments of the installed transformers that the page lacks"
    assert set(verdicts.values()) <= VERDICTS


def bert(**config) -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3, **config)).eval()


def rows(n: int = 12, length: int = 8, **more) -> datasets.Dataset:
    ids = np.random.default_rng(0).integers(5, 60, (n, length)).tolist()
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": [0, 1, 2] * (n // 3), **more})


class Plain(nn.Module):
    """Two layers, of which nobody says what they read."""

    def __init__(self, fails_at: int | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.calls, self.fails_at = 0, fails_at

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls == self.fails_at:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return self.second(self.first(x).relu())


def features(n: int = 12, **more) -> datasets.Dataset:
    values = np.random.default_rng(1).normal(size=(n, 4)).astype("float32").tolist()
    return datasets.Dataset.from_dict({"x": values, "labels": [0, 1, 2] * (n // 3), **more})


def trainer(folder, student=None, dataset=None, labeled=True, given=None, **settings) -> DistillationTrainer:
    student = bert() if student is None else student
    dataset = (features() if isinstance(student, Plain) else rows()) if dataset is None else dataset
    if labeled and isinstance(dataset, datasets.Dataset):
        teacher = DeterministicTeacher(Plain() if isinstance(student, Plain) else bert())
        dataset = add_soft_labels(dataset, teacher, progress=False)
    defaults = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "num_train_epochs": 1,
        "save_strategy": "no",
    }
    defaults |= {"kd_lambda": 0.5, "per_device_train_batch_size": 4, "logging_steps": 1, "seed": 0}
    args = DistillationTrainingArguments(str(folder), **(defaults | settings))
    return DistillationTrainer(student, args, train_dataset=dataset, **(given or {}))


def stream() -> datasets.IterableDataset:
    return add_soft_labels(rows(), DeterministicTeacher(bert()), progress=False).to_iterable_dataset()


REFUSED = {
    "label_names": ({"label_names": ["nope"]}, "'nope', which is no column of the training set"),
    "unknown for metrics": ({"include_for_metrics": ["logits"]}, "'logits', and can have 'inputs' and 'loss'"),
    "for metrics": ({"include_for_metrics": ["loss"]}, "include_for_metrics is for metrics of your own"),
    "batch_eval_metrics": ({"batch_eval_metrics": True}, "batch_eval_metrics is for metrics of your own"),
    "preprocess": ({"given": {"preprocess_logits_for_metrics": lambda logits, _: logits}}, "is for metrics of your"),
    "smoothing": ({"label_smoothing_factor": 0.1, "kd_lambda": 1.0}, "kd_lambda=1 never reads"),
    "optim_args": ({"optim_args": "beta=1"}, "doesn't read optim_args"),
    "optim_target_modules": (
        {"optim": "sgd", "optim_target_modules": ["attention"]},
        "'sgd' doesn't read optim_target",
    ),
    "fp16": ({"fp16": True}, "fp16 has no effect on the CPU"),
    "neftune": ({"student": Plain(), "neftune_noise_alpha": 5.0}, "Plain has none"),
    "checkpointing": ({"student": Plain(), "gradient_checkpointing": True}, "needs a transformers model"),
    "tokens": ({"student": Plain(), "include_num_input_tokens_seen": "all"}, "set its attribute main_input_name"),
    "by length": (
        {"student": Plain(), "train_sampling_strategy": "group_by_length"},
        "neither input_ids nor a column",
    ),
    "rebalanced": (
        {"student": Plain(), "train_sampling_strategy": "batch_rebalance"},
        "neither input_ids nor a column",
    ),
    "stream by length": (
        {"dataset": stream, "max_steps": 2, "train_sampling_strategy": "group_by_length"},
        "a stream comes in its own order",
    ),
    "stream's last": ({"dataset": stream, "max_steps": 2, "dataloader_drop_last": True}, "no effect on a stream"),
    "resume": ({"resume_from_checkpoint": "no-such-folder"}, "no-such-folder can't be resumed from"),
    "multi-label": ({"student": lambda: bert(problem_type="multi_label_classification")}, "multi_label_classific"),
    "regression": ({"student": lambda: bert(problem_type="regression")}, "predicts numbers (regression), and"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_have_no_effect_is_refused_before_the_first_step(case, tmp_path):
    settings, message = REFUSED[case]
    if settings.get("train_sampling_strategy") == "batch_rebalance" and "batch_rebalance" not in str(
        next(each for each in fields(TrainingArguments) if each.name == "train_sampling_strategy").metadata
    ):
        pytest.skip("this transformers has no such strategy")
    made = {name: value() if isinstance(value, FunctionType) else value for name, value in settings.items()}
    with pytest.raises(UserError, match=re.escape(message)):
        trainer(tmp_path, **made).train()


@pytest.mark.parametrize("name", ["fsdp", "deepspeed", "parallelism_config"])
def test_what_cuts_the_student_into_pieces_is_refused(name, tmp_path):
    made = trainer(tmp_path)
    check_spread(made)
    setattr(made.args, name, {"some": "settings"})
    with pytest.raises(UserError, match=f"{name} cuts the student into pieces"):
        check_spread(made)


def weights(made: DistillationTrainer) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in made.model.parameters()])


class TestWhatWorks:
    def test_no_row_of_an_evaluation_is_dropped(self, tmp_path):
        made = trainer(
            tmp_path, per_device_train_batch_size=5, per_device_eval_batch_size=5, dataloader_drop_last=True
        )
        made.train()
        assert made.state.global_step == 2  # of 12 rows: 5 and 5
        assert made.predict(rows()).predictions.shape == (12, 3)
        logits = made.model.eval()(input_ids=torch.tensor(rows()["input_ids"][:])).logits
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2] * 4)).item()
        assert made.evaluate(rows())["eval_loss"] == pytest.approx(nll, rel=1e-5)

    def test_metrics_of_batches_that_are_not_joined_are_those_of_joined_ones(self, tmp_path):
        whole = trainer(tmp_path).evaluate(rows())
        parts = trainer(tmp_path, eval_do_concat_batches=False, per_device_eval_batch_size=5).evaluate(rows())
        for name in ("eval_accuracy", "eval_nll", "eval_ece", "eval_brier"):
            assert parts[name] == pytest.approx(whole[name], rel=1e-5)

    def test_metrics_of_ones_own_are_a_dict_and_get_inputs_and_losses(self, tmp_path):
        def metrics(prediction):
            return {
                "rows": len(prediction.inputs),
                "losses": len(prediction.losses),
                "classes": prediction.predictions.shape[1],
            }

        made = trainer(tmp_path, include_for_metrics=["inputs", "loss"], given={"compute_metrics": metrics})
        assert {"eval_rows": 12, "eval_losses": 12, "eval_classes": 3}.items() <= made.evaluate(rows()).items()

    def test_noise_is_added_to_embeddings_in_training_alone(self, tmp_path):
        noisy, plain = trainer(tmp_path, neftune_noise_alpha=5.0), trainer(tmp_path)
        assert noisy.evaluate(rows())["eval_loss"] == plain.evaluate(rows())["eval_loss"]
        noisy.train(), plain.train()
        assert (weights(noisy) != weights(plain)).any()

    def test_rows_of_one_length_stand_together(self, tmp_path):
        lengths = [3, 9] * 48
        made = trainer(tmp_path, Plain(), features(96, length=lengths), train_sampling_strategy="group_by_length")
        order = list(made._get_train_sampler())
        groups = [{lengths[row] for row in order[start : start + 4]} for start in range(0, 96, 4)]
        assert sorted(order) == list(range(96))
        assert sum(len(group) == 1 for group in groups) >= 16  # of 24; by chance 3

    def test_predictions_need_no_labels(self, tmp_path):
        made = trainer(tmp_path, label_names=["labels"])
        assert made.predict(rows().remove_columns("labels")).predictions.shape == (12, 3)

    def test_terms_of_an_attempt_that_found_no_memory_are_forgotten(self, tmp_path):
        made = trainer(tmp_path, Plain(fails_at=1), auto_find_batch_size=True)
        made.train()
        first = made.state.log_history[0]
        assert made.state.train_batch_size < 4
        assert first["loss"] == pytest.approx((first["cross_entropy"] + first["distillation"]) / 2, rel=1e-5)

    def test_a_checkpoint_in_the_arguments_is_gone_on_from(self, tmp_path):
        whole = trainer(tmp_path / "a", Plain(), num_train_epochs=2)
        whole.train()
        trainer(tmp_path / "b", Plain(), save_strategy="epoch", num_train_epochs=2).train()
        resumed = trainer(
            tmp_path / "b", Plain(), num_train_epochs=2, resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3")
        )
        resumed.train()
        assert torch.equal(weights(resumed), weights(whole))

    def test_a_student_is_made_by_model_init(self, tmp_path):
        given = trainer(tmp_path, Plain())
        labeled = given.train_dataset
        made = DistillationTrainer(args=given.args, train_dataset=labeled, model_init=Plain)
        given.train(), made.train()
        assert torch.equal(weights(made), weights(given))

    def test_smoothed_labels_by_hand(self, tmp_path):
        made = trainer(tmp_path, Plain(), kd_lambda=0.0, label_smoothing_factor=0.3, per_device_train_batch_size=12)
        logits = Plain()(torch.tensor(features()["x"][:])).log_softmax(-1)
        own = torch.nn.functional.one_hot(torch.tensor([0, 1, 2] * 4), 3) * 0.7 + 0.1
        made.train()
        assert made.state.log_history[0]["loss"] == pytest.approx(-(own * logits).sum(-1).mean().item(), rel=1e-5)
