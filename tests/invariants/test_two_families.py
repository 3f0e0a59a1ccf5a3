"""Stored labels are those of a teacher at hand also where teacher and student read the same rows in two ways.

The teacher has another image size, another tokenizer or other arguments of forward than the student. Each is asked by
its own preprocessing, and both by the same examples: losses agree step by step.
"""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from hf_bkd import (
    BatchedDataset,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    MultiTeacher,
    UserError,
    Views,
    add_soft_labels,
)
from hf_bkd.data.augmentations import RandomResizedCrop
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.teachers import predict_all

N, C = 10, 3
NAMES = ["cat", "dog", "eel"]
ONLINE = {"online_teacher": True, "teacher_samples": 4, "teacher_seed": 3}
CLASSES = datasets.ClassLabel(names=NAMES)


def arguments(folder, **changes) -> DistillationTrainingArguments:
    settings = {"kd_lambda": 0.7, "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 0.01}
    settings |= {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
    return DistillationTrainingArguments(output_dir=str(folder), **settings | changes)


def losses(trainer: DistillationTrainer) -> list[float]:
    trainer.train()
    return [entry["distillation"] for entry in trainer.state.log_history if "distillation" in entry]


def label(dataset, teacher, **changes) -> datasets.Dataset:
    return add_soft_labels(dataset, teacher, 4, seed=3, storage="float32", progress=False, **changes)


def both(folder, student, teacher, dataset, processing_class=None, **changes) -> tuple[list[float], list[float]]:
    """Losses from stored labels, and with the teacher at hand; the student's weights start alike."""
    labeled = label(dataset, teacher, batch_size=3)
    read_by = {"processing_class": processing_class}
    stored = DistillationTrainer(student(), arguments(folder, **changes), train_dataset=labeled, **read_by)
    args = arguments(folder, **changes, **ONLINE)
    online = DistillationTrainer(student(), args, train_dataset=dataset, teacher=teacher, **read_by)
    return losses(stored), losses(online)


def photographs() -> datasets.Dataset:
    """Of three sizes and four modes, beside a column that nobody reads."""
    random, images = np.random.default_rng(0), []
    for row in range(N):
        height, width = ((20, 26), (32, 24), (17, 17))[row % 3]
        image = Image.fromarray(random.integers(256, size=(height, width, 3), dtype=np.uint8))
        images.append(image.convert(("RGB", "L", "P", "RGBA")[row % 4]))
    rows = {"path": [f"{row}.png" for row in range(N)], "image": images, "label": np.arange(N) % C}
    features = {"path": datasets.Value("string"), "image": datasets.Image(), "label": CLASSES}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def sharper(network: nn.Module) -> nn.Module:
    """The network with a head that is sure of different classes for different rows."""
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight.normal_(std=0.5)
    return network.eval()


def timm_student() -> nn.Module:
    torch.manual_seed(7)
    network = timm.create_model("cnn6_small", num_classes=C, in_chans=3)
    channels = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 0.9}
    network.pretrained_cfg = network.default_cfg = dict(network.default_cfg, **channels)
    return network


def vit_teacher(size: int = 24, names: list[str] = NAMES) -> DeterministicTeacher:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=size, patch_size=8, id2label=dict(enumerate(names)), **sizes)
    network = transformers.ViTForImageClassification(config)
    teacher = DeterministicTeacher(sharper(network))
    teacher.processing_class = transformers.ViTImageProcessor(size={"height": size, "width": size})
    return teacher


def test_images_of_two_sizes(tmp_path):
    stored, online = both(tmp_path, timm_student, vit_teacher(), photographs())
    assert len(stored) == 9
    assert stored == pytest.approx(online, rel=2e-5)


def test_the_teachers_own_size_counts(tmp_path):
    """What the equality above is worth: another size is another loss."""
    stored, _ = both(tmp_path, timm_student, vit_teacher(), photographs())
    _, other = both(tmp_path, timm_student, vit_teacher(32), photographs())
    assert all(abs(a - b) > 1e-3 * a for a, b in zip(stored, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_other_processes_read(tmp_path, workers):
    stored, online = both(tmp_path, timm_student, vit_teacher(), photographs(), dataloader_num_workers=workers)
    assert stored == pytest.approx(online, rel=2e-5)


def tokenizer(words: list[str], folder) -> transformers.PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=16, **special)


WORDS = ["a", "bird", "can", "fly", "over", "the", "blue", "sea", "and", "two", "fish", "swim"]


def texts(pairs: bool) -> datasets.Dataset:
    random = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(random.choice(WORDS, random.integers(2, 9)))

    names = ("premise", "hypothesis") if pairs else ("text",)
    rows = {"idx": list(range(N))} | {name: [sentence() for _ in range(N)] for name in names}
    return datasets.Dataset.from_dict(rows).add_column("label", list(np.arange(N) % C), feature=CLASSES)


SIZES = {"vocab_size": 40, "max_position_embeddings": 20, "pad_token_id": 0}


def bert_teacher(folder, laplace_of=None) -> DeterministicTeacher:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(id2label=dict(enumerate(NAMES)), **SIZES, **sizes)
    network, own = sharper(transformers.BertForSequenceClassification(config)), tokenizer(WORDS, folder)
    if laplace_of is None:
        teacher = DeterministicTeacher(network)
    else:
        batch = preprocessor_for(network, laplace_of, own)(laplace_of[:])
        data = [batch | {"labels": torch.tensor(laplace_of["label"][:])}]
        teacher = LaplaceTeacher.fit(network, data, prior_precision=1.0, link="mc")
    teacher.processing_class = own
    return teacher


def distilbert_student() -> nn.Module:
    torch.manual_seed(7)
    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "num_labels": C}
    return transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(**SIZES, **sizes, dropout=0.0, seq_classif_dropout=0.0, attention_dropout=0.0)
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_texts_by_two_tokenizers(tmp_path, pairs):
    """Which know other words, and whose networks take other arguments; draws belong to the same examples."""
    rows = texts(pairs)
    own = tokenizer(sorted(WORDS)[:7], tmp_path)
    stored, online = both(tmp_path, distilbert_student, bert_teacher(tmp_path, rows), rows, own)
    assert len(stored) == 9 and stored == pytest.approx(online, rel=2e-5)


class OfNumbers(nn.Module):
    """Takes one tensor under a name of its own."""

    def __init__(self, wide: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, wide), nn.Tanh(), nn.Linear(wide, C))

    def forward(self, x):
        return self.layers(x)


class OfNamed(nn.Module):
    """Takes the column ``measured`` by its name."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, C)

    def forward(self, measured):
        return self.head(measured)


def test_features_by_position_and_by_name(tmp_path):
    torch.manual_seed(0)
    values = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
    rows = datasets.Dataset.from_dict({"measured": values.tolist(), "label": (np.arange(N) % C).tolist()})
    teacher = DeterministicTeacher(sharper(OfNumbers(8)))

    def student():
        torch.manual_seed(7)
        return OfNamed()

    stored, online = both(tmp_path, student, teacher, rows)
    assert stored == pytest.approx(online, rel=2e-5)


def test_views_of_two_sizes(tmp_path):
    """The picture that teacher and student see in a view is the same; each brings it to its own size."""
    rows, teacher = photographs(), vit_teacher()
    rows = rows.cast_column("image", datasets.Image(mode="RGB"))
    views = Views(RandomResizedCrop(18), num_views=2, seed=5)
    labeled = label(rows, teacher, views=views)
    stored = DistillationTrainer(timm_student(), arguments(tmp_path), train_dataset=labeled)
    reader = preprocessor_for(timm_student(), rows)
    decoded = BatchedDataset.from_images(rows, reader, views, resident=False, progress=False)
    args = arguments(tmp_path, **ONLINE)
    online = DistillationTrainer(timm_student(), args, train_dataset=decoded, teacher=teacher)
    assert losses(stored) == pytest.approx(losses(online), rel=2e-5)


def test_classes_that_teacher_student_and_dataset_number_in_three_orders(tmp_path):
    """A loss of classes, not of their numbers."""
    orders = [NAMES, ["eel", "cat", "dog"]]
    rows = photographs()

    def student(names):
        torch.manual_seed(7)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.ViTConfig(image_size=16, patch_size=8, id2label=dict(enumerate(names)), **sizes)
        config.label2id = {name: number for number, name in enumerate(names)}
        network = transformers.ViTForImageClassification(config)
        with torch.no_grad():
            order = [NAMES.index(name) for name in names]
            network.classifier.weight.copy_(network.classifier.weight[order])
        return network

    own = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    all_losses = [both(tmp_path, lambda order=order: student(order), vit_teacher(), rows, own) for order in orders]
    (expected, _), *_ = all_losses
    for pair in all_losses:
        for each in pair:
            assert each == pytest.approx(expected, rel=2e-5)


def of_two_members(kind: str, folder) -> tuple[MultiTeacher, datasets.Dataset, Callable, Any]:
    """Members that prepare the same rows differently, a student and what it reads by."""
    if kind == "images":
        rows, first, second = photographs(), vit_teacher(), DeterministicTeacher(sharper(timm_student()))
        return MultiTeacher({"a": first, "b": second}), rows, timm_student, None
    rows = texts(False)
    first, second = bert_teacher(folder, rows), bert_teacher(folder)
    second.processing_class = tokenizer(sorted(WORDS)[3:], folder / "other")
    return MultiTeacher({"a": first, "b": second}), rows, distilbert_student, tokenizer(sorted(WORDS)[:7], folder)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_several_teachers_at_hand_read_each_by_their_own(kind, tmp_path):
    teacher, rows, student, own = of_two_members(kind, tmp_path)
    assert teacher.preprocessor_for(rows).kind == "several"
    stored, online = both(tmp_path, student, teacher, rows, own)
    assert len(stored) == 9 and stored == pytest.approx(online, rel=2e-5)
    each = [predict_all(member, rows, 4, seed=3)[0] for member in teacher.members.values()]
    assert torch.allclose(predict_all(teacher, rows, 4, seed=3)[0], sum(each) / 2, atol=1e-6)


def test_several_that_read_different_columns_are_refused_at_hand(tmp_path):
    rows = texts(True)
    pair, single = bert_teacher(tmp_path, rows), bert_teacher(tmp_path)
    single.preprocessor_for = lambda dataset, own=None: preprocessor_for(
        single.network, dataset.select_columns(rows.column_names[1:2]), single.processing_class
    )
    with pytest.raises(UserError, match="the members of this MultiTeacher prepare examples differently"):
        MultiTeacher({"a": pair, "b": single}).preprocessor_for(rows)
