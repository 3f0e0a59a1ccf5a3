"""A student with adapters of PEFT is saved as PEFT does, and its card says how it loads; needs peft."""

import re

import pytest
import torch
from transformers import AutoModelForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    Teacher,
    add_soft_labels,
)
from hf_bkd.cli import main
from tests.cli.fitting_helpers import CLASSES, WORDS, bert, images, texts, tokenizer

peft = pytest.importorskip("peft")


@pytest.fixture
def encoder(tmp_path):
    """An encoder without a head, whose config says nothing of classes."""
    encoder = bert(["a", "b"]).bert
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def adapted(encoder, **settings):
    base = AutoModelForSequenceClassification.from_pretrained(encoder, id2label=dict(enumerate(WORDS)))
    return peft.get_peft_model(base, peft.LoraConfig(target_modules=["query", "value"], r=2, **settings))


def trained(student, folder, rows, **settings):
    args = DistillationTrainingArguments(
        str(folder), max_steps=4, save_steps=2, learning_rate=0.01, use_cpu=True, report_to="none", kd_lambda=0.9
    )
    trainer = DistillationTrainer(student, args, train_dataset=rows, **settings)
    trainer.train()
    return trainer


def logits(network, rows):
    inputs = tokenizer()(rows["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        return network.eval()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits


def test_the_code_on_the_card_loads_the_student(tmp_path, encoder):
    rows = texts(24, 0)
    labeled = add_soft_labels(rows, DeterministicTeacher(bert()), processing_class=tokenizer())
    trainer = trained(adapted(encoder, task_type="SEQ_CLS"), tmp_path / "out", labeled, processing_class=tokenizer())
    trainer.save_model()
    trainer.create_model_card()
    assert not list((tmp_path / "out").glob("model*"))  # nothing but the adapters
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    loaded = {}
    exec(
        code.replace("PATH_OR_REPOSITORY", str(tmp_path / "out")).replace("tester/out", str(tmp_path / "out")), loaded
    )
    torch.testing.assert_close(logits(loaded["model"], rows), logits(trainer.model, rows))
    assert loaded["classify"](rows["text"][0])[0]["label"] in WORDS
    merged = trainer.model.merge_and_unload()  # as the refusal of adapters advises
    merged.save_pretrained(tmp_path / "merged")
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(alone, rows), logits(merged, rows))


def test_adapters_are_resumed(tmp_path, encoder):
    rows = add_soft_labels(texts(24, 0), DeterministicTeacher(bert()), processing_class=tokenizer())

    def made():
        torch.manual_seed(0)
        return adapted(encoder, task_type="SEQ_CLS")

    whole = trained(made(), tmp_path / "out", rows, processing_class=tokenizer())
    args = whole.args
    again = DistillationTrainer(made(), args, train_dataset=rows, processing_class=tokenizer())
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert torch.equal(logits(again.model, rows), logits(whole.model, rows))


def test_adapters_are_refused_by_the_commands_with_advice(tmp_path, encoder, capsys):
    adapted(encoder, task_type="SEQ_CLS").save_pretrained(tmp_path / "adapters")
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "adapters"), "--dataset", "x"])
    assert "model.merge_and_unload().save_pretrained(folder)" in capsys.readouterr().err


@pytest.mark.parametrize(("settings", "warned"), [({}, 1), ({"modules_to_save": ["classifier"]}, 0)])
def test_a_new_head_that_is_not_saved_is_warned_of(tmp_path, caplog, settings, warned):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, image_size=9, patch_size=3, num_channels=1, id2label=dict(enumerate(CLASSES)))
    lora = peft.LoraConfig(target_modules=["q_proj", "query"], r=2, **settings)
    student = peft.get_peft_model(ViTForImageClassification(config), lora)
    args = DistillationTrainingArguments(str(tmp_path), kd_lambda=0, max_steps=1, use_cpu=True, report_to="none")
    rows, reads = images(6, 0), ImagePreprocessor((0.5,), (0.5,))
    DistillationTrainer(student, args, train_dataset=rows, processing_class=reads).train()
    assert caplog.text.count("the head classifier is new, and the adapters neither train nor save it") == warned


def test_a_teacher_is_saved_merged(tmp_path, encoder):
    rows, teacher = texts(6, 0), DeterministicTeacher(adapted(encoder, task_type="SEQ_CLS"))
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    torch.testing.assert_close(logits(loaded.network, rows), logits(teacher.network, rows))
