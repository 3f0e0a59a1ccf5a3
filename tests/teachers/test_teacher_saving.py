"""Every teacher comes back from its folder as it was, and a save that fails leaves what was there."""

import dataclasses
import json
import os
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from hf_bkd.models.variational_layers import GaussianWeights
from hf_bkd.teachers import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
)
from hf_bkd.utils.errors import UserError
from tests.teachers.saving_helpers import IMAGES, KINDS, NETWORKS, WORDS, deterministic, everything, laplace
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points, seeded, small_bert, small_cnn

RECORD = {"examples": 5, "chosen by": "hand", "validation": {"accuracy": 0.5, "nll": 0.7, "ece": 0.1, "brier": 0.4}}


EVERY_PART = ["laplace", "variational with a head of rank 2", "langevin of all weights", "dropout", "ensemble"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [*product(KINDS, ["timm", "plain"]), *product(EVERY_PART, ["bert", "plain without bias"])],
)
def test_a_saved_teacher_is_the_same_when_loaded(kind, name, tmp_path):
    network, inputs, empty = NETWORKS[name]
    teacher = KINDS[kind](network(), inputs)
    teacher.record = RECORD
    folder = tmp_path / "some" / "where"
    teacher.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        loader = Teacher if name == "plain" else type(teacher)
        loaded = loader.from_pretrained(folder, network=empty())
    assert type(loaded) is type(teacher) and loaded.record == RECORD
    assert (loaded.temperature, loaded.tempering) == (teacher.temperature, teacher.tempering)
    assert loaded.describe() == teacher.describe() and json.dumps(loaded.describe())
    assert loaded.fingerprint() == teacher.fingerprint() and len(teacher.fingerprint()) == 16
    predictions = [each.predict(inputs, 6, seeded(), return_samples=True) for each in (teacher, loaded)]
    assert torch.equal(predictions[0].samples, predictions[1].samples)
    assert torch.equal(predictions[0].mean, predictions[1].mean)
    for file, content in everything(folder).items():  # no pickle among them
        assert file.endswith((".json", ".safetensors", ".md")), file
        assert content[8:10] == b'{"' if file.endswith(".safetensors") else content.decode(), file
    if name == "timm":
        loaded.save_pretrained(tmp_path / "again")
        assert everything(tmp_path / "again") == everything(folder)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "variational" in kind or kind == "given deviations"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_a_posterior_is_saved_as_the_ordinary_one_of_its_means(name, kind, tmp_path):
    make, inputs, empty = NETWORKS[name]
    teacher = KINDS[kind](make(), inputs)
    teacher.save_pretrained(tmp_path / "teacher")
    folder = tmp_path / "teacher" / "network"
    if name in ("timm", "bert"):
        loader = AutoModelForImageClassification if name == "timm" else AutoModelForSequenceClassification
        network, info = loader.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        logits = [each.eval()(**inputs).logits for each in (network, teacher.network)]
    else:
        network = empty().eval()
        network.load_state_dict(load_file(folder / "model.safetensors"))
        logits = [each.eval()(inputs) for each in (network, teacher.network)]
    assert torch.equal(*logits)
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=empty())
    assert not any(isinstance(module, GaussianWeights) for module in loaded.network.modules())
    assert not loaded.network.training


@pytest.mark.parametrize("make", [deterministic, laplace, MCDropoutTeacher])
@pytest.mark.parametrize("network", [SmallNetwork, small_bert])
def test_any_teacher_of_a_network_with_a_posterior_saves_its_means(network, make, tmp_path):
    inputs = points(5)[0] if network is SmallNetwork else WORDS
    variational_network = make_variational(network(), "full", rank=1).eval()
    teacher = make(variational_network, *([] if make is MCDropoutTeacher else [inputs]))
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=SmallNetwork() if network is SmallNetwork else None)
    assert loaded.fingerprint() == teacher.fingerprint()
    means = [each.predict(inputs, 3, seeded()).mean for each in (teacher, loaded)]
    assert torch.equal(*means)


def test_weights_of_the_networks_own_are_kept_whatever_their_names(tmp_path):
    class Scaled(SmallNetwork):
        def __init__(self):
            super().__init__()
            self.weight_factor, self.bias_log_std = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))

        def forward(self, x):
            return super().forward(x * 2)

    teacher = VariationalTeacher(make_variational(Scaled()))
    assert set(teacher.std) == {"head.weight", "head.bias"} and not teacher.factors
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=Scaled())
    assert torch.equal(loaded.network.weight_factor, teacher.network.weight_factor)
    assert torch.equal(loaded.network.bias_log_std, teacher.network.bias_log_std)


@pytest.mark.parametrize("name", ["MyBert", "BertForSequenceClassification"])
def test_a_users_subclass_of_a_transformers_model_is_saved_as_weights_alone(name, tmp_path):
    MyBert = type(name, (BertForSequenceClassification,), {})  # noqa: N806
    teacher = DeterministicTeacher(MyBert(small_bert().config).eval())
    teacher.save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match="pass network="):
        Teacher.from_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=MyBert(small_bert().config))
    assert torch.equal(loaded.predict(WORDS).mean, teacher.predict(WORDS).mean)


def test_the_fingerprint_changes_with_each_part_of_the_posterior():
    network = SmallNetwork()
    teacher = laplace(network, points(5)[0])
    other = dataclasses.replace(teacher.curvature, class_values=torch.zeros(3))
    head = VariationalTeacher(make_variational(SmallNetwork(), rank=1))
    std, factors = head.std, head.factors
    fingerprints = {
        teacher.fingerprint(),
        LaplaceTeacher(network, teacher.curvature, 0.38).fingerprint(),
        LaplaceTeacher(network, other, 0.37).fingerprint(),
        DeterministicTeacher(network).fingerprint(),
        VariationalTeacher(network, std, factors).fingerprint(),
        VariationalTeacher(network, std).fingerprint(),
        VariationalTeacher(network, {"head.weight": std["head.weight"]}).fingerprint(),
        VariationalTeacher(network, std | {"head.bias": 2 * std["head.bias"]}, factors).fingerprint(),
        VariationalTeacher(network, std, {name: -factor for name, factor in factors.items()}).fingerprint(),
    }
    assert DeterministicTeacher(network, temperature=2.0).fingerprint() in fingerprints  # tempering is not in it
    with torch.no_grad():
        network.backbone[1].running_mean[0] += 1e-3
    fingerprints |= {teacher.fingerprint()}
    assert len(fingerprints) == 10


class Guessing(Teacher):
    """A user's own teacher: logits of a network plus noise of one size."""

    method = "guessing"

    def __init__(self, network: nn.Module, size: float, center: Tensor | None = None, **settings):
        super().__init__(network, **settings)
        self.settings, self.center = {"size": size}, torch.zeros(3) if center is None else center

    def draw_logits(self, inputs, num_samples, generator):
        noise = torch.randn(num_samples, len(inputs), 3, generator=generator)
        return self.network(inputs) + self.center + self.settings["size"] * noise

    def get_state(self):
        return self.settings, {"center": self.center}

    @classmethod
    def from_state(cls, network, settings, tensors):
        return cls(network, **settings, **tensors)


def test_a_users_own_kind_of_teacher_is_saved_and_loaded(tmp_path):
    x = points(5)[0]
    teacher = Guessing(SmallNetwork().eval(), 0.5, torch.arange(3.0), temperature=2.0, tempering="per_sample")
    teacher.save_pretrained(tmp_path / "teacher")
    assert teacher.settings == {"size": 0.5}  # what get_state hands out is left alone
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=SmallNetwork())
    assert isinstance(loaded, Guessing) and loaded.describe() == teacher.describe()
    means = [each.predict(x, 4, torch.Generator().manual_seed(1)).mean for each in (teacher, loaded)]
    assert torch.equal(*means)
    teacher.settings["size"] = torch.tensor(0.5)  # JSON can't hold it
    with pytest.raises(TypeError):
        teacher.save_pretrained(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize("failure", [OSError("no space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["teachers.saving", "models.saving"])
def test_a_save_that_fails_leaves_nothing_new_and_keeps_the_earlier_version(tmp_path, monkeypatch, failure, place):
    teacher = laplace(SmallNetwork(), points(5)[0])
    teacher.save_pretrained(tmp_path / "kept")
    before = everything(tmp_path / "kept")

    def fail(tensors, path, **metadata):
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(f"hf_bkd.{place}.save_file", fail)
    teacher.prior_precision = 5.0
    for name in ("kept", "new"):
        with pytest.raises(type(failure)):
            teacher.save_pretrained(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"] and everything(tmp_path / "kept") == before


def test_a_new_version_takes_the_place_of_the_whole_old_one(tmp_path):
    folder, x = tmp_path / "teacher", points(5)[0]
    laplace(SmallNetwork(), x).save_pretrained(folder)
    teacher = DeterministicTeacher(small_cnn())
    teacher.save_pretrained(folder)
    assert not (folder / "posterior.safetensors").exists() and os.listdir(tmp_path) == ["teacher"]
    assert Teacher.from_pretrained(folder).fingerprint() == teacher.fingerprint()


def test_members_come_back_in_their_order(tmp_path):
    members = [DeterministicTeacher(SmallNetwork().eval(), temperature=number + 1) for number in range(11)]
    EnsembleTeacher(members).save_pretrained(tmp_path / "teacher")
    loaded = EnsembleTeacher.from_pretrained(tmp_path / "teacher", network=SmallNetwork())
    assert [member.temperature for member in loaded.members] == [float(number + 1) for number in range(11)]
    assert [each.fingerprint() for each in loaded.members] == [each.fingerprint() for each in members]


def test_an_ensemble_of_ensembles_is_saved_whole(tmp_path):
    inner = EnsembleTeacher([deterministic(small_cnn(3), IMAGES), laplace(small_cnn(3), IMAGES)])
    outer = EnsembleTeacher([inner, deterministic(small_cnn(3), IMAGES)], temperature=2.0)
    outer.save_pretrained(tmp_path / "teacher")
    assert EnsembleTeacher.from_pretrained(tmp_path / "teacher").describe() == outer.describe()


def test_networks_with_frozen_parts_and_shared_weights_are_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()).relu())

    network, (x, _) = Tied().requires_grad_(False), points(5)
    teacher = LaplaceTeacher.fit(network, in_batches(*points(30)), prior_precision=1.0)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=Tied())
    means = [each.predict(x, 4, torch.Generator().manual_seed(1)).mean for each in (teacher, loaded)]
    assert torch.equal(*means)
