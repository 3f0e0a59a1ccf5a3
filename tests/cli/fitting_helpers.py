"""Tiny images and texts that a tiny network learns in a second, and the command line in this process."""

import datasets
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

from hf_bkd import DeterministicTeacher, Perceptron, add_soft_labels, create_classifier
from hf_bkd.cli import main

CLASSES = ["left", "middle", "right"]
WORDS = ["who", "where", "when"]
FAST = {
    "num_train_epochs": 4,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 16,
    "disable_tqdm": 1,
    "use_cpu": 1,
}


def images(number: int, seed: int, size: int = 9, mode: str = "L") -> datasets.Dataset:
    """Noise with a bright third that tells the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 3)
    pixels = rng.integers(0, 100, (number, size, size), dtype=np.uint8)
    for row, label in zip(pixels, labels, strict=True):
        row[:, label * size // 3 : (label + 1) * size // 3] += 120
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    columns = {"image": [Image.fromarray(image).convert(mode) for image in pixels], "label": labels.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def texts(number: int, seed: int) -> datasets.Dataset:
    """One of three question words among fillers, in texts of 2 to 7 words."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 3)
    rows = [[WORDS[label], *(f"w{word}" for word in rng.integers(0, 20, rng.integers(1, 7)))] for label in labels]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=WORDS)})
    return datasets.Dataset.from_dict(
        {"text": [" ".join(rng.permutation(row)) for row in rows], "label": labels.tolist()}, features=features
    )


def labeled_table() -> datasets.DatasetDict:
    """Twelve labeled rows of two numbers to train on, and six to validate on."""
    rng, names = np.random.default_rng(0), ["no", "yes"]
    columns = {name: rng.normal(size=18).round(3).tolist() for name in ("length", "width")}
    rows = datasets.Dataset.from_dict(columns | {"label": [0, 1] * 9})
    rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    set_seed(0)
    network = Perceptron(2, 2, [4], label_names=names, feature_names=[*columns])
    train = add_soft_labels(rows.select(range(12)), DeterministicTeacher(network))
    return datasets.DatasetDict(train=train, validation=rows.select(range(12, 18)))


def splits(make, **how) -> datasets.DatasetDict:
    parts = (("train", 96), ("validation", 30), ("test", 60))
    return datasets.DatasetDict({name: make(number, seed, **how) for seed, (name, number) in enumerate(parts)})


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", *WORDS, *(f"w{number}" for number in range(20))]
    model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


def bert(names=WORDS, seed: int = 0, layers: int = 1) -> BertForSequenceClassification:
    """Untrained, and with dropout."""
    set_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=25, max_position_embeddings=8, pad_token_id=0, num_labels=len(names), **sizes)
    config.id2label = dict(enumerate(names))
    return BertForSequenceClassification(config).eval()


def trained_bert(rows: datasets.Dataset, seed: int = 0) -> BertForSequenceClassification:
    network, tokens = bert(seed=seed), tokenizer()
    batch = tokens(rows["text"][:], padding=True, return_tensors="pt")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        logits = network(batch["input_ids"], batch["attention_mask"]).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor(rows["label"][:])).backward()
        optimizer.step()
    return network


def cnn(seed: int = 0, size: int = 9, names=CLASSES):
    """Untrained."""
    set_seed(seed)
    shape = {"in_chans": 1, "image_size": size, "mean": (0.4,), "std": (0.3,)}
    return create_classifier("cnn6_small", len(names), label_names=names, **shape).eval()


def run(*arguments, **options) -> None:
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    main([str(part) for part in (*arguments, *flags)])


def fit(home, output_dir, method, model, data, **options) -> None:
    """``hf-bkd teacher fit`` with things of ``home``; an empty list of options trains quickly."""
    models = [home / name if (home / name).is_dir() else name for name in model.split()]
    flags = {"dataset": home / data, "output_dir": output_dir, **FAST, **options}
    run("teacher", "fit", "--method", method, "--model", *models, **flags)
