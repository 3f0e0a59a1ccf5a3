"""Outputs and classes are counted before a training, also where a head was replaced by hand."""

import logging

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from torch import nn

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, LaplaceTeacher, UserError
from hf_bkd.models.class_names import names_of_network
from hf_bkd.models.heads import num_classes_of

INPUTS = np.eye(4, dtype=np.float32)
LABELS = [0, 1, 2, 0]


def rows(feature=None, labels=LABELS):
    features = {"x": datasets.List(datasets.Value("float32"), length=4)}
    features["label"] = feature or datasets.ClassLabel(names=["cat", "dog", "bird"])
    return datasets.Dataset.from_dict({"x": INPUTS.tolist(), "label": labels}, features=datasets.Features(features))


def student(outputs):
    network = nn.Linear(4, outputs, bias=False)
    network.weight.data = torch.arange(outputs * 4.0).reshape(outputs, 4) % 3
    return network


def first_loss(network, dataset, folder, **inputs):
    args = DistillationTrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1,
        max_steps=1, per_device_train_batch_size=4, kd_lambda=0.0,
    )  # fmt: skip
    trainer = DistillationTrainer(network, args, train_dataset=dataset, **inputs)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("given", [{}, {"data_collator": transformers.default_data_collator}])
def test_more_outputs_than_classes_are_refused_and_either_advice_works(given, tmp_path):
    with pytest.raises(
        UserError, match="the student has 10 outputs, and the column label 3 classes: build it wi"
    ) as e:
        first_loss(student(10), rows(), tmp_path, **given)
    assert "build it with 3" in str(e.value)
    assert first_loss(student(3), rows(), tmp_path, **given) > 0
    dataset = eval(str(e.value).rpartition("pass ")[2], {"dataset": rows(), "datasets": datasets})
    logits = student(10).weight.detach().double().T
    by_hand = -logits.log_softmax(-1)[range(4), LABELS].mean().item()
    assert first_loss(student(10), dataset, tmp_path, **given) == pytest.approx(by_hand, rel=1e-5)


def test_fewer_outputs_are_refused_though_no_row_shows_it(tmp_path):
    with pytest.raises(UserError, match=r"the student has 2 outputs, and the column label 3 classes.*transformers\)$"):
        first_loss(student(2), rows(labels=[0, 1, 0, 1]), tmp_path)


def test_names_in_texts_count_too(tmp_path):
    texts = rows(datasets.Value("string"), ["cat", "dog", "bird", "cat"])
    with pytest.raises(UserError, match="the student has 10 outputs, and the column label 3 classes"):
        first_loss(student(10), texts, tmp_path)


def test_a_student_that_names_more_classes_learns_some_of_them(tmp_path):
    network = student(4)
    network.label_names = ["bird", "fish", "cat", "dog"]
    by_hand = -network.weight.detach().double().T.log_softmax(-1)[range(4), [2, 3, 0, 2]].mean().item()
    assert first_loss(network, rows(), tmp_path) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("outputs", [3, 10])
def test_of_bare_numbers_more_outputs_are_warned_of(outputs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_bkd"):
        first_loss(student(outputs), rows(datasets.Value("int64")), tmp_path)
    warned = [each.getMessage() for each in caplog.records if "outputs" in each.getMessage()]
    assert bool(warned) == (outputs == 10)
    assert all("the labels of column label go up to 2, and the student has 10 outputs" in each for each in warned)


def vit(**settings):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=10, **sizes, **settings)
    return transformers.ViTForImageClassification(config)


def with_heads_replaced():
    network = timm.create_model("resnet10t", num_classes=10)
    network.fc = nn.Linear(network.num_features, 3)
    yield network
    network = timm.create_model("resnet10t", num_classes=0)
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(network.num_features, 3))
    yield network
    network = vit(id2label={number: f"name {number}" for number in range(10)})
    network.classifier = nn.Linear(8, 3)
    yield network


@pytest.mark.parametrize("network", with_heads_replaced(), ids=["timm", "timm, two layers", "transformers"])
def test_a_head_put_in_by_hand_says_the_number(network):
    assert num_classes_of(network) == 3
    assert names_of_network(network) is None  # those of ten classes are not its own any more
    size = 8 if hasattr(network, "config") else 32
    images = torch.randn(6, 3, size, size)
    teacher = DeterministicTeacher(network.eval())
    assert teacher.predict({"pixel_values": images}).mean.shape == (6, 3)
    fitted = LaplaceTeacher.fit(
        network, [({"pixel_values": images}, torch.tensor(LABELS + [1, 2]))], prior_precision=1
    )
    assert fitted.num_classes == 3


def test_a_head_whose_last_layer_has_no_number_is_what_the_network_states():
    class Cosine(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_classes, self.weight = 5, nn.Parameter(torch.eye(5, 8))
            self.head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))

        def forward(self, x):
            return self.head(x) @ self.weight.T

    assert num_classes_of(Cosine()) == 5


@pytest.mark.parametrize("make", [lambda: timm.create_model("resnet10t", num_classes=0)])
def test_a_network_without_a_head_is_refused(make, tmp_path):
    sentence = "ResNet was built without a classification head, and puts out features: build it with the number"
    images = rows().remove_columns("x").add_column("pixel_values", np.zeros((4, 3, 32, 32), np.float32).tolist())
    for use in (
        lambda: first_loss(make(), images, tmp_path),
        lambda: DeterministicTeacher(make()),
        lambda: LaplaceTeacher.fit(make(), images, prior_precision=1.0),
    ):
        with pytest.raises(UserError, match=sentence):
            use()


def test_other_classes_of_another_number_are_not_called_the_same(tmp_path):
    network = student(10)
    network.label_names = [f"name {number}" for number in range(10)]
    with pytest.raises(UserError, match=r"cat, dog, bird, and the student name 0, .*\.\.\. \(3 and 10\)") as e:
        first_loss(network, rows(), tmp_path)
    assert "in the same order" not in str(e.value) and len(str(e.value)) < 300
