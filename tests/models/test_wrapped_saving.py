"""transformers' wrapper of a timm network is saved so that timm reads it too, and its checkpoints are resumed."""

import datasets
import numpy as np
import timm
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    Teacher,
    create_classifier,
)

NAMES, X = ["a", "b", "c"], torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def wrapped():
    torch.manual_seed(0)
    return create_classifier("test_resnet", 3, image_size=16, mean=[0.5] * 3, std=[0.5] * 3, label_names=NAMES)


def pictures() -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(256, size=(6, 16, 16, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [Image.fromarray(each) for each in pixels], "label": [0, 1, 2] * 2}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_wrapped_student_loads_with_timm_and_transformers_and_is_resumed(tmp_path):
    def trained(**resumed):
        args = DistillationTrainingArguments(
            str(tmp_path), kd_lambda=0, max_steps=2, save_steps=1, use_cpu=True, report_to="none"
        )
        trainer = DistillationTrainer(wrapped(), args, train_dataset=pictures())
        trainer.train(**resumed)
        return trainer

    trainer = trained()
    trainer.save_model()
    expected = trainer.model.eval()(X).logits
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(loaded(X), expected)
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(model(X).logits, expected)
    assert [model.config.id2label[i] for i in range(3)] == NAMES
    resumed = trained(resume_from_checkpoint=str(tmp_path / "checkpoint-1")).model.eval()
    assert torch.equal(resumed(X).logits, expected)


def test_a_wrapped_teacher_is_saved_and_loaded(tmp_path):
    network = wrapped().eval()
    DeterministicTeacher(network).save_pretrained(tmp_path / "t")
    answer = Teacher.from_pretrained(tmp_path / "t").predict({"pixel_values": X}).mean
    torch.testing.assert_close(answer, network(X).logits.softmax(dim=-1))
