"""Networks that are saved so that timm, transformers or plain PyTorch load them, and nothing else than was saved."""

import json
import logging

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_bkd import DeterministicTeacher, Perceptron, UserError, create_classifier
from hf_bkd.models import saving
from hf_bkd.models.plain_networks import arguments_of
from hf_bkd.models.saving import load_network, save_description, save_network
from hf_bkd.teachers.loading import load_teacher


def timm_network(name="test_resnet", num_classes=3, **arguments):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=num_classes, **arguments).eval()
    for parameter in network.parameters():  # nor are norms and biases those that a new network has
        parameter.data.add_(torch.randn_like(parameter) / 100)
    return network


def saved(network, folder):
    save_network(network, folder)
    config = folder / "config.json"
    return json.loads(config.read_text()) if config.is_file() else {}


class Shared(nn.Module):
    """One block in three places, as in ALBERT."""

    def __init__(self, width, depth=3):
        super().__init__()
        self.width = width
        self.depth = depth
        block = nn.Linear(width, width)
        self.blocks, self.head = nn.ModuleList([block] * depth), nn.Linear(width, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


TIMM = {
    "as it is": ("test_resnet", {}, {}),
    "one channel, dropout": ("test_resnet", {"in_chans": 1, "drop_rate": 0.3}, {"in_chans": 1, "drop_rate": 0.3}),
    "stochastic depth": ("test_efficientnet", {"drop_path_rate": 0.2}, {"drop_path_rate": 0.2}),
    "size and pooling": ("test_vit", {"img_size": 32, "global_pool": "avg"}, {"img_size": 32, "global_pool": "avg"}),
    "strides of the same weights": ("resnet10t", {"output_stride": 8}, {"output_stride": 8}),
    "two sizes": ("test_vit", {"img_size": (32, 48)}, {"img_size": [32, 48]}),
    "ours": ("resnet8x4_cifar", {}, {}),
}


@pytest.mark.parametrize(
    ("case", "recorded"),
    [
        *((case, True) for case in TIMM),
        # as by older versions of timm, where what is not to be seen in a network can't be known
        *((case, False) for case in TIMM if case != "strides of the same weights"),
    ],
)
def test_a_timm_network_loads_with_timm_and_transformers(case, recorded, tmp_path):
    name, arguments, expected = TIMM[case]
    network = timm_network(name, **arguments)
    if not recorded:
        network.__dict__.pop("_model_args", None)
    config = saved(network, tmp_path / "saved")
    if case == "strides of the same weights" and not hasattr(network, "_model_args"):
        assert not config
        return
    assert config["num_classes"] == 3
    if "img_size" not in arguments or hasattr(network, "_model_args"):  # else it is seen as [32, 32]
        assert config.get("model_args", {}) == expected
    images = torch.randn(2, *config["pretrained_cfg"]["input_size"])
    folder = str(tmp_path / "saved")
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    by_transformers = AutoModelForImageClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(by_timm(images), network(images))
    torch.testing.assert_close(by_transformers(images).logits, network(images))
    again = load_network(folder)
    torch.testing.assert_close(again(images), network(images))
    assert type(again) is type(network) and saved(again, tmp_path / "again") == config
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors"}


def test_images_are_prepared_as_the_networks_own_configuration_says(tmp_path):
    given = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "crop_pct": 1.0, "interpolation": "bilinear"}
    network = timm_network("test_resnet", pretrained_cfg_overlay={**given, "input_size": (3, 32, 32)})
    network.pretrained_cfg["label_names"] = ["cat", "dog", "eel"]
    saved(network, tmp_path / "saved")
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(given[name]).view(-1, 1, 1) for name in ("mean", "std"))
    expected = (pixels.permute(2, 0, 1) / 255 - mean) / std
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    image = Image.fromarray(pixels.numpy())
    torch.testing.assert_close(processor(image)["pixel_values"][0], expected)
    best = pipeline("image-classification", str(tmp_path / "saved"))(image)[0]
    probs = network(expected[None])[0].softmax(-1)
    assert best["label"] == ("cat", "dog", "eel")[probs.argmax()]
    assert best["score"] == pytest.approx(probs.max().item(), abs=1e-5)


def test_what_the_trainer_knows_of_images_and_classes_goes_before_timms_own(tmp_path):
    network = timm_network("test_resnet", in_chans=1)
    save_network(network, tmp_path / "saved")
    save_description(network, tmp_path / "saved", ["a", "b", "c"], {"mean": [0.25], "input_size": [1, 8, 8]})
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["label_names"] == ["a", "b", "c"] and config["pretrained_cfg"]["mean"] == [0.25]
    assert config["pretrained_cfg"]["std"] == [0.5] and config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "saved").config.id2label[2] == "c"


def test_nothing_of_the_weights_that_a_network_began_with_is_said_of_the_new_ones(tmp_path):
    network = timm_network("test_resnet")
    network.pretrained_cfg |= {"url": "somewhere", "license": "apache-2.0", "label_offset": 1, "tag": "r160_in1k"}
    text = json.dumps(saved(network, tmp_path / "saved"))
    assert not any(word in text for word in ("somewhere", "license", "label_offset", "in1k"))


NORMAL = {"mean": [0.5] * 3, "std": [0.5] * 3}


def test_names_that_were_given_to_a_loaded_wrapper_are_those_that_are_saved(tmp_path):
    """Its config keeps the names that it was loaded with, and transformers saves those."""
    network = create_classifier("resnet20_cifar", 3, image_size=8, label_names=["cat", "dog", "eel"], **NORMAL)
    save_network(network, tmp_path / "one")
    loaded = load_network(tmp_path / "one")
    loaded.config.id2label = {0: "fox", 1: "gnu", 2: "hen"}
    DeterministicTeacher(loaded).save_pretrained(tmp_path / "two")
    assert load_teacher(tmp_path / "two")[0].class_names == ["fox", "gnu", "hen"]


def test_a_head_replaced_by_hand_counts_the_classes(tmp_path):
    network = timm_network("test_resnet", num_classes=1000)
    network.fc = nn.Linear(network.num_features, 4)
    assert saved(network, tmp_path / "saved")["num_classes"] == 4
    images = torch.randn(2, 3, 64, 64)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images), network.eval()(images))


def stem_replaced(network):
    network.conv1[0] = nn.Conv2d(3, 7, 3)


def stride_changed(network):
    network.conv1[0].stride = (1, 1)


def activation_changed(network):
    network.act1 = nn.GELU()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (stem_replaced, "conv1.0.weight is [7, 3, 3, 3], and timm makes it ["),
        (stride_changed, "stride of conv1.0 is (1, 1), and timm makes it (2, 2)"),
        (activation_changed, "act1 is GELU, and timm makes it ReLU"),
    ],
)
def test_a_network_that_timm_cannot_make_anew_is_saved_as_a_plain_module_with_a_sentence(
    change, reason, tmp_path, caplog
):
    saving._warn_of_plain.cache_clear()
    network = timm_network("test_resnet")
    change(network)
    with caplog.at_level(logging.WARNING):
        assert saved(network, tmp_path / "saved") == {}
    assert reason in caplog.text and "load_network(folder, network=...)" in caplog.text
    with pytest.raises(UserError, match="plain nn.Module .*ResNet.*pass network="):
        load_network(tmp_path / "saved")
    other = timm_network("test_resnet")
    change(other)
    for parameter in other.parameters():
        parameter.data.zero_()
    load_network(tmp_path / "saved", other)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), other.parameters(), strict=True))


def test_saving_draws_nothing_from_the_generator(tmp_path):
    network = timm_network("test_resnet")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    save_network(network, tmp_path / "saved")
    assert torch.equal(torch.rand(1), expected)


def test_a_timm_teacher_comes_back_as_the_plain_network_with_its_fingerprint(tmp_path):
    teacher = DeterministicTeacher(timm_network("test_resnet"), temperature=2.0)
    teacher.save_pretrained(tmp_path / "teacher", license="mit")
    loaded, _ = load_teacher(tmp_path / "teacher")
    assert type(loaded.network) is type(teacher.network) and loaded.fingerprint() == teacher.fingerprint()
    card = (tmp_path / "teacher" / "README.md").read_text()
    assert "license: mit" in card and "network=" not in card


def test_a_plain_module_is_described_and_its_shared_tensors_are_there_under_every_name(tmp_path):
    network = Shared(4, depth=2)
    assert saved(network, tmp_path / "saved") == {}
    description = json.loads((tmp_path / "saved" / "network.json").read_text())
    assert description["class"] == f"{__name__}.Shared" and description["file"] == "test_saving.py"
    assert description["arguments"] == {"width": 4, "depth": 2} and "2 x Linear" in description["structure"]
    assert description["state"]["head.weight"] == ["float32", [3, 4]]
    assert description["shared"] == [[f"blocks.{number}.{name}" for number in (0, 1)] for name in ("weight", "bias")]
    other = Shared(**description["arguments"])
    other.load_state_dict(load_file(tmp_path / "saved" / "model.safetensors"))  # strict
    x = torch.randn(5, 4)
    assert torch.equal(other(x), network(x)) and torch.equal(
        load_network(tmp_path / "saved", Shared(4, 2))(x), other(x)
    )
    teacher, _ = load_teacher(tmp_path / "saved", network=Shared(4, 2))
    assert torch.equal(teacher.predict(x).mean, network(x).softmax(-1))
    with pytest.raises(UserError, match="of another network than the one passed: .*blocks.2"):
        load_network(tmp_path / "saved", Shared(4))


@pytest.mark.parametrize(
    ("kept_as", "constructor", "expected"),
    [
        ("hparams", lambda self, width, depth=1: None, {"width": 8}),
        ("config", lambda self, config: None, {"config": {"width": 8, "other": 1}}),
        ("config", lambda self, missing: None, None),
        ("config", lambda self, *layers: None, None),
    ],
)
def test_arguments_are_those_that_a_module_keeps(kept_as, constructor, expected):
    kind = type("Kept", (nn.Module,), {"__init__": constructor})
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    setattr(module, kept_as, {"width": 8, "other": 1})
    assert arguments_of(module) == expected


def test_a_network_of_ours_is_built_without_being_passed(tmp_path):
    network = Perceptron(5, 3, hidden=(7,), dropout=0.5).eval()
    x = torch.randn(2, 5)
    save_network(network, tmp_path / "saved")
    network.save_pretrained(tmp_path / "by itself")
    for folder in ("saved", "by itself"):
        assert torch.equal(load_network(tmp_path / folder)(x), network(x))
        assert torch.equal(Perceptron.from_pretrained(tmp_path / folder)(x), network(x))


def test_a_compiled_network_is_saved_as_the_one_that_was_compiled(tmp_path):
    network = timm_network("test_resnet")
    save_network(torch.compile(network, backend="eager"), tmp_path / "saved")
    images = torch.randn(2, 3, 64, 64)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images), network(images))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "hf-hub:somebody/net"}, "none of timm's own"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "weights from elsewhere"),
        ({"model_args": {"pretrained": True}}, "weights from elsewhere"),
    ],
)
def test_a_description_that_asks_for_something_elsewhere_is_refused(change, words, tmp_path):
    config = saved(timm_network("test_resnet"), tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        load_network(tmp_path / "saved")


def test_pickled_weights_of_a_timm_network_are_not_read(tmp_path):
    network = timm_network("test_resnet")
    saved(network, tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "saved" / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"holds no weights in safetensors, and pickled ones \(pytorch_model.bin\) could run code"
    ):
        load_network(tmp_path / "saved")


def test_an_older_networks_description_does_not_stay(tmp_path):
    saved(timm_network("test_resnet"), tmp_path / "saved")
    save_description(Shared(4), tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"network.json", "model.safetensors"}
