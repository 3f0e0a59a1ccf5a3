"""Students that a trainer saves load with timm, transformers or plain PyTorch, by the code that their card shows."""

import json
import logging

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from hf_bkd import (
    BatchedDataset,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    Perceptron,
    UserError,
    create_classifier,
)
from hf_bkd.teachers.loading import load_teacher

NAMES = ["cat", "dog", "eel"]
LABELS = [0, 1, 2] * 4


class Shared(nn.Module):
    """One block in three places, as in ALBERT."""

    def __init__(self, width, classes=3):
        super().__init__()
        self.width, self.classes = width, classes
        block = nn.Linear(width, width)
        self.blocks, self.head = nn.ModuleList([block] * 3), nn.Linear(width, classes)

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


def labeled(name, values):
    """12 rows of a column with the labels of three classes that have names."""
    dataset = datasets.Dataset.from_dict({name: values, "label": LABELS})
    return dataset.cast_column("label", datasets.ClassLabel(names=NAMES))


def features():
    return labeled("x", np.random.default_rng(0).normal(size=(12, 4)).astype("float32").tolist())


def pixel_values(size=32):
    return labeled(
        "pixel_values", np.random.default_rng(0).normal(size=(12, 3, size, size)).astype("float32").tolist()
    )


def pictures(size=32):
    pixels = np.random.default_rng(0).integers(0, 255, (12, size, size, 3), dtype=np.uint8)
    return labeled("image", [Image.fromarray(image) for image in pixels]).cast_column("image", datasets.Image())


def texts():
    return labeled("text", ["a bird", "the blue sea", "two fish swim"] * 4)


def trained(student, dataset, folder, resume=None, processing_class=None, **changes):
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "num_train_epochs": 2, "kd_lambda": 0.0}
    settings |= {"per_device_train_batch_size": 4, "save_strategy": "epoch", "learning_rate": 0.01, "seed": 0}
    args = DistillationTrainingArguments(str(folder), **settings | changes)
    trainer = DistillationTrainer(student, args, train_dataset=dataset, processing_class=processing_class)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def made(kind, seed=0):
    torch.manual_seed(seed)
    if kind == "timm":
        return timm.create_model("test_resnet", num_classes=3)
    if kind == "ours":
        return timm.create_model("resnet8x4_cifar", num_classes=3)
    if kind == "compiled":
        return torch.compile(made("timm", seed), backend="eager")
    if kind == "wrapper":
        return create_classifier("test_resnet", 3, image_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    if kind == "vit":
        size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.ViTConfig(image_size=32, patch_size=16, num_labels=3, **size)
        return transformers.ViTForImageClassification(config)
    if kind == "bert":
        size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, num_labels=3, **size)
        return transformers.BertForSequenceClassification(config)
    return Perceptron(4, 3) if kind == "perceptron" else Shared(4)


def processor(kind):
    if kind == "vit":
        return transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    if kind == "bert":
        words = ["[PAD]", "[UNK]", "a", "bird", "the", "blue", "sea", "two", "fish", "swim"]
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    return None


def dataset_for(kind):
    if kind in ("timm", "ours", "compiled", "wrapper", "vit"):
        return pictures()
    return texts() if kind == "bert" else features()


def equal(one, other):
    return all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


COMPILED = pytest.param("compiled", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["shared", "timm", COMPILED])
def test_a_resumed_training_equals_an_uninterrupted_one(kind, tmp_path):
    dataset = dataset_for(kind)
    whole = trained(made(kind), dataset, tmp_path)
    assert whole.state.global_step == 6
    described = {"network.json"} if kind == "shared" else {"config.json"}
    checkpoint = tmp_path / "checkpoint-3"
    assert described | {"model.safetensors"} <= {path.name for path in checkpoint.iterdir()}
    assert equal(trained(made(kind, 1), dataset, tmp_path, resume=str(checkpoint)).model, whole.model)


@pytest.mark.parametrize("kind", ["timm", COMPILED])
def test_a_checkpoint_of_a_timm_student_loads_with_timm_and_as_a_teacher(kind, tmp_path):
    trainer = trained(made(kind), pictures(), tmp_path)
    images = torch.randn(2, 3, 32, 32)
    logits = trainer.model.eval()(images)
    folder = tmp_path / "checkpoint-6"
    torch.testing.assert_close(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images), logits)
    teacher, _ = load_teacher(folder)
    torch.testing.assert_close(teacher.predict(images).mean, logits.softmax(-1))
    assert list(teacher.network.label_names) == NAMES


@pytest.mark.slow
def test_the_best_checkpoint_of_a_compiled_student_is_loaded(tmp_path):
    evaluated = {"load_best_model_at_end": True, "eval_strategy": "epoch", "metric_for_best_model": "eval_loss"}
    args = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "epoch", "kd_lambda": 0.0}
    args = DistillationTrainingArguments(str(tmp_path), num_train_epochs=2, learning_rate=0.3, **args, **evaluated)
    trainer = DistillationTrainer(made("compiled"), args, train_dataset=pictures(), eval_dataset=pictures())
    trainer.train()
    best = timm.create_model(f"local-dir:{trainer.state.best_model_checkpoint}", pretrained=True)
    assert equal(best, trainer.model)


def card_of(trainer, folder):
    trainer.save_model()
    trainer.create_model_card()
    return (folder / "README.md").read_text()


def run_code_of(card, folder):
    """Run the code block of a card, as somebody does who has the student's folder, and return its names."""
    code = card.partition("```python\n")[2].partition("```")[0]
    assert "PATH" in code
    names = {}
    exec(code.replace("PATH_OR_REPOSITORY", str(folder)).replace("PATH", str(folder)), names)
    return names, code


KINDS = ("timm", "ours", COMPILED, "wrapper", "vit", "bert", "perceptron", "shared")


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_a_card_loads_the_student(kind, tmp_path):
    dataset = dataset_for(kind)
    trainer = trained(made(kind), dataset, tmp_path, processing_class=processor(kind), save_strategy="no")
    card = card_of(trainer, tmp_path)
    names, code = run_code_of(card, tmp_path)
    assert ("hf_bkd" in code) == (kind in ("ours", "perceptron"))
    student = names["model"].eval()
    assert equal(student, trainer.model)
    assert "license:" not in card
    if kind in ("perceptron", "shared"):
        x = torch.randn(2, 4)
        assert torch.equal(student(x), trainer.model.eval()(x))
        return
    predicted = torch.as_tensor(trainer.predict(dataset).predictions).softmax(-1)
    row = dataset[0]["text" if kind == "bert" else "image"]
    scores = {each["label"]: each["score"] for each in names["classify"](row, top_k=3)}
    assert scores == {name: pytest.approx(predicted[0, i].item(), abs=1e-4) for i, name in enumerate(NAMES)}


def test_images_that_were_only_normalized_are_so_in_the_config(tmp_path):
    train = BatchedDataset.from_images(pictures(24), ImagePreprocessor((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    trained(made("timm"), train, tmp_path, save_strategy="no").save_model()
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    assert config["input_size"] == [3, 24, 24] and config["crop_pct"] == 1.0


def test_images_of_an_unknown_normalization_have_their_size_and_a_sentence(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trained(made("timm"), pixel_values(24), tmp_path, save_strategy="no").save_model()
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 24, 24]
    assert "nothing says how the images of the training set were normalized" in caplog.text


@pytest.mark.parametrize("as_argument", [True, False])
def test_the_license_of_a_student_is_the_one_that_is_given(as_argument, tmp_path):
    changes = {"license": "mit"} if as_argument else {}
    trainer = trained(made("perceptron"), features(), tmp_path, save_strategy="no", **changes)
    trainer.create_model_card(**({} if as_argument else {"license": "cc0-1.0"}))
    assert f"license: {'mit' if as_argument else 'cc0-1.0'}\n" in (tmp_path / "README.md").read_text()


def test_a_student_that_cannot_be_written_is_one_sentence(tmp_path):
    trainer = trained(made("shared"), features(), tmp_path / "run", save_strategy="no")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        trainer.save_model(str(tmp_path / "file"))
    assert "could not be written" in str(caught.value) and isinstance(caught.value.__cause__, OSError)
