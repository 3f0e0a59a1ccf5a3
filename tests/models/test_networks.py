"""Registered networks, timm networks as transformers models, and the cut between features and head."""

import json
from types import SimpleNamespace

import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn

from hf_bkd import UserError
from hf_bkd.models import cifar_resnet
from hf_bkd.models.calling import logits_of
from hf_bkd.models.classifier import create_classifier
from hf_bkd.models.heads import classification_head, head_features

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

# name: parameters for 100 classes, stem width, channels of the final map, output stride
NETWORKS = {
    "resnet18_cifar": (11_220_132, 64, 512, 8),
    "resnet34_cifar": (21_328_292, 64, 512, 8),
    "resnet50_cifar": (23_705_252, 64, 2048, 8),
    "resnet20_cifar": (278_324, 16, 64, 4),
    "resnet32_cifar": (472_756, 16, 64, 4),
    "resnet56_cifar": (861_620, 16, 64, 4),
    "resnet8x4_cifar": (1_233_540, 32, 256, 4),
    "resnet32x4_cifar": (7_433_860, 32, 256, 4),
    "wrn_16_1_cifar": (180_916, 16, 64, 4),
    "wrn_16_2_cifar": (703_284, 16, 128, 4),
    "wrn_40_1_cifar": (569_780, 16, 64, 4),
    "wrn_40_2_cifar": (2_255_156, 16, 128, 4),
}
NARROW = {"channels": [4, 8, 8, 16], "stem_width": 4}


def classifier(architecture="wrn_16_1_cifar", num_labels=5, mean=MEAN, std=STD, **kwargs):
    return create_classifier(architecture, num_labels, mean=mean, std=std, **kwargs)


def test_all_registered_networks_are_tested():
    assert set(NETWORKS) == set(cifar_resnet.ARCHITECTURES)
    assert set(timm.list_models("*_cifar")) >= set(NETWORKS)
    assert all(hasattr(cifar_resnet, name) for name in cifar_resnet.__all__)


@pytest.mark.parametrize("name", NETWORKS)
def test_size_and_stride(name):
    parameters, stem_width, num_features, stride = NETWORKS[name]
    with torch.device("meta"):
        model = timm.create_model(name)
        images = torch.empty(2, 3, 32, 32)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert f"{parameters:,}" in cifar_resnet.__doc__
    assert model.conv1.weight.shape == (stem_width, 3, 3, 3)
    assert model.num_features == model.head_hidden_size == num_features
    final_map = model.forward_features(images)
    assert final_map.shape == (2, num_features, 32 // stride, 32 // stride)
    assert model.forward_head(final_map).shape == (2, 100)
    assert model.default_cfg["input_size"] == (3, 32, 32) and model.default_cfg["num_classes"] == 100
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(model.default_cfg["first_conv"]) is model.conv1
    assert not model.default_cfg.get("url")


@pytest.mark.parametrize("name", ["resnet18_cifar", "resnet50_cifar", "resnet8x4_cifar", "wrn_16_2_cifar"])
def test_features_only_reductions_match_the_maps(name):
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True, in_chans=1)
        maps = model(torch.empty(2, 1, 32, 32))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [32 // m.shape[2] for m in maps] == model.feature_info.reduction()


@pytest.mark.parametrize("name", ["resnet8x4_cifar", "wrn_16_1_cifar"])
def test_small_networks_serve_as_timm_models(name):
    model = timm.create_model(name, num_classes=7, in_chans=1, drop_rate=0.5).eval()
    images = torch.randn(2, 1, 32, 32)
    final_map = model.forward_features(images)
    pooled = model.forward_head(final_map, pre_logits=True)
    torch.testing.assert_close(pooled, final_map.mean((2, 3)))
    torch.testing.assert_close(model(images), model.get_classifier()(pooled))
    last, maps = model.forward_intermediates(images)
    assert torch.equal(last, final_map) and torch.equal(maps[-1], final_map)
    model.train()
    assert (model.forward_head(final_map, pre_logits=True) == 0).float().mean() > 0.3  # drop_rate is in effect
    model.reset_classifier(3)
    assert model(images).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


@pytest.mark.parametrize(("name", "num_zero"), [("resnet18_cifar", 8), ("resnet20_cifar", 0), ("wrn_16_1_cifar", 0)])
def test_initialization(name, num_zero):
    torch.manual_seed(0)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            expected, size = (2 / fan_out) ** 0.5, module.weight.numel()
            assert abs(module.weight.std().item() / expected - 1) < 4 / (2 * size) ** 0.5  # 4 standard errors
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum((norm.weight == 0).all().item() for norm in norms) == num_zero
    assert sum((norm.weight == 1).all().item() for norm in norms) == len(norms) - num_zero


def test_pre_activation_shortcuts():
    def silenced(*args, **kwargs):
        block = cifar_resnet.PreActivationBlock(*args, **kwargs).eval()
        block.zero_init_last()
        return block

    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(silenced(4, 4)(x), x)
    shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
    expected = shortcut[0](x.relu() / (1 + 1e-5) ** 0.5)  # a fresh norm divides by sqrt(1 + eps)
    torch.testing.assert_close(silenced(4, 6, 2, shortcut)(x), expected)


def test_pre_activation_network_ends_in_norm_and_relu():
    model = timm.create_model("wrn_16_1_cifar", dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    final_map, standard = model.forward_features(images), nn.BatchNorm2d(64, dtype=torch.float64)
    torch.testing.assert_close(final_map, standard(model.forward_intermediates(images)[1][-2]).relu())
    assert torch.equal(model.act1(model.bn1(model.conv1(images))), model.conv1(images))  # and does not begin in one


@pytest.mark.parametrize(
    ("name", "model_args"), [("resnet18_cifar", NARROW), ("wrn_16_1_cifar", {}), ("resnet10t", {}), ("test_vit", {})]
)
def test_create_classifier_keeps_timms_initialization(name, model_args):
    torch.manual_seed(3)
    wrapper = classifier(name, **model_args)
    after = torch.rand(1)
    torch.manual_seed(3)
    expected = timm.create_model(name, num_classes=5, **model_args, **({"img_size": 32} if name == "test_vit" else {}))
    assert torch.equal(after, torch.rand(1))
    wrapper.init_weights()  # as transformers may: it must leave them alone
    state = wrapper.timm_model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())
    assert not any(tensor.is_meta for tensor in [*wrapper.parameters(), *wrapper.buffers()])
    torch.manual_seed(4)
    other = classifier(name, **model_args).timm_model.state_dict()
    assert any(not torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "model_args"),
    [("resnet18_cifar", NARROW), ("resnet8x4_cifar", {"drop_rate": 0.1}), ("wrn_16_1_cifar", {}), ("resnet10t", {}),
     ("test_vit", {})],
)  # fmt: skip
def test_saved_classifier_loads_bit_for_bit(name, model_args, tmp_path):
    names = ["cat", "dog", "eel", "fox", "gnu"]
    model = classifier(name, label_names=names, **model_args)
    model.train()(torch.randn(4, 3, 32, 32))  # move the running statistics
    model.eval().save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    for value in [*loaded.parameters(), *loaded.buffers()]:
        value.data = value.data.clone()  # where a mapped file puts weights decides which kernel reads them, to a bit
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert loaded.config.id2label == dict(enumerate(names)) and loaded.config.label2id["fox"] == 3
    assert loaded.config.num_labels == 5
    assert "num_classes" not in json.loads((tmp_path / "config.json").read_text())["model_args"]
    assert type(loaded) is type(model) is transformers.TimmWrapperForImageClassification


@pytest.mark.parametrize(("in_chans", "mode"), [(3, "RGB"), (1, "L")])
def test_saved_folder_has_an_image_processor(in_chans, mode, tmp_path):
    mean, std = MEAN[:in_chans], STD[:in_chans]
    model = classifier(in_chans=in_chans, image_size=16, mean=mean, std=std).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (16, 16, in_chans), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy().squeeze(), mode=None)
    assert image.mode == mode
    expected = (pixels.permute(2, 0, 1) / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    inputs = processor(image)
    torch.testing.assert_close(inputs["pixel_values"], expected[None])
    assert model(**inputs).logits.shape == (1, 5)
    assert processor(image.resize((40, 40)))["pixel_values"].shape == (1, in_chans, 16, 16)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"architecture": "resnet18_cfar"}, "no architecture 'resnet18_cfar'; close ones: resnet18_cifar"),
        ({"architecture": "?"}, "see timm.list_models()"),
        ({"num_labels": 1}, "num_labels must be a whole number of at least 2, and it is 1"),
        ({"label_names": ["a", "b"]}, "2 label names were given for 5 classes"),
        ({"in_chans": 1}, "1 channels need as many means and deviations, not 3 and 3"),
        ({"std": (0.2,)}, "not 3 and 1"),
    ],
)
def test_create_classifier_refuses(kwargs, message):
    with pytest.raises(ValueError) as error:
        classifier(**kwargs)
    assert message in str(error.value) and "\n" not in str(error.value)


TINY_TEXT = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 16, "num_labels": 8,  # as many as hidden units: inner layers look like heads
}  # fmt: skip
TINY_DISTILBERT = {"vocab_size": 20, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "num_labels": 8}
TINY_VIT = {
    "image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "num_labels": 3,
}  # fmt: skip
TOKENS = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 7]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
IMAGES = torch.randn(2, 3, 8, 8)


def plain_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))


def tiny(kind):
    builders = {
        "bert": lambda t: t.BertForSequenceClassification(t.BertConfig(**TINY_TEXT)),
        "roberta": lambda t: t.RobertaForSequenceClassification(t.RobertaConfig(**TINY_TEXT)),
        "distilbert": lambda t: t.DistilBertForSequenceClassification(t.DistilBertConfig(**TINY_DISTILBERT)),
        "vit": lambda t: t.ViTForImageClassification(t.ViTConfig(**TINY_VIT)),
        "wrapper": lambda t: classifier("resnet8x4_cifar", 3),
        "timm": lambda t: timm.create_model("wrn_16_1_cifar", num_classes=3),
        "plain": lambda t: plain_network(),
    }
    return builders[kind](transformers).eval()


@pytest.mark.parametrize(
    ("kind", "name", "inputs"),
    [
        ("bert", "classifier", TOKENS),
        ("roberta", "classifier.out_proj", TOKENS),
        ("distilbert", "classifier", TOKENS),
        ("vit", "classifier", {"pixel_values": IMAGES}),
        ("wrapper", "timm_model.fc", {"pixel_values": IMAGES}),
        ("timm", "fc", IMAGES),
        ("plain", "3", IMAGES),
    ],
)
def test_features_times_head_are_the_logits(kind, name, inputs):
    model = tiny(kind)
    passes = []
    model.register_forward_hook(lambda *args: passes.append(1))
    actual, head = classification_head(model)
    assert actual == name and head is model.get_submodule(name)
    features, logits = head_features(model, inputs)
    assert features.shape == (2, head.in_features) and logits.shape == (2, head.out_features) and len(passes) == 1
    torch.testing.assert_close(features @ head.weight.T + head.bias, logits)
    expected = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    assert torch.equal(logits_of(expected), logits)
    assert features.grad_fn is not None and logits.grad_fn is not None
    with torch.no_grad():
        assert head_features(model, inputs)[0].grad_fn is None
    assert not head._forward_pre_hooks


def test_head_is_chosen_by_the_number_of_classes():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 9))
    assert classification_head(model)[0] == "2"
    model.num_classes = 3
    assert classification_head(model)[0] == "1"


@pytest.mark.parametrize("num_classes", [0, 5])
def test_no_head(num_classes):
    model = timm.create_model("wrn_16_1_cifar", num_classes=num_classes)
    model.fc = nn.Conv2d(64, 5, 1)
    with pytest.raises(ValueError, match="CifarResNet has no linear layer with 5 outputs"):
        classification_head(model)
    with pytest.raises(ValueError, match="Conv2d has no linear layer that could be its head"):
        classification_head(model.fc)


@pytest.mark.parametrize("build", [timm.create_model, classifier])
def test_several_heads_are_refused(build):
    with torch.device("meta"):
        model = build("deit_tiny_distilled_patch16_224")
    with pytest.raises(ValueError, match="averages the logits of several heads"):
        classification_head(model)


def test_number_of_classes_excludes_inner_linear_layers():
    model = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 5, 1), nn.Flatten())
    model.num_classes = 5
    with pytest.raises(ValueError, match="no linear layer with 5 outputs"):
        classification_head(model)


def test_hook_is_removed_when_forward_raises():
    model = plain_network()
    with pytest.raises(UserError, match=r"Sequential can't take inputs \[2, 5\] \(RuntimeError"):
        head_features(model, torch.randn(2, 5))
    assert not model[3]._forward_pre_hooks


def test_something_after_the_head_is_refused():
    summed = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.AvgPool1d(2), nn.Flatten())
    with pytest.raises(ValueError, match="are not what its linear layer '0' puts out"):
        head_features(summed, torch.randn(2, 4))
    per_token = nn.Sequential(nn.Linear(4, 3), nn.Flatten(0, 1))
    with pytest.raises(ValueError, match="are not what"):
        head_features(per_token, torch.randn(2, 5, 4))
    unused = nn.Sequential(nn.Linear(4, 3))
    unused.forward = lambda x: x
    with pytest.raises(ValueError, match="are not what"):
        head_features(unused, torch.randn(2, 4))


def test_logits_of():
    logits, loss = torch.randn(2, 3), torch.tensor(1.0)
    output = transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=logits)
    for outputs in (logits, output, {"loss": loss, "logits": logits}, (loss, logits, (logits + 1,)), [logits]):
        assert logits_of(outputs) is logits
    for outputs in ({"loss": loss}, (loss,), None, SimpleNamespace(last=logits), output.__class__(loss=loss)):
        with pytest.raises(ValueError, match=f"returned a {type(outputs).__name__} without logits"):
            logits_of(outputs)


@pytest.mark.parametrize("rescale", [lambda z: 10 * z, torch.sigmoid])
def test_logits_that_are_not_the_heads_output_are_refused(rescale):
    class Rescaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return rescale(self.fc(x))

    with pytest.raises(UserError, match="are not what its linear layer 'fc' puts out"):
        head_features(Rescaled(), torch.randn(2, 4))


class TwoHeads(nn.Module):
    """A network with a second head that is made after the first."""

    def __init__(self, auxiliary: int = 3):
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, auxiliary)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        return self.head(hidden), self.aux(hidden)


@pytest.mark.parametrize("auxiliary", [3, 5])
def test_the_head_is_the_layer_whose_output_the_logits_are(auxiliary):
    network, x = TwoHeads(auxiliary), torch.randn(6, 4)
    features, logits = head_features(network, x)
    assert torch.equal(logits, network(x)[0]) and torch.equal(features, torch.relu(network.body(x)))
    assert classification_head(network)[0] == "head"


def decoder():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=40, n_embd=16, n_layer=1, n_head=2, num_labels=3, pad_token_id=0
    )
    return transformers.GPT2ForSequenceClassification(config).eval()


def test_the_head_of_a_decoder_is_entered_by_the_token_that_its_logits_are_of():
    network = decoder()
    ids = torch.randint(5, 60, (4, 7), generator=torch.Generator().manual_seed(0))
    ids[1, 4:] = ids[3, 2:] = 0
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    features, logits = head_features(network, inputs)
    hidden = network.transformer(**inputs).last_hidden_state
    torch.testing.assert_close(features, hidden[torch.arange(4), torch.tensor([6, 3, 6, 1])])
    torch.testing.assert_close(network.score(features), logits)
    logits.sum().backward()
    assert network.transformer.wte.weight.grad.abs().sum() > 0


def test_a_compiled_network_is_watched_as_the_network_that_it_is():
    network, x = plain_network().eval(), torch.randn(3, 192)
    compiled = torch.compile(network, backend="eager")
    for ours, theirs in zip(head_features(compiled, x), head_features(network, x), strict=True):
        assert torch.equal(ours, theirs)
    assert classification_head(compiled) == classification_head(network)


def test_a_small_network_of_another_width_is_loaded_as_such(tmp_path):
    """Weights: convolutions 9 (32 + 32 * 64 + 64 * 64), batch norms 2 (32 + 64 + 64), the head 65 * 10."""
    network = classifier("cnn16_small", 10, (0.5,), (0.5,), in_chans=1, image_size=8, width=32)
    assert sum(each.numel() for each in network.parameters()) == 9 * 6176 + 320 + 650
    network.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.timm_model.fc.weight.equal(network.timm_model.fc.weight)
