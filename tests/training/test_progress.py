"""The bars of a training have the library's look, and what is logged is a line."""

import datasets
import torch
from rich.progress import Progress
from transformers import PrinterCallback, ProgressCallback

from hf_bkd import DistillationTrainer, DistillationTrainingArguments, Perceptron
from hf_bkd.training.progress import TrainingProgress, show_progress


def trained(tmp_path, **shown):
    rows = datasets.Dataset.from_dict({"features": torch.randn(20, 2).tolist(), "label": [0, 1] * 10})
    settings = {"kd_lambda": 0.0, "use_cpu": True, "num_train_epochs": 2, "report_to": "none"}
    args = DistillationTrainingArguments(
        str(tmp_path), logging_strategy="epoch", eval_strategy="epoch", save_strategy="no", **settings
    )
    trainer = DistillationTrainer(Perceptron(2, 2), args, train_dataset=rows, eval_dataset=rows)
    progress = show_progress(trainer, **shown)
    assert not any(
        isinstance(each, (PrinterCallback, ProgressCallback)) for each in trainer.callback_handler.callbacks
    )
    trainer.train()
    return trainer, progress


def test_a_training_has_one_bar_and_a_line_for_what_is_logged(tmp_path, capsys, monkeypatch):
    updates = []
    update = Progress.update
    monkeypatch.setattr(Progress, "update", lambda self, *a, **k: (updates.append(k), update(self, *a, **k)))
    _, progress = trained(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [each["completed"] for each in updates if "completed" in each] == list(range(1, 7))
    assert len([line for line in lines if line.startswith("epoch 1") and "loss " in line and "eval" not in line]) == 1
    assert len([line for line in lines if "eval_accuracy " in line]) == 2
    assert not any("per_second" in line or "{" in line for line in lines)
    assert any(line.startswith("training") and "6/6" in line for line in lines) and progress.bar is None


def test_neither_bar_nor_lines_where_none_are_wanted(tmp_path, capsys):
    trainer, _ = trained(tmp_path, bars=False, logs=False)
    trainer.evaluate()
    assert capsys.readouterr().out == ""


def test_an_interrupted_training_leaves_the_terminal_as_it_was(tmp_path):
    progress = TrainingProgress()
    progress._start()
    progress.stop()
    assert progress.bar is None
    progress.stop()
