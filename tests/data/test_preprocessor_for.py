"""Any network reads any dataset by its own preprocessing, exactly, or the refusal says what is missing."""

import datasets
import numpy as np
import PIL.Image
import pytest
import timm
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torchvision import transforms

from hf_bkd import ImagePreprocessor, UserError, create_classifier
from hf_bkd.data.preprocessors import preprocessor_for, ready_columns
from hf_bkd.models.calling import call_network, logits_of
from tests.cli.fitting_helpers import bert, texts, tokenizer

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODES = ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"]


def image(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def photographs(images: list) -> datasets.Dataset:
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": datasets.Image(), "label": datasets.Value("int64")}
    )
    columns = {"id": [str(i) for i in range(len(images))], "image": images, "label": [0] * len(images)}
    return datasets.Dataset.from_dict(columns, features=features)


def mixed(size: int = 160) -> datasets.Dataset:
    sizes = [(size, size), (size, size + 7), (300, 40), (9, 11), (size, size), (20, 50), (50, 20)]
    return photographs([image(*size, mode, seed) for seed, (size, mode) in enumerate(zip(sizes, MODES, strict=True))])


def timm_vit(**settings) -> nn.Module:
    return timm.create_model("test_vit", num_classes=3, **settings).eval()


def vit(**settings) -> transformers.ViTForImageClassification:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=16, patch_size=8, **SMALL, **settings)
    ).eval()


def roberta(positions: int = 34) -> tuple:
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{f"w{i}": i + 4 for i in range(50)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")
    config = transformers.RobertaConfig(
        vocab_size=54, **SMALL, max_position_embeddings=positions, type_vocab_size=1, pad_token_id=1
    )
    return transformers.RobertaForSequenceClassification(config).eval(), tokens


def gpt2(**settings) -> transformers.GPT2ForSequenceClassification:
    config = transformers.GPT2Config(
        vocab_size=25, n_embd=16, n_layer=1, n_head=2, n_positions=8, num_labels=3, **settings
    )
    return transformers.GPT2ForSequenceClassification(config).eval()


def wav2vec(**settings) -> transformers.Wav2Vec2ForSequenceClassification:
    config = transformers.Wav2Vec2Config(
        **SMALL, **settings, conv_dim=[8, 8], conv_kernel=[10, 3], conv_stride=[5, 2], num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return transformers.Wav2Vec2ForSequenceClassification(config).eval()


def sound_files() -> datasets.Dataset:
    files = datasets.Dataset.from_dict({"audio": [{"path": "a.wav", "bytes": b"RIFF"}]})
    return files.cast_column("audio", datasets.Audio())


class TestPhotographs:
    def test_of_all_sizes_and_modes_are_exactly_what_timm_makes_of_each(self):
        network, rows = timm_vit(), mixed()
        preprocessor = preprocessor_for(network, rows)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
        expected = torch.stack([transform(each.convert("RGB")) for each in rows["image"]])
        assert torch.equal(preprocessor(rows[:])["pixel_values"], expected)
        assert (preprocessor.kind, preprocessor.columns) == ("image", ("image",))
        assert preprocessor.to_dict()["crop_pct"] == 0.95 and preprocessor.normalization is None
        assert call_network(network, preprocessor(rows[:2])).shape == (2, 3)

    def test_of_a_wrapped_network_are_what_its_image_processor_makes_of_each(self):
        network, rows = create_classifier("resnet20_cifar", 3, image_size=16, mean=[0.4] * 3, std=[0.2] * 3), mixed(16)
        preprocessor = preprocessor_for(network, rows)
        processor = transformers.TimmWrapperImageProcessor(network.config.pretrained_cfg)
        expected = [processor(each.convert("RGB"), return_tensors="pt")["pixel_values"] for each in rows["image"]]
        torch.testing.assert_close(preprocessor(rows[:])["pixel_values"], torch.cat(expected))
        assert torch.equal(
            preprocessor(rows[1:4])["pixel_values"], torch.cat(expected[1:4])
        )  # of another size: exactly
        for given in (network, network.timm_model):
            again = preprocessor_for(given, rows, processor)
            assert torch.equal(again(rows[:])["pixel_values"], preprocessor(rows[:])["pixel_values"])
            assert again.to_dict() == preprocessor.to_dict()

    @pytest.mark.parametrize("channels", [3, 1])
    def test_of_a_transformers_network_are_what_its_own_processor_makes_of_each(self, channels):
        processor = transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.4] * channels, image_std=[0.2] * channels
        )
        rows, mode = mixed(16), {3: "RGB", 1: "L"}[channels]
        preprocessor = preprocessor_for(vit(num_channels=channels), rows, processor)
        expected = [processor(each.convert(mode), return_tensors="pt")["pixel_values"] for each in rows["image"]]
        assert torch.equal(preprocessor(rows[:])["pixel_values"], torch.cat(expected))
        assert vit(num_channels=channels)(**preprocessor(rows[:])).logits.shape[0] == 7
        assert preprocessor.processor is processor and preprocessor.to_dict()["image_mean"] == [0.4] * channels

    def test_pictures_become_what_they_would_as_images(self):
        for network in (
            timm_vit(),
            create_classifier("resnet20_cifar", 3, image_size=16, mean=[0.4] * 3, std=[0.2] * 3),
        ):
            rows = mixed(16)
            preprocessor = preprocessor_for(network, rows)
            pictures = preprocessor.pictures(rows[:])
            assert [tuple(each.shape) for each in pictures[:2]] == [(3, 16, 16), (3, 16, 23)]
            torch.testing.assert_close(preprocessor.of_pictures(pictures), preprocessor(rows[:]))
            same = photographs([image(16, 16, seed=seed) for seed in range(3)])
            assert torch.equal(
                preprocessor.of_pictures(preprocessor.pictures(same[:]))["pixel_values"],
                preprocessor(same[:])["pixel_values"],
            )

    def test_a_networks_own_size_and_channels_correct_its_configuration(self):
        network, rows = timm_vit(img_size=32, in_chans=1), mixed()
        preprocessor = preprocessor_for(network, rows)
        assert preprocessor.to_dict()["input_size"] == [1, 32, 32] and preprocessor.to_dict()["mean"] == [0.5]
        assert call_network(network, preprocessor(rows[:])).shape == (7, 3)

    def test_transforms_of_one_image(self):
        rows = mixed()
        transform = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
        preprocessor = preprocessor_for(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), rows, transform)
        expected = torch.stack([transform(each.convert("RGB")) for each in rows["image"]])
        assert torch.equal(preprocessor(rows[:])["pixel_values"], expected)
        only = preprocessor_for(timm_vit(), rows, transforms.ToTensor())
        with pytest.raises(UserError, match="images of several sizes become inputs of several sizes"):
            only(rows[:])

    def test_an_image_preprocessor_is_used_as_it_is(self):
        rows, own = photographs([image(4, 4, seed=seed) for seed in range(3)]), ImagePreprocessor([0.4] * 3, [0.2] * 3)
        preprocessor = preprocessor_for(timm_vit(), rows, own)
        assert torch.equal(preprocessor(rows[:])["pixel_values"], own(rows[:])["pixel_values"])
        assert (preprocessor.columns, preprocessor.to_dict()) == (("image",), own.to_dict())
        assert ImagePreprocessor.for_model(timm_vit()) == ImagePreprocessor((0.5,) * 3, (0.5,) * 3)

    @pytest.mark.parametrize(("dtype", "highest"), [("uint16", 65535), ("int32", 65535), ("float32", 65535)])
    def test_of_more_than_8_bits_are_refused_with_advice_that_keeps_them(self, dtype, highest):
        deep = Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(dtype))
        rows = photographs([deep])
        if dtype == "float32":  # which no file format of datasets holds
            rows = {"image": [deep]}
        preprocessor = preprocessor_for(timm_vit(), mixed())
        with pytest.raises(UserError, match="more than 8 bits a channel, and would be clipped") as refused:
            preprocessor(rows[:] if dtype != "float32" else rows)
        advice = eval(str(refused.value).split("dataset.map(")[1].split("), where")[0], {"PIL": PIL, "numpy": np})
        told = advice({"image": deep})["image"]
        assert len(np.unique(np.asarray(told))) == 64
        assert np.asarray(told).tolist() == (np.arange(64).reshape(8, 8) * 1000 / 257).round().tolist()
        if dtype != "float32":
            torch.testing.assert_close(preprocessor(rows.map(advice)[:]), preprocessor({"image": [told]}))

    def test_of_nothing_that_says_how(self):
        with pytest.raises(UserError, match="nothing says how images become the inputs of ViTForImageClassification"):
            preprocessor_for(vit(), mixed())
        with pytest.raises(UserError, match="nothing says how images become the inputs of Sequential"):
            preprocessor_for(nn.Sequential(nn.Linear(2, 3)), mixed())
        with pytest.raises(
            UserError, match="ViTForImageClassification reads images, and the Tokenizers.* reads texts"
        ):
            preprocessor_for(vit(), mixed(), tokenizer())
        with pytest.raises(UserError, match="reads images, and the dataset has no column of images, only text, label"):
            preprocessor_for(timm_vit(), texts(2, 0))
        with pytest.raises(UserError, match="processing_class is a str: pass a tokenizer"):
            preprocessor_for(timm_vit(), mixed(), "bert")


class TestTexts:
    def test_are_cut_to_what_a_network_of_offset_positions_can_read(self):
        network, tokens = roberta()
        rows = datasets.Dataset.from_dict({"text": ["w1", " ".join(["w2"] * 60)]})
        preprocessor = preprocessor_for(network, rows, tokens)
        assert tokens.model_max_length > 1e20 and preprocessor.to_dict()["max_length"] == 32
        inputs = preprocessor(rows[:])
        assert inputs["input_ids"].shape == (2, 32)
        assert network(**inputs).logits.shape == (2, 2)
        assert inputs["input_ids"][0].tolist() == [0, 5, 2, *[1] * 29]

    def test_pairs(self):
        rows = datasets.Dataset.from_dict({"idx": [0, 1], "hypothesis": ["w1 w2", "w3"], "premise": ["who", "when"]})
        preprocessor = preprocessor_for(bert(), rows, tokenizer())
        assert preprocessor.columns == ("premise", "hypothesis")
        assert preprocessor(rows[:])["input_ids"].tolist() == [[2, 6, 7], [4, 8, 0]]
        ordered = rows.rename_columns({"premise": "question", "hypothesis": "sentence"})
        assert preprocessor_for(bert(), ordered, tokenizer()).columns == ("question", "sentence")

    def test_columns_that_nothing_tells_apart(self, tmp_path):
        rows = datasets.Dataset.from_dict({"review": ["who"], "reply": ["w1"], "label": [0]})
        with pytest.raises(UserError, match="columns of texts review, reply, and nothing says which") as refused:
            preprocessor_for(bert(), rows, tokenizer())
        single, pair = (
            eval(part.split(" for")[0]) for part in str(refused.value).split("columns(")[1].split("), or ")
        )
        assert preprocessor_for(bert(), rows.rename_columns(single), tokenizer()).columns == ("text",)
        assert preprocessor_for(bert(), rows.rename_columns(pair), tokenizer()).columns == ("text", "text_pair")
        rows.rename_column("review", "text").to_csv(tmp_path / "rows.csv")
        csv = datasets.load_dataset("csv", data_files=str(tmp_path / "rows.csv"), split="train", cache_dir=tmp_path)
        assert preprocessor_for(bert(), csv, tokenizer()).columns == ("text",)

    def test_tokens_are_padded_as_the_network_expects(self):
        tokens = tokenizer()
        tokens.pad_token = "who"
        rows = datasets.Dataset.from_dict({"text": ["w1", "w1 w2"]})
        preprocessor = preprocessor_for(gpt2(pad_token_id=1), rows, tokens)
        assert preprocessor(rows[:])["input_ids"].tolist() == [[6, 1], [6, 7]]  # by what its pooling looks for
        assert tokens.pad_token == "who"  # ours is a copy
        network = gpt2(pad_token_id=None)
        with pytest.raises(UserError, match="network.config.pad_token_id = tokenizer.pad_token_id") as refused:
            preprocessor_for(network, rows, tokens)
        exec(
            "network.config" + str(refused.value).split("network.config")[1], {"network": network, "tokenizer": tokens}
        )
        both = network(**preprocessor_for(network, rows, tokens)(rows[:])).logits
        alone = network(**preprocessor_for(network, rows, tokens)(rows[:1])).logits
        torch.testing.assert_close(both[:1], alone)

    def test_a_vocabulary_beyond_the_networks(self):
        with pytest.raises(
            UserError, match="tokens are numbered up to 24, and BertForSequenceClassification knows 20"
        ):
            network = bert()
            network.resize_token_embeddings(20)
            preprocessor_for(network, texts(2, 0), tokenizer())

    def test_tokens_of_several_lengths_are_padded_and_of_one_length_go_in_as_they_are(self):
        rows = datasets.Dataset.from_dict({"text": ["w1", "w1 w2 w3"], "idx": [0, 1], "label": [0, 1]})
        tokens = rows.map(lambda batch: tokenizer()(batch["text"]), batched=True)
        preprocessor = preprocessor_for(bert(), tokens)
        assert preprocessor.columns == ("input_ids", "attention_mask")
        texts_padded = preprocessor_for(bert(), rows, tokenizer())(rows[:])
        assert {n: v.tolist() for n, v in preprocessor(tokens[:]).items()} == {
            n: v.tolist() for n, v in texts_padded.items()
        }
        assert preprocessor_for(bert(), tokens.select([0, 0])) is None
        assert ready_columns(bert(), tokens) == ("input_ids", "attention_mask")


class TestFeatures:
    def test_columns_stand_side_by_side(self):
        rows = datasets.Dataset.from_dict(
            {"idx": [7, 8], "age": [1, 2], "height": [0.5, 2.0], "parts": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]}
        )
        preprocessor = preprocessor_for(nn.Linear(4, 3), rows)
        assert (preprocessor.kind, preprocessor.columns) == ("features", ("age", "height", "parts"))
        inputs = preprocessor(rows[:])
        assert inputs["input"].tolist() == [[1, 0.5, 1, 2], [2, 2, 3, 4]] and inputs["input"].dtype == torch.float32
        assert call_network(nn.Linear(4, 3), inputs).shape == (2, 3)

    @pytest.mark.parametrize("make", [list, np.array, torch.tensor])
    def test_one_column_of_lists_goes_in_as_it_is(self, make):
        rows = datasets.Dataset.from_dict({"x": make([[1.0, 2.0], [3.0, 4.0]]), "label": [0, 1], "id": ["a", "b"]})
        assert preprocessor_for(nn.Linear(2, 3), rows) is None
        assert ready_columns(nn.Linear(2, 3), rows) == ("x",)

    def test_whole_numbers_are_features_of_a_network_that_looks_nothing_up(self):
        rows = datasets.Dataset.from_dict({"x": [[1, 2], [3, 4]], "label": [0, 1]})
        assert preprocessor_for(nn.Linear(2, 3), rows)(rows[:])["input"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert preprocessor_for(nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 3)), rows) is None

    def test_what_is_no_number_is_refused(self):
        rows = datasets.Dataset.from_dict({"a": [1.0, None], "b": [1.0, 2.0]})
        with pytest.raises(UserError, match="row 1 of column a holds no value"):
            preprocessor_for(nn.Linear(2, 3), rows)(rows[:])
        ragged = datasets.Dataset.from_dict({"x": [[1.0], [1.0, 2.0]]})
        with pytest.raises(UserError, match="the column x holds lists of several lengths"):
            preprocessor_for(nn.Linear(2, 3), ragged)(ragged[:])
        with pytest.raises(UserError, match="nothing says which of the columns text, x Linear reads"):
            preprocessor_for(nn.Linear(2, 3), datasets.Dataset.from_dict({"text": ["a"], "x": [1.0]}))

    def test_an_extra_column_goes_nowhere(self):
        pixels = np.zeros((2, 3, 8, 8), np.float32).tolist()
        rows = datasets.Dataset.from_dict(
            {"pixel_values": pixels, "idx": [0, 1], "quality": [0.1, 0.2], "label": [0, 1]}
        )
        assert preprocessor_for(timm_vit(), rows) is None and ready_columns(timm_vit(), rows) == ("pixel_values",)
        transformed = rows.with_transform(lambda rows: rows)
        assert preprocessor_for(timm_vit(), transformed) is None


class TestSound:
    def test_is_what_the_feature_extractor_makes_of_it(self):
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
        clips = [np.sin(np.arange(length) / 9).tolist() for length in (900, 700)]
        rows = datasets.Dataset.from_dict({"clip": clips, "label": [0, 1]})
        network = wav2vec(feat_extract_norm="layer")
        preprocessor = preprocessor_for(network, rows, extractor)
        expected = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
        inputs = preprocessor(rows[:])
        assert (preprocessor.kind, preprocessor.columns) == ("audio", ("clip",))
        assert all(torch.equal(inputs[name], expected[name]) for name in ("input_values", "attention_mask"))
        assert network(**inputs).logits.shape == (2, 2)

    def test_padding_without_a_mask_is_refused(self):
        rows = datasets.Dataset.from_dict({"clip": [[0.1] * 900, [0.2] * 700], "label": [0, 1]})
        preprocessor = preprocessor_for(wav2vec(), rows, transformers.Wav2Vec2FeatureExtractor())
        with pytest.raises(UserError, match="a clip's label would depend on its neighbors"):
            preprocessor(rows[:])
        assert preprocessor(rows[:1])["input_values"].shape == (1, 900)

    def test_of_another_sampling_rate(self):
        rows = datasets.Dataset.from_dict({"audio": [{"array": [0.1] * 900, "sampling_rate": 8000}], "label": [0]})
        preprocessor = preprocessor_for(wav2vec(), rows, transformers.Wav2Vec2FeatureExtractor())
        with pytest.raises(
            UserError, match="8000 samples a second, and the network reads 16000: use dataset.cast_column"
        ):
            preprocessor(rows[:])

    def test_files_that_torchcodec_decodes_are_decoded_at_the_networks_rate(self, monkeypatch):
        class Decoder(dict):
            _hf_encoded = {"path": "a.wav", "bytes": b""}

        monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", True)
        monkeypatch.setattr(
            datasets.Audio,
            "decode_example",
            lambda self, value, **_: Decoder(
                array=np.ones((2, 900), np.float32), sampling_rate=self.sampling_rate or 8000
            ),
        )
        files = sound_files()
        preprocessor = preprocessor_for(wav2vec(), files, transformers.Wav2Vec2FeatureExtractor(do_normalize=False))
        assert files[0]["audio"]["sampling_rate"] == 8000
        assert preprocessor(files[:])["input_values"].tolist() == [[1.0] * 900]


class TestNetworksFromFolders:
    def test_what_lies_beside_the_weights_is_used(self, tmp_path):
        bert().save_pretrained(tmp_path / "bert")
        tokenizer().save_pretrained(tmp_path / "bert")
        network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert")
        rows = texts(3, 0)
        found = preprocessor_for(network, rows)
        assert found.to_dict() == preprocessor_for(network, rows, tokenizer()).to_dict()
        compiled = torch.compile(network, backend="eager")
        assert preprocessor_for(compiled, rows).to_dict() == found.to_dict()
        assert preprocessor_for(nn.DataParallel(network), rows).to_dict() == found.to_dict()
        vit().save_pretrained(tmp_path / "vit")
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
        network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "vit")
        assert logits_of(network(**preprocessor_for(network, mixed())(mixed()[:]))).shape == (7, 2)
        wav2vec().save_pretrained(tmp_path / "sound")
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "sound")
        network = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "sound")
        clips = datasets.Dataset.from_dict({"clip": [[0.1] * 900] * 2, "label": [0, 1]})
        assert network(**preprocessor_for(network, clips)(clips[:])).logits.shape == (2, 2)

    def test_a_network_of_the_hub_without_its_tokenizer_in_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        network = bert()
        network.config._name_or_path = "owner/no-such-network"
        with pytest.raises(UserError, match="pass processing_class=, the tokenizer"):
            preprocessor_for(network, texts(2, 0))


def test_columns_of_numbers_are_read_in_the_order_that_the_network_read_first():
    network = nn.Linear(3, 2)
    rows = datasets.Dataset.from_dict({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]})
    first = preprocessor_for(network, rows)
    other = preprocessor_for(network, rows.select_columns(["c", "a", "b"]))
    assert first.columns == other.columns == ("a", "b", "c")
    assert preprocessor_for(network, rows.rename_column("a", "x")).columns == ("x", "b", "c")
    assert preprocessor_for(nn.Linear(3, 2), rows.select_columns(["c", "a", "b"])).columns == ("c", "a", "b")


def prepared(by, rows):
    return rows.map(lambda row: {"pixel_values": by([row["image"].convert("RGB")])["pixel_values"][0]})


@pytest.mark.parametrize("size", [16, 8])
def test_pixels_of_another_image_processor_are_refused_and_either_advice_works(size):
    network, rows = vit(), photographs([image(20, 24, seed=seed) for seed in range(5)])
    own, other = (
        transformers.ViTImageProcessor(size={"height": each, "width": each}, image_mean=[mean] * 3)
        for each, mean in ((16, 0.5), (size, 0.1))
    )
    ready = prepared(other, rows)
    with pytest.raises(UserError, match=rf"row 0 of column pixel_values holds .*\[3, {size}, .* of its image \[3, 16"):
        preprocessor_for(network, ready, own)
    assert preprocessor_for(network, ready.remove_columns("pixel_values"), own).kind == "image"
    assert preprocessor_for(network, ready.remove_columns("image"), own) is None
    assert preprocessor_for(network, prepared(own, rows), own) is None
    smooth = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, resample=PIL.Image.Resampling.BICUBIC)
    photos = photographs(
        [image(20, 24, seed=seed).resize((60, 60), PIL.Image.Resampling.BICUBIC) for seed in range(5)]
    )
    assert preprocessor_for(network, prepared(smooth, photos), own) is None  # another interpolation, the same picture
    assert preprocessor_for(network, ready) is None  # nothing says what is right
