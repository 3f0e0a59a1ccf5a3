"""What the pages take for granted: folders and files of a reader, a network, images; and trainings of two steps."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import hf_bkd
from hf_bkd.training import arguments

CLASSES = 3
TOPICS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
FIRST = "What army was founded by William Booth and his wife Catherine ?"  # of the questions that the README prints
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """An empty folder to work in; nothing is written into the user's caches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


class Quick(arguments.DistillationTrainingArguments):
    """Trainings of two steps on the CPU, whatever a page asks for."""

    def __init__(self, *args, **kwargs):
        own = {"max_steps": 2, "use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        super().__init__(*args, **kwargs | own)


@pytest.fixture
def quick(monkeypatch):
    """Pages get :class:`Quick` when they import the training arguments."""
    monkeypatch.setattr(arguments, "DistillationTrainingArguments", Quick)


@pytest.fixture
def world(quick):
    """All public names, a network, images, arguments and what trainings read."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    images = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in pixels], "label": [i % CLASSES for i in range(12)]}, features
    )
    network = hf_bkd.create_classifier("cnn6_small", CLASSES, in_chans=1, image_size=8, mean=[0.5], std=[0.25])
    preprocessor = hf_bkd.ImagePreprocessor.for_model(network)
    train = hf_bkd.BatchedDataset.from_images(images, preprocessor)
    batch = next(train.batches())
    return {name: getattr(hf_bkd, name) for name in hf_bkd.__all__} | {
        "network": network,
        "student": network,
        "teacher": hf_bkd.DeterministicTeacher(network),
        "images": images,
        "rows": images.with_transform(preprocessor),
        "preprocessor": preprocessor,
        "train": train,
        "inputs": {"pixel_values": batch["pixel_values"]},
        "labels": batch["labels"],
        "teacher_probs": torch.randn(12, CLASSES).softmax(dim=-1),
        "generator": torch.Generator().manual_seed(0),
        "args": Quick("out", kd_lambda=0.0),
    }


def write_photos(counts: dict[str, int]) -> None:
    """scikit-learn's digits as ``photos/SPLIT/CLASS/NUMBER.png``, so many in each split."""
    digits = load_digits()
    order = iter(np.random.default_rng(0).permutation(len(digits.target)))
    for split, count in counts.items():
        for row in (next(order) for _ in range(count)):
            folder = Path("photos", split, str(digits.target[row]))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[row] * 255 / 16).astype(np.uint8)).save(folder / f"{row}.png")


@pytest.fixture
def photos():
    write_photos({"train": 60, "validation": 60, "test": 60})


@pytest.fixture
def texts(desk):
    """Three CSV files of questions, and a small encoder where the pages expect a pretrained one."""
    words = {"[PAD]": 0, "[UNK]": 1} | {word: 2 + i for i, word in enumerate((*TOPICS, "How", "far", "?"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "max_position_embeddings": 32}
    encoder = BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=3, pad_token_id=0, **sizes))
    for part in (tokenizer, encoder):
        part.save_pretrained(desk / ENCODER)
    for split in ("train", "validation", "test"):
        rows = {"text": [FIRST, *(f"How far {topic} ?" for topic in TOPICS)], "label": ["HUM", *TOPICS]}
        datasets.Dataset.from_dict(rows).to_csv(f"{split}.csv")
