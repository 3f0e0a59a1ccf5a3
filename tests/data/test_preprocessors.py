"""How saved networks read datasets: images of any size and channels, texts of any length."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_bkd import BatchedDataset, DeterministicTeacher, UserError
from hf_bkd.cli.fitting import training_set
from hf_bkd.data.preprocessors import Preprocessor, class_names, preprocessor_for
from hf_bkd.data.preprocessors.saved import network_kind, saved_processor
from hf_bkd.teachers.loading import load_teacher
from tests.cli.fitting_helpers import CLASSES, bert, cnn, images, texts, tokenizer


def vit(num_channels: int = 3) -> ViTForImageClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=16, patch_size=8, num_labels=3, num_channels=num_channels, **sizes)
    return ViTForImageClassification(config).eval()


def distilbert() -> DistilBertForSequenceClassification:
    config = DistilBertConfig(vocab_size=25, dim=16, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=8)
    return DistilBertForSequenceClassification(config).eval()


def reader_of_texts(network: nn.Module, folder: Path) -> Preprocessor:
    """The preprocessor by which a network reads texts with the tokenizer in a folder."""
    return preprocessor_for(network, texts(1, 0), saved_processor("text", folder))


class TestImages:
    def test_of_the_networks_own_size_are_only_normalized(self):
        rows = images(5, 0)
        reader = preprocessor_for(cnn(), rows)
        (batch,) = reader.batches(rows)
        pixels = np.stack([np.asarray(image) for image in rows["image"]])[:, None] / 255
        torch.testing.assert_close(batch["pixel_values"], torch.tensor((pixels - 0.4) / 0.3, dtype=torch.float32))
        assert batch["labels"].tolist() == rows["label"][:]
        assert reader.to_dict() == {
            "input_size": [1, 9, 9], "interpolation": "bicubic", "mean": [0.4], "std": [0.3], "crop_pct": 1.0,
            "crop_mode": "center",
        }  # fmt: skip
        assert isinstance(training_set(reader, rows, torch.device("cpu")), BatchedDataset)

    @pytest.mark.parametrize(("size", "mode"), [(20, "L"), (9, "RGB"), (9, "P"), (30, "RGBA"), (12, "1")])
    def test_of_other_sizes_and_modes_are_brought_to_it(self, size, mode):
        rows = images(4, 0, size, mode)
        reader = preprocessor_for(cnn(), rows)
        values = next(reader.batches(rows))["pixel_values"]
        assert values.shape == (4, 1, 9, 9) and 0.1 < values.std() < 2
        assert next(reader.batches(rows.remove_columns("label"))).keys() == {"pixel_values"}
        assert len(cnn()(values).logits) == 4

    def test_of_several_sizes(self):
        mixed = datasets.concatenate_datasets([images(2, 0, 20), images(2, 1, 11)])
        (batch,) = preprocessor_for(cnn(), mixed).batches(mixed)
        assert batch["pixel_values"].shape == (4, 1, 9, 9)
        train = training_set(preprocessor_for(cnn(), mixed), mixed, torch.device("cpu"))
        assert [row["pixel_values"].shape for row in train.__getitems__([0, 3])] == [(1, 9, 9)] * 2

    def test_a_networks_own_processor_is_used_and_kept(self, tmp_path):
        rows = images(3, 0, 20)
        vit().save_pretrained(tmp_path / "vit")
        with pytest.raises(UserError, match="nothing says how images become the inputs of ViT"):
            preprocessor_for(load_teacher(str(tmp_path / "vit"))[0].network, rows)
        ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.2] * 3).save_pretrained(tmp_path / "vit")
        teacher, _ = load_teacher(str(tmp_path / "vit"))
        reader = preprocessor_for(teacher.network, rows)
        (batch,) = reader.batches(rows)
        assert batch["pixel_values"].shape == (3, 3, 16, 16)
        teacher.save_pretrained(tmp_path / "teacher")
        reader.save(tmp_path / "teacher")
        teacher, _ = load_teacher(str(tmp_path / "teacher"))
        again = teacher.preprocessor_for(rows)
        assert again.to_dict() == reader.to_dict() and again.to_dict()["image_mean"] == [0.2] * 3
        torch.testing.assert_close(next(again.batches(rows))["pixel_values"], batch["pixel_values"])


class TestTexts:
    def test_are_padded_to_the_longest_and_cut_to_what_the_network_can_read(self, tmp_path):
        tokenizer().save_pretrained(tmp_path)
        reader = reader_of_texts(bert(), tmp_path)
        found = reader({"text": ["who", "w1 w2 nothing"]})
        assert found["input_ids"].tolist() == [[2, 0, 0], [6, 7, 1]]
        assert found["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
        with pytest.raises(UserError, match="the text has no tokens"):
            reader({"text": ["who", ""]})
        with pytest.raises(UserError, match="row 1 of column text holds no value"):
            reader({"text": ["who", None]})
        assert reader({"text": ["w1 " * 50]})["input_ids"].shape == (1, 8)
        assert reader.to_dict()["max_length"] == 8

    def test_a_network_gets_only_what_it_takes(self, tmp_path):
        tokens = tokenizer()
        tokens.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokens.save_pretrained(tmp_path)
        for network in (distilbert(), bert()):
            inputs = reader_of_texts(network, tmp_path)({"text": ["who w1"]})
            assert network(**inputs).logits.shape[0] == 1

    def test_batches_of_a_training_set_are_padded_each(self, tmp_path):
        tokenizer().save_pretrained(tmp_path)
        rows = datasets.Dataset.from_dict({"text": ["who", "w1 w2", "w1 w2 w3"], "label": [0, 1, 2]})
        reader = preprocessor_for(bert(), rows, saved_processor("text", tmp_path))
        train = training_set(reader, rows, torch.device("cpu"))
        assert [row["input_ids"].tolist() for row in train.__getitems__([0, 1])] == [[2, 0], [6, 7]]
        assert train[2]["labels"].item() == 2 and train[2]["input_ids"].tolist() == [6, 7, 8]

    def test_tokenizers_that_are_not_there_or_cannot_pad(self, tmp_path):
        with pytest.raises(UserError, match="nothing says how texts become the inputs of Bert"):
            reader_of_texts(bert(), tmp_path)
        tokens = tokenizer()
        tokens.pad_token = None
        tokens.save_pretrained(tmp_path)
        assert reader_of_texts(bert(), tmp_path).processor.pad_token == "[PAD]"  # by the network's config
        network = bert()
        network.config.pad_token_id = None
        with pytest.raises(UserError, match="has no token to pad texts with"):
            reader_of_texts(network, tmp_path)
        (tmp_path / "tokenizer.json").write_text("{")
        (tmp_path / "tokenizer_config.json").write_text("{")
        with pytest.raises(UserError, match="the tokenizer in .* cannot be loaded"):
            reader_of_texts(bert(), tmp_path)


def test_kinds_and_classes_of_networks():
    assert network_kind(bert()) == "text" and network_kind(cnn()) == network_kind(vit()) == "image"
    assert network_kind(nn.Linear(2, 2)) is None
    assert class_names(cnn()) == CLASSES and class_names(vit()) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="there is no folder /nowhere"):
        load_teacher("/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no teacher"):
        load_teacher(str(tmp_path / "empty"))
    bert().save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="the network in .*bert cannot be loaded"):
        load_teacher(str(tmp_path / "bert"))
    DeterministicTeacher(cnn(), temperature=3.0).save_pretrained(tmp_path / "teacher")
    assert load_teacher(str(tmp_path / "teacher"))[0].temperature == 3.0


def test_images_that_are_not_of_8_bits():
    deep = [Image.fromarray(np.full((9, 9), 40_000, np.uint16))] * 2
    rows = datasets.Dataset.from_dict({"image": deep}, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(
        UserError, match="images of mode I;16 have more than 8 bits a channel, and would be clipped: scale them"
    ):
        next(preprocessor_for(cnn(), rows).batches(rows))


def test_a_tokenizer_that_is_not_the_one_beside_the_weights_is_warned_of(tmp_path, caplog):
    from tests.cli.fitting_helpers import bert, tokenizer

    own, other = tokenizer(), tokenizer()
    bert(["no", "yes"]).save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    network = type(bert(["no", "yes"])).from_pretrained(tmp_path)
    rows = datasets.Dataset.from_dict({"text": ["a b"]})
    preprocessor_for(network, rows, own)
    assert not caplog.records
    numbers = {word: number for word, number in other.get_vocab().items() if word not in other.all_special_tokens}
    first, second, *_ = sorted(numbers)
    words = {**other.get_vocab(), first: numbers[second], second: numbers[first]}
    other.get_vocab = lambda: words
    preprocessor_for(network, rows, other)
    assert "saved beside BertForSequenceClassification" in caplog.text
