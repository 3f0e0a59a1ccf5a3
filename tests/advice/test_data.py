"""Advice about datasets and what makes a network's inputs of them."""

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image

from hf_bkd import ImagePreprocessor, LaplaceTeacher, create_classifier
from hf_bkd.data.columns import class_numbers, find_columns
from hf_bkd.data.preprocessing import check_one_size, decoded
from hf_bkd.data.preprocessors import preprocessor_for

from ..properties.texts import CLS, SEP, numbers_of, tokenizer_of
from .following import advises, code, follow, refused
from .things import (
    TEXTS,
    Seeing,
    X,
    answers,
    bert,
    by_hand,
    labeled,
    linear,
    logged,
    pictures,
    pixels,
    points,
    same,
    stored,
    texts,
    tokenizer,
    trainer,
)

CALL = r"(dataset\.\w+\(.*\))"


def fitted(dataset, network=None, **settings):
    teacher = LaplaceTeacher.fit(network or linear(), dataset, prior_precision=1.0, **settings)
    return teacher.predict({"input": torch.from_numpy(X)}).mean


@advises("] not in (None, -1, -100)")
def test_rows_without_a_label_are_left_out():
    dataset = points((0, -1, 2, 0))
    call = code(refused(lambda: fitted(dataset)), CALL)
    same(fitted(follow(call, dataset=dataset)), fitted(dataset.select([0, 2, 3])))


@advises("] is not None)")
def test_rows_whose_label_is_missing_are_left_out():
    dataset = points((0, None, 2, 0))
    call = code(refused(lambda: class_numbers(dataset, "label")), CALL)
    assert class_numbers(follow(call, dataset=dataset), "label") == [0, 2, 0]


@advises("are not class numbers but")
def test_labels_that_are_names_are_encoded():
    dataset = datasets.Dataset.from_dict({"label": ["dog", "cat"]})
    call = code(refused(lambda: class_numbers(dataset, "label")), CALL)
    assert class_numbers(follow(call, dataset=dataset), "label") == [1, 0]
    dataset = pictures().remove_columns("label").add_column("label", ["dog", "cat", "eel"])
    call = code(refused(lambda: find_columns(dataset)), CALL)
    assert find_columns(follow(call, dataset=dataset)) == ("image", "label")


@advises("can't be read as 8-bit channels")
def test_images_of_odd_modes_are_converted():
    dataset = pictures("CMYK")
    call = code(refused(lambda: decoded(dataset["image"][:])), CALL)
    given = decoded(follow(call, dataset=dataset, column="image")["image"][:])
    same(given, [np.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in dataset["image"][:]])


@advises("brings them to one mode")
def test_images_of_several_modes_are_brought_to_one():
    images = [pictures("L")["image"][0], pictures()["image"][1]]
    dataset = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
    shapes = lambda rows: {tuple(decoded([image])[0].shape) for image in rows["image"][:]}  # noqa: E731
    feature = code(refused(lambda: check_one_size(shapes(dataset))), r"(datasets\.Image\(.*?\))")
    check_one_size(shapes(dataset.cast_column("image", follow(feature))))


@advises("this model's config names no mean and std")
def test_a_mean_and_a_deviation_are_passed():
    call = code(refused(lambda: ImagePreprocessor.for_model(Seeing())), r"pass (.*)")
    made = follow(call.replace("=...", "=(0.5, 0.5, 0.5)"))
    same(made({"image": pictures()["image"][:]})["pixel_values"], pixels(pictures()))


def hearing(norm="layer", **settings):
    sizes = {"conv_dim": (8,), "conv_stride": (4,), "conv_kernel": (8,), "num_feat_extract_layers": 1}
    sizes |= {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_labels": 3}
    sizes |= {"feat_extract_norm": norm}
    torch.manual_seed(0)
    network = transformers.Wav2Vec2ForSequenceClassification(transformers.Wav2Vec2Config(**sizes)).eval()
    return network, transformers.Wav2Vec2FeatureExtractor(**{"sampling_rate": 100} | settings)


def heard(network, clip):
    clip = np.asarray(clip, np.float32)
    return by_hand(network, ((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))[None])[0]


def sound(lengths, rate=None):
    clips = [np.sin(np.arange(length) * (row + 1) / 9).tolist() for row, length in enumerate(lengths)]
    return datasets.Dataset.from_dict(
        {"audio": clips if rate is None else [{"array": clip, "sampling_rate": rate} for clip in clips]}
    )


@advises("nothing says how sound becomes the inputs of")
def test_sound_needs_its_feature_extractor():
    (network, extractor), dataset = hearing(), sound((64, 64))
    name = code(refused(lambda: labeled(dataset, network)), r"pass (\w+)=")
    same(stored(labeled(dataset, network, **{name: extractor})), [heard(network, each) for each in dataset["audio"]])


@advises("set its return_attention_mask = True")
def test_clips_of_several_lengths_need_a_mask():
    (network, extractor), dataset = hearing(), sound((64, 48))
    set_it = code(refused(lambda: labeled(dataset, network, processing_class=extractor)), r"set its (\w+ = \w+)")
    follow(f"extractor.{set_it}", extractor=extractor)
    soft = stored(labeled(dataset, network, processing_class=extractor))
    same(soft, [heard(network, each) for each in dataset["audio"]])


@advises("time, padding included, so that a clip's label would depend on its neighbors")
def test_a_network_that_normalizes_over_time_reads_clips_one_by_one(tmp_path):
    (network, extractor), dataset = hearing("group", return_attention_mask=True), sound((64, 48))  # no mask mends it
    message = refused(lambda: labeled(dataset, network, processing_class=extractor))
    settings = follow(f"dict({code(message, r'time .(batch_size=1)')})")
    soft = labeled(dataset, network, processing_class=extractor, **settings)
    same(stored(soft), [heard(network, each) for each in dataset["audio"]])
    train = lambda **passed: trainer(  # noqa: E731
        tmp_path, hearing("group")[0], soft, eval_dataset=soft.add_column("label", [0, 1]), processing_class=extractor,
        eval_strategy="steps", **passed,
    )  # fmt: skip
    settings = code(refused(train), r"training (per_device.*)\)").replace(" and ", ", ")
    assert logged(train(**follow(f"dict({settings})"))) == pytest.approx(0, abs=1e-3)  # but for dropout


@advises("samples a second, and the network reads")
def test_sound_of_another_rate_is_refused_with_the_feature_that_resamples():
    (network, extractor), dataset = hearing(), sound((64, 64), rate=50)
    call = code(refused(lambda: labeled(dataset, network, processing_class=extractor)), r"(datasets\.Audio\(.*?\))")
    assert follow(call).sampling_rate == extractor.sampling_rate  # what decodes needs torchcodec


@advises("are not a network's inputs as they are")
def test_a_function_makes_the_inputs_of_rows_that_are_none():
    network = create_classifier("resnet20_cifar", 3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3).eval()
    dataset = pictures().remove_columns("label")

    def asked():
        from hf_bkd.data.preprocessors.content import columns_as_inputs

        return columns_as_inputs(dataset.with_format("torch")[:], dataset.features)

    name, value = code(refused(asked), r"for images: (.*)\)$").split("=", 1)
    same(
        stored(labeled(dataset, network, **{name: follow(value, network=network)})), by_hand(network, pixels(dataset))
    )


@advises("and nothing says which the network reads: use dataset.rename_columns")
def test_the_column_that_is_read_is_renamed():
    dataset, network = texts(None, "review").add_column("title", ["how"] * 4), bert()
    message = refused(lambda: labeled(dataset, network, processing_class=tokenizer()))
    renamed = follow(code(message, CALL), dataset=dataset)
    same(stored(labeled(renamed, network, processing_class=tokenizer())), answers(network))
    both = dataset.rename_columns(follow(code(message, r"or (\{.*\}) for pairs")))
    pair = labeled(both, network, processing_class=tokenizer())
    tokens = [[CLS, *numbers_of(text), SEP, *numbers_of("how"), SEP] for text in TEXTS]
    same(stored(pair), np.concatenate([by_hand(network, [row]) for row in tokens]))


@advises("the streamed dataset doesn't say what its columns are: pass", "so that nobody could tell whose labels these")
def test_a_stream_is_told_its_columns():
    network = linear()
    dataset = points(None).to_iterable_dataset().map(lambda row: row)
    for ask in (lambda: labeled(dataset, network), lambda: preprocessor_for(network, dataset)):
        call = code(refused(ask), CALL)
        same(stored(labeled(follow(call, dataset=dataset, features=points(None).features), network)), by_hand(network))


class Adding(Seeing):
    """Of images, though nothing says so."""

    def forward(self, value, shift=0):
        return self.head(value.flatten(1) + shift)


@advises("reads: pass processing_class= or preprocessor=, a function from rows to inputs, or remove the others")
def test_a_function_says_which_columns_are_read():
    dataset = pictures().remove_columns("label").add_column("text", TEXTS[:3])
    name = code(refused(lambda: labeled(dataset, Adding())), r"or (\w+)=, a function")
    given = labeled(dataset, Adding(), **{name: lambda rows: {"value": torch.stack([*map(one, rows["image"])])}})
    same(stored(given), by_hand(Seeing(), pixels(dataset)))


def one(image):
    return (torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 - 0.5) / 0.5


@advises("holds lists of several lengths, or something else than numbers")
def test_a_function_reads_lists_of_several_lengths():
    dataset, network = datasets.Dataset.from_dict({"x": [[1.0, 2.0, 3.0], [4.0, 5.0]]}), linear()
    name = code(refused(lambda: labeled(dataset, network)), r"pass (\w+)=, a function")
    full = lambda rows: {"input": torch.tensor([(each + [0.0])[:3] for each in rows["x"]])}  # noqa: E731
    same(stored(labeled(dataset, network, **{name: full})), by_hand(network, torch.tensor([[1.0, 2, 3], [4, 5, 0]])))


@advises("nothing says how images become the inputs of")
def test_images_need_a_mean_and_a_deviation():
    dataset, network = pictures(), Seeing()
    message = refused(lambda: labeled(dataset, network))
    name, call = code(message, r"pass (\w+)="), code(message, r"(ImagePreprocessor\(.*\))")
    given = labeled(dataset, network, **{name: follow(call.replace("=...", "=(0.5, 0.5, 0.5)"))})
    same(stored(given), by_hand(network, pixels(dataset)))


@advises("channels, and its data configuration has the means of")
def test_a_network_of_other_channels_needs_their_means():
    network = timm.create_model("test_resnet", num_classes=3, in_chans=4).eval()
    dataset = pictures("RGBA", 32)
    name, call = code(refused(lambda: labeled(dataset, network)), r"pass (.*)").split("=", 1)
    given = labeled(dataset, network, **{name: follow(call.replace("=...", "=(0.5,) * 4"))})
    arrays = np.stack([np.asarray(image, np.float32) for image in dataset["image"][:]]).transpose(0, 3, 1, 2)
    same(stored(given), by_hand(network, (arrays / 255 - 0.5) / 0.5))


@advises("channels, and files of images have 1, 3 or 4")
def test_a_function_reads_images_of_two_channels():
    network = timm.create_model("test_resnet", num_classes=3, in_chans=2).eval()
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.5, 0.5), "std": (0.5, 0.5)}
    network.pretrained_cfg["input_size"] = (2, 32, 32)
    dataset = pictures(size=32)

    def two(rows):
        images = [torch.tensor(np.asarray(image)).permute(2, 0, 1)[:2] / 255 for image in rows["image"]]
        return {"x": torch.stack(images)}

    name = code(refused(lambda: labeled(dataset, network)), r"pass (\w+)=, a function")
    same(stored(labeled(dataset, network, **{name: two})), by_hand(network, two(dataset[:])["x"]))


@advises("images of several sizes become inputs of several sizes")
def test_a_transform_brings_images_to_one_size():
    from torchvision.transforms import v2

    images = [pictures(size=size)["image"][0] for size in (8, 9)]
    dataset = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
    whole = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    message = refused(lambda: labeled(dataset, Seeing(), processing_class=v2.Compose(whole)))
    crop = v2.Compose([v2.CenterCrop(8), *whole])
    given = labeled(dataset, Seeing(), **{code(message, r"pass (\w+)=, an image"): crop})
    same(stored(given), by_hand(Seeing(), torch.stack([crop(image) for image in images])))


@advises("nothing says how texts become the inputs of", "the tokenizer's tokens are numbered up to")
def test_texts_need_the_networks_own_tokenizer():
    dataset, network, other = texts(), bert(), tokenizer_of(True, 3, pad_token="[PAD]")
    for settings in ({}, {"processing_class": other}):
        name = code(refused(lambda settings=settings: labeled(dataset, network, **settings)), r"pass (\w+)=")
        same(stored(labeled(dataset, network, **{name: tokenizer()})), answers(network))


@advises("the tokenizer has no token to pad texts with")
def test_a_tokenizer_is_given_a_token_to_pad_with():
    dataset, network = texts(), bert()
    network.config.pad_token_id = None
    tokenizer = tokenizer_of(True, eos_token="[PAD]")
    message = refused(lambda: labeled(dataset, network, processing_class=tokenizer))
    for pattern in (r"set (tokenizer\.pad_token = [\w.]+)", r"and (network\.config\.pad_token_id = [\w.]+)"):
        follow(code(message, pattern), network=network, tokenizer=tokenizer)
    same(stored(labeled(dataset, network, processing_class=tokenizer)), answers(network))


@advises("can't tell where padded texts end")
def test_a_decoder_is_told_what_padding_is():
    dataset, network, tokenizer = texts(), bert("gpt2"), tokenizer_of(True, pad_token="[PAD]")
    network.config.pad_token_id = None
    message = refused(lambda: labeled(dataset, network, processing_class=tokenizer))
    follow(code(message, r"set (.*)"), network=network, tokenizer=tokenizer)
    same(stored(labeled(dataset, network, processing_class=tokenizer)), answers(network))


@advises("neither network nor tokenizer names a padding token")
def test_a_network_of_tokens_is_told_what_padding_is():
    dataset = datasets.Dataset.from_dict({"input_ids": [[CLS, *numbers_of(text), SEP] for text in TEXTS]})
    network = bert()
    network.config.pad_token_id = None
    follow(f"{code(refused(lambda: labeled(dataset, network)), r'set (.*)')} = 0", network=network)
    same(stored(labeled(dataset, network)), answers(network))


@advises("have more than 8 bits a channel, and would be clipped")
def test_deep_images_are_scaled():
    arrays = [(np.arange(64).reshape(8, 8) * 1000 + row).astype("uint16") for row in range(2)]
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": [Image.fromarray(array) for array in arrays]}, features=features)
    network = create_classifier("resnet20_cifar", 3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3).eval()
    scaled = follow(code(refused(lambda: labeled(dataset, network)), r"(dataset\.map\(.*\)), where"), dataset=dataset)
    eight = np.stack([np.round(array / 257) for array in arrays])[:, None].repeat(3, axis=1).astype("f4")
    same(stored(labeled(scaled, network)), by_hand(network, (eight / 255 - 0.5) / 0.5))
