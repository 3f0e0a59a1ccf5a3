"""What the pages take for granted: folders and files of a reader, a network, images; and trainings of two steps."""

import json
from copy import deepcopy
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_iris
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

import hf_bkd
from hf_bkd.models.saving import save_network
from hf_bkd.training import arguments
from tests.language.language_helpers import CHATS, llama, tokenizer

CLASSES = 3
ANIMALS = ("cat", "dog", "owl")
SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
VERDICTS = ("supported", "refuted", "unclear")
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
    write_photos({"train": 30, "validation": 30, "test": 30})


@pytest.fixture
def photographs(monkeypatch):
    """Photographs of three animals in many sizes and modes, a trained network of timm, and one of transformers."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 24), ("validation", 12), ("test", 12)):
        for index in range(number):
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
            mode = ("RGB", "L", "RGBA", "P")[index // CLASSES % 4]
            folder = Path("photos", split, ANIMALS[index % CLASSES])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png")
    Image.fromarray(pixels).save("new.png")
    create_model, sizes = timm.create_model, {"image_size": 32, "patch_size": 8, "num_hidden_layers": 1}

    def without_download(name: str, pretrained: bool = False, **settings):
        local = name.startswith("local-dir:")
        return create_model(name if local else "test_resnet", pretrained=pretrained and local, **settings)

    monkeypatch.setattr(timm, "create_model", without_download)
    network = create_model("test_resnet", num_classes=CLASSES)
    network.pretrained_cfg["label_names"] = list(ANIMALS)
    save_network(network, "my-network")
    vit = ViTForImageClassification(ViTConfig(**sizes | SMALL, id2label=dict(enumerate(ANIMALS))))
    for folder in ("my-vit", "WinKawaks/vit-tiny-patch16-224"):
        vit.save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture
def texts(desk):
    """CSV files of questions and of pairs, a small encoder where pages expect a pretrained one, and a classifier."""
    words = {"[PAD]": 0, "[UNK]": 1} | {word: 2 + i for i, word in enumerate((*TOPICS, "How", "far", "?"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"vocab_size": len(words), "max_position_embeddings": 32, "num_hidden_layers": 3, "pad_token_id": 0}
    config = BertConfig(**SMALL | sizes)
    encoder, classifier = BertModel(config), BertForSequenceClassification(with_classes(config, TOPICS))
    pairs = BertForSequenceClassification(with_classes(config, VERDICTS))
    for folder, network in ((ENCODER, encoder), ("my-classifier", classifier), ("my-pair-classifier", pairs)):
        for part in (tokenizer, network):
            part.save_pretrained(desk / folder)
    numbers = range(21)
    questions = {"text": [FIRST, *(f"How far {topic} ?" for topic in TOPICS)], "label": ["HUM", *TOPICS]}
    claims = {"claim": [f"How far {number} ?" for number in numbers], "evidence": [TOPICS[i % 3] for i in numbers]}
    write_tables(".", questions, questions, questions)
    write_tables("questions", questions, questions, questions)
    write_tables("claims", *[claims | {"label": [VERDICTS[number % 3] for number in numbers]}] * 3)


@pytest.fixture
def articles(texts):
    """Articles with several topics each, and a network that names them."""
    config = with_classes(BertConfig.from_pretrained("my-classifier"), TOPICS)
    config.problem_type = "multi_label_classification"
    save_like("my-classifier", "my-topics", BertForSequenceClassification(config))
    sets = [[], ["ABBR"], ["HUM", "LOC"], [*TOPICS], ["NUM", "DESC"], ["ENTY"]]
    write_lines("articles", [{"text": " ".join(["How", "far", *each]), "label": each} for each in sets * 4])


@pytest.fixture
def news(texts):
    """Sentences with a tag for each word, and a network that tags them."""
    config = with_classes(BertConfig.from_pretrained("my-classifier"), ("LOC", "O"))
    save_like("my-classifier", "my-tagger", BertForTokenClassification(config))
    words = [["How", "far", *TOPICS[: number + 1]] for number in range(6)]
    rows = [{"tokens": each, "ner_tags": ["O", "O", *["LOC"] * (len(each) - 2)]} for each in words]
    write_lines("news", rows * 4)


@pytest.fixture
def houses():
    """CSV files of two measures and a price."""
    rng = np.random.default_rng(0)
    size, age = rng.normal(size=(2, 90))
    columns = {"size": size, "age": age, "price": size - age / 2 + rng.normal(size=90) / 9}
    write_tables("houses", *({name: each[start::3] for name, each in columns.items()} for start in range(3)))


def save_like(folder: str, other: str, network) -> None:
    PreTrainedTokenizerFast.from_pretrained(folder).save_pretrained(other)
    network.save_pretrained(other)


def write_lines(folder: str, rows: list[dict]) -> None:
    for name in ("train", "validation", "test"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tables(folder: str, *splits: dict[str, list]) -> None:
    """Tables as ``FOLDER/train.csv``, ``validation.csv`` and ``test.csv``."""
    for name, columns in zip(("train", "validation", "test"), splits, strict=True):
        datasets.Dataset.from_dict(columns).to_csv(Path(folder, f"{name}.csv"))


def with_classes(config: BertConfig, names: tuple[str, ...]) -> BertConfig:
    config = deepcopy(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    return config


@pytest.fixture
def table():
    """CSV files of flowers: four measures, an id and the species."""
    flowers = load_iris(as_frame=True).frame.sample(frac=1, random_state=0).rename(columns={"target": "label"})
    flowers["label"] = flowers["label"].map(dict(enumerate(load_iris().target_names)))
    flowers["id"] = range(len(flowers))
    parts = flowers[:90], flowers[90:120], flowers[120:]
    write_tables("flowers", *(part.to_dict(orient="list") for part in parts))


@pytest.fixture
def digits():
    """scikit-learn's digits as the quick start writes them."""
    pixels, labels = load_digits(return_X_y=True)
    for number, split in enumerate(("train", "validation", "test")):
        rows = slice(100 * number, 100 * (number + 1))
        columns = {"features": pixels[rows], "label": labels[rows]}
        datasets.Dataset.from_dict(columns).to_json(Path("digits", f"{split}.json"))


@pytest.fixture
def sound():
    """An audio classifier with its feature extractor."""
    sizes = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_hidden_layers": 2}
    config = Wav2Vec2Config(**SMALL | sizes, id2label=dict(enumerate(("yes", "no", "stop"))))
    for folder in ("my-audio-network", "facebook/wav2vec2-base"):
        Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)


@pytest.fixture
def numbers():
    """What the first lines of the page on troubles write."""
    features = np.random.default_rng(0).normal(size=(300, 8))
    rows = {"features": features, "label": features[:, :3].argmax(axis=1)}
    datasets.Dataset.from_dict(rows).to_json("numbers.json")


@pytest.fixture
def hub(monkeypatch):
    """A Hub in this process: what was pushed to it, by name."""
    pushed, load_dataset = {}, datasets.load_dataset

    def push(labeled: datasets.Dataset, name: str, labels_only: bool = False, **settings):
        pushed[name] = hf_bkd.only_soft_labels(labeled) if labels_only else labeled

    def load(name: str, *args, **kwargs):
        return pushed[name] if name in pushed else load_dataset(name, *args, **kwargs)

    monkeypatch.setattr(hf_bkd, "push_soft_labels", push)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hf_bkd.Teacher, "push_to_hub", lambda self, name, private: pushed.update({name: self}))
    return pushed


@pytest.fixture
def chats(desk):
    """Files of messages, and two small language models of one tokenizer."""
    pytest.importorskip("peft")
    for split in ("train", "test"):
        Path("chats").mkdir(exist_ok=True)
        Path("chats", f"{split}.jsonl").write_text(
            "".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS * 3)
        )
    for seed, name in enumerate(("my-llm", "HuggingFaceTB/SmolLM2-135M-Instruct")):
        llama(seed).save_pretrained(name)
        tokenizer().save_pretrained(name)


@pytest.fixture
def classifying(chats, texts):
    """A small language model with prompts and label words, as the page makes it."""
    words = {topic: f" {topic.lower()}" for topic in TOPICS}
    prompted = hf_bkd.PromptedTeacher(llama(), tokenizer(), prompts="{text} is a", label_words=words)
    prompted.save_pretrained("my-classifying-llm")
