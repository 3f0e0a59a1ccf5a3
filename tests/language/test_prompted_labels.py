"""Labels of a language model with prompts are like any other teacher's: stored, gone on with, learned from."""

from pathlib import Path

import pytest
import torch
from datasets import DatasetDict, load_from_disk
from transformers import BertConfig, BertForSequenceClassification

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    MultiTeacher,
    PromptedTeacher,
    add_soft_labels,
    check_against_teacher,
)
from hf_bkd.cli import main
from hf_bkd.soft_labels import read
from hf_bkd.teachers import predict_all

from .language_helpers import V, llama, tokenizer
from .prompted_helpers import PROMPTS, TEXTS, WORDS, answers, prompted, rows

NAMES = ("yes", "other", "no")  # in another order than the label words


def encoder(seed: int = 0, classes: tuple[str, ...] = NAMES) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: place for place, name in enumerate(classes)}}
    return BertForSequenceClassification(BertConfig(vocab_size=V, **sizes, **names, pad_token_id=0))


def labeled(**settings):
    settings = {"storage": "float32", "progress": False} | settings
    return add_soft_labels(rows(names=NAMES), settings.pop("teacher", prompted()), **settings)


def arguments(folder: Path, **settings) -> DistillationTrainingArguments:
    quiet = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    return DistillationTrainingArguments(str(folder), max_steps=3, kd_lambda=0.7, **quiet, **settings)


def test_labels_stand_in_the_datasets_order_with_what_made_them():
    dataset, answer = labeled(), answers(prompted())
    order = [list(WORDS).index(name) for name in NAMES]
    torch.testing.assert_close(read(dataset).probs, answer.mean[:, order], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(read(dataset).variance, answer.variance[:, order], rtol=1e-4, atol=1e-9)
    record = read(dataset).record
    assert record.positions is None and record.draws == len(PROMPTS) and record.class_names == list(NAMES)
    said = record.teacher.json
    assert said["prompts"] == PROMPTS and said["label_words"] == {
        "no": [" no", " ba"],
        "yes": [" ye"],
        "other": [" ok"],
    }
    assert said["tokenizer"]["vocabulary"] and said["chat_template"] is None
    assert check_against_teacher(dataset, prompted()) < 1e-6


def test_a_labeling_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    class Killed(PromptedTeacher):
        calls = 0

        def predict(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 3:  # the first is the look at the first rows
                raise KeyboardInterrupt
            return super().predict(*args, **kwargs)

    settings = {"shard_rows": 2, "folder": tmp_path}
    teacher = Killed(llama(), tokenizer(), prompts=PROMPTS, label_words=WORDS)
    with pytest.raises(KeyboardInterrupt):
        labeled(teacher=teacher, **settings)
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    again, whole = labeled(teacher=teacher, **settings), labeled(shard_rows=2)
    for name in ("teacher_probs", "teacher_variance", "example_id"):
        assert again[name][:] == whole[name][:]


def test_a_student_learns_the_same_from_stored_labels_and_online(tmp_path):
    losses = []
    for dataset, asked in ((labeled(), {}), (rows(names=NAMES), {"teacher": prompted()})):
        args = arguments(tmp_path, online_teacher=bool(asked))
        trainer = DistillationTrainer(encoder(), args, train_dataset=dataset, processing_class=tokenizer(), **asked)
        trainer.train()
        losses.append([each["loss"] for each in trainer.state.log_history if "loss" in each])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 3


def test_a_mixture_with_an_encoder_reads_each_its_own_inputs(tmp_path):
    small = DeterministicTeacher(encoder(1))
    small.processing_class = tokenizer()
    both = MultiTeacher({"encoder": small, "language_model": prompted()}, weights="entropy")
    dataset = labeled(teacher=both)
    own = labeled(teacher=prompted(), name="language_model")
    assert dataset["teacher_probs__language_model"][:] == own["teacher_probs__language_model"][:]
    assert "teacher_probs__encoder" in dataset.column_names
    inputs = both.preprocessor_for(rows(names=NAMES))({"text": TEXTS})
    assert both.predict(inputs).mean.shape == (4, 3)
    args = arguments(tmp_path, teacher_weights="entropy")
    trainer = DistillationTrainer(encoder(), args, train_dataset=dataset, processing_class=tokenizer())
    trainer.train()
    both.save_pretrained(tmp_path / "both")
    loaded = MultiTeacher.from_pretrained(tmp_path / "both")
    assert torch.equal(loaded.predict(inputs).mean, both.predict(inputs).mean)


def test_draws_teach_a_dirichlet_too():
    probs = labeled(mean_log_probs=True)
    order = [list(WORDS).index(name) for name in NAMES]
    expected = answers(prompted()).samples.clamp_min(2**-25).log().mean(dim=0)[:, order]
    torch.testing.assert_close(torch.tensor(probs["teacher_mean_log_probs"][:]), expected, rtol=1e-4, atol=1e-5)


def test_it_is_measured_as_any_other_teacher():
    probs, labels = predict_all(prompted(), rows(names=("no", "yes", "other")))
    torch.testing.assert_close(probs, answers(prompted()).mean, rtol=1e-5, atol=1e-8)
    assert labels.tolist() == [0, 1, 2, 0]


def test_the_commands_label_measure_and_distill(tmp_path, capsys):
    prompted(prompts=["Q: {sentence} A:"]).save_pretrained(tmp_path / "teacher")
    few = rows(TEXTS * 3, names=NAMES).rename_column("text", "sentence")
    DatasetDict(train=few, test=few).save_to_disk(tmp_path / "rows")
    encoder(0, tuple(WORDS)).save_pretrained(tmp_path / "encoder")
    tokenizer().save_pretrained(tmp_path / "encoder")
    data = ["--dataset", str(tmp_path / "rows")]
    main(["label", "--teacher", str(tmp_path / "teacher"), *data, "--output_dir", str(tmp_path / "labeled")])
    dataset = load_from_disk(tmp_path / "labeled")
    assert len(dataset) == 12 and len(dataset["teacher_probs"][0]) == 3
    main(["evaluate", str(tmp_path / "teacher"), *data])
    assert "accuracy" in capsys.readouterr().out
    main(
        ["distill", "--student", str(tmp_path / "encoder"), "--dataset", str(tmp_path / "labeled")]
        + ["--max_steps", "2", "--output_dir", str(tmp_path / "student"), "--report_to", "none", "--use_cpu", "1"]
    )
    assert (tmp_path / "student" / "model.safetensors").is_file()
