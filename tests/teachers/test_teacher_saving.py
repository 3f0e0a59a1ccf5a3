"""Every teacher comes back from its folder as it was, and a folder that is not whole is refused in one sentence."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from teacher_helpers import SmallNetwork, in_batches, points, small_bert, small_cnn
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from hf_bkd.errors import UserError
from hf_bkd.teachers import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
)

WORDS = {
    "input_ids": torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(5, 6, dtype=torch.long),
}
IMAGES = {"pixel_values": torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))}

# a network, its inputs, and what to load a teacher of it into
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict | Tensor, Callable[[], nn.Module | None]]] = {
    "timm": (small_cnn, IMAGES, lambda: None),
    "bert": (small_bert, WORDS, lambda: None),
    "plain": (SmallNetwork, points(5)[0], SmallNetwork),
    "plain without bias": (lambda: SmallNetwork(bias=False), points(5)[0], lambda: SmallNetwork(bias=False)),
}


def deterministic(network: nn.Module, inputs: dict | Tensor) -> Teacher:
    return DeterministicTeacher(network, temperature=1.5)


def laplace(network: nn.Module, inputs: dict | Tensor, link: str = "mc", tempering: str = "per_sample") -> Teacher:
    labels = torch.tensor([0, 1, 2, 0, 1])
    batches = [{**inputs, "labels": labels}] if isinstance(inputs, dict) else [(inputs, labels)]
    factors = LaplaceTeacher.fit(network, batches, prior_precision=1.0).factors
    return LaplaceTeacher(network, factors, 0.37, link, temperature=0.8, tempering=tempering)


def probit(network: nn.Module, inputs: dict | Tensor) -> Teacher:
    return laplace(network, inputs, "probit", "post_average")


def variational(network: nn.Module, inputs: dict | Tensor) -> Teacher:
    teacher = VariationalTeacher(make_variational(network, prior_std=0.6), temperature=3.0, tempering="post_average")
    with torch.no_grad():
        for name, parameter in teacher.head.named_parameters():
            if name.endswith("log_std"):
                parameter.uniform_(-2, 0)
    return teacher


def ensemble(network: nn.Module, inputs: dict | Tensor) -> Teacher:
    other = (
        type(network)(network.config)
        if hasattr(network, "config")
        else SmallNetwork(bias=network.head.bias is not None)
    )
    return EnsembleTeacher([deterministic(network, inputs), laplace(other, inputs)], 2.0, "per_sample")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("make", [deterministic, laplace, probit, variational, ensemble])
@pytest.mark.parametrize("through", ["Teacher", "its own class"])
def test_a_saved_teacher_is_the_same_when_loaded(make, name, through, tmp_path):
    network, inputs, empty = NETWORKS[name]
    teacher = make(network(), inputs)
    folder = tmp_path / "some" / "where"
    teacher.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        loader = Teacher if through == "Teacher" else type(teacher)
        loaded = loader.from_pretrained(folder, network=empty())
    assert type(loaded) is type(teacher)
    assert (loaded.temperature, loaded.tempering) == (teacher.temperature, teacher.tempering)
    assert loaded.describe() == teacher.describe() and json.dumps(loaded.describe())
    assert loaded.fingerprint() == teacher.fingerprint() and len(teacher.fingerprint()) == 16
    predictions = [
        each.predict(inputs, 6, torch.Generator().manual_seed(8), return_samples=True) for each in (teacher, loaded)
    ]
    assert torch.equal(predictions[0].samples, predictions[1].samples)
    assert torch.equal(predictions[0].mean, predictions[1].mean)
    for file, content in everything(folder).items():
        assert file.endswith((".json", ".safetensors", ".md", ".txt")), file
        assert not content.startswith((b"\x80", b"PK")), f"{file} is a pickle"


def test_a_loaded_teacher_can_be_saved_anew_and_trained_on(tmp_path):
    teacher = variational(small_cnn(), IMAGES)
    teacher.save_pretrained(tmp_path / "first")
    loaded = VariationalTeacher.from_pretrained(tmp_path / "first")
    assert loaded.head.prior_std == 0.6 and not loaded.network.training
    loaded.save_pretrained(tmp_path / "second")
    assert everything(tmp_path / "first") == everything(tmp_path / "second")
    loaded.network.train()(**IMAGES).logits.sum().backward()
    assert loaded.head.weight_log_std.grad.abs().sum() > 0


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
    fingerprints = {
        teacher.fingerprint(),
        LaplaceTeacher(network, teacher.factors, 0.38).fingerprint(),
        LaplaceTeacher(network, teacher.factors._replace(class_values=torch.zeros(3)), 0.37).fingerprint(),
        DeterministicTeacher(network).fingerprint(),
    }
    assert DeterministicTeacher(network, temperature=2.0).fingerprint() in fingerprints  # tempering is not in it
    with torch.no_grad():
        network.backbone[1].running_mean[0] += 1e-3
    fingerprints |= {teacher.fingerprint()}
    assert len(fingerprints) == 5


class Guessing(Teacher):
    """A user's own teacher: logits of a network plus noise of one size."""

    method = "guessing"

    def __init__(self, network: nn.Module, size: float, centre: Tensor | None = None, **settings):
        super().__init__(network, **settings)
        self.settings, self.centre = {"size": size}, torch.zeros(3) if centre is None else centre

    def draw_logits(self, inputs, num_samples, generator):
        noise = torch.randn(num_samples, len(inputs), 3, generator=generator)
        return self.network(inputs) + self.centre + self.settings["size"] * noise

    def get_state(self):
        return self.settings, {"centre": self.centre}

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
@pytest.mark.parametrize("place", ["base", "network"])
def test_a_save_that_fails_leaves_nothing_new_and_keeps_the_earlier_version(tmp_path, monkeypatch, failure, place):
    teacher = laplace(SmallNetwork(), points(5)[0])
    teacher.save_pretrained(tmp_path / "kept")
    before = everything(tmp_path / "kept")

    def fail(tensors, path):
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(f"hf_bkd.teachers.{place}.save_file", fail)
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


def refused(folder: Path, *words: str, loader: type[Teacher] = Teacher, network: nn.Module | None = None) -> None:
    """``folder`` is refused in one sentence with all of ``words``."""
    with pytest.raises(UserError) as caught:
        loader.from_pretrained(folder, network=network)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 450
    for word in words:
        assert word in sentence, sentence


def test_another_kind_of_teacher_is_refused(tmp_path):
    DeterministicTeacher(small_cnn()).save_pretrained(tmp_path / "teacher")
    words = "holds a DeterministicTeacher, not a LaplaceTeacher"
    refused(tmp_path / "teacher", words, loader=LaplaceTeacher)


def test_weights_of_a_plain_module_need_the_module_that_they_were_of(tmp_path):
    DeterministicTeacher(SmallNetwork()).save_pretrained(tmp_path / "teacher")
    refused(tmp_path / "teacher", "plain nn.Module", "pass network=")
    for network, reason in (
        (SmallNetwork(features=6), "size mismatch"),
        (SmallNetwork(bias=False), "Unexpected key"),
        (nn.Sequential(nn.Linear(4, 3)), "Missing key"),
    ):
        refused(tmp_path / "teacher", "weights of another network", reason, network=network)


def test_no_folder_or_no_teacher_in_it_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "there is no folder", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "teacher.json is missing")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Folders of teachers to damage copies of."""
    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("saved")
    for name, make in (("laplace", laplace), ("variational", variational), ("ensemble", ensemble)):
        make(small_cnn(), IMAGES).save_pretrained(root / name)
    DeterministicTeacher(SmallNetwork()).save_pretrained(root / "plain")
    DeterministicTeacher(small_cnn(classes=7)).save_pretrained(root / "seven classes")
    return root


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def drop(file: Path, *names: str) -> None:
    save_file({name: value for name, value in load_file(file).items() if name not in names}, file)


def replace_weights(folder: Path) -> None:
    shutil.copy(folder.parent / "seven" / "network" / "model.safetensors", folder / "network")


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "teacher.json cut off": ("laplace", lambda f: truncate(f / "teacher.json"), "teacher.json is damaged"),
    "teacher.json binary": ("laplace", lambda f: (f / "teacher.json").write_bytes(b"\xff\x00"), "is damaged"),
    "teacher.json a list": ("laplace", lambda f: (f / "teacher.json").write_text("[]"), "teacher.json is damaged"),
    "no method": ("laplace", lambda f: edit(f / "teacher.json", lambda d: d.pop("method")), "teacher.json is damaged"),
    "unknown method": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d.update(method="oracle")),
        "unknown method 'oracle'",
    ),
    "unhashable method": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d.update(method=["laplace"])),
        "unknown method",
    ),
    "unknown setting": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d["settings"].update(colour="red")),
        "colour",
    ),
    "bad setting": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d["settings"].update(prior_precision=-1)),
        "prior_precision must be above 0",
    ),
    "posterior cut off": ("laplace", lambda f: truncate(f / "posterior.safetensors"), "SafetensorError"),
    "posterior gone": ("laplace", lambda f: (f / "posterior.safetensors").unlink(), "cannot be loaded"),
    "spread gone": ("variational", lambda f: (f / "posterior.safetensors").unlink(), "weight_log_std"),
    "spread of the bias gone": (
        "variational",
        lambda f: drop(f / "posterior.safetensors", "bias_log_std"),
        "bias_log_std",
    ),
    "spread of another head": (
        "variational",
        lambda f: save_file(
            {"weight_log_std": torch.zeros(1), "bias_log_std": torch.zeros(4)}, f / "posterior.safetensors"
        ),
        "cannot be loaded",
    ),
    "weights cut off": ("laplace", lambda f: truncate(f / "network" / "model.safetensors"), "cannot be loaded"),
    "weights gone": ("laplace", lambda f: (f / "network" / "model.safetensors").unlink(), "cannot be loaded"),
    "weights missing": (
        "laplace",
        lambda f: drop(f / "network" / "model.safetensors", "timm_model.fc.weight"),
        "timm_model.fc.weight",
    ),
    "weights of seven classes": ("laplace", replace_weights, "cannot be loaded"),
    "config cut off": ("laplace", lambda f: truncate(f / "network" / "config.json"), "cannot be loaded"),
    "unknown class": (
        "laplace",
        lambda f: edit(f / "network" / "config.json", lambda d: d.update(architectures=["Trainer"])),
        "model class 'Trainer'",
    ),
    "unknown architecture": (
        "laplace",
        lambda f: edit(f / "network" / "config.json", lambda d: d.update(architecture="cnn7_small")),
        "cannot be loaded",
    ),
    "network gone": ("laplace", lambda f: shutil.rmtree(f / "network"), "cannot be loaded"),
    "plain weights cut off": ("plain", lambda f: truncate(f / "network" / "network.safetensors"), "SafetensorError"),
    "members gone": ("ensemble", lambda f: shutil.rmtree(f / "members"), "cannot be loaded"),
    "member damaged": (
        "ensemble",
        lambda f: truncate(f / "members" / "1" / "posterior.safetensors"),
        "members/1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(damage, saved, tmp_path):
    kind, harm, words = DAMAGES[damage]
    shutil.copytree(saved / kind, tmp_path / "teacher")
    shutil.copytree(saved / "seven classes", tmp_path / "seven")
    harm(tmp_path / "teacher")
    refused(tmp_path / "teacher", words, network=SmallNetwork() if kind == "plain" else None)


def test_code_beside_the_weights_is_never_run(saved, tmp_path, monkeypatch):
    folder, marker = tmp_path / "teacher", tmp_path / "ran"
    shutil.copytree(saved / "laplace", folder)
    (folder / "network" / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\n"
        "from transformers import PreTrainedConfig, TimmWrapperForImageClassification as Model\n"
        "class Config(PreTrainedConfig):\n    model_type = 'evil'\n"
    )
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    edit(folder / "network" / "config.json", lambda d: d.update(auto_map=auto_map))
    assert Teacher.from_pretrained(folder).method == "laplace"  # a model that transformers knows is its own
    edit(folder / "network" / "config.json", lambda d: d.update(model_type="evil"))
    monkeypatch.setattr("builtins.input", lambda question: "y")  # not even if someone is asked
    refused(folder, "cannot be loaded")
    assert not marker.exists()


def test_pickled_weights_are_not_read(saved, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(saved / "laplace", folder)
    weights = folder / "network" / "model.safetensors"
    torch.save(load_file(weights), folder / "network" / "pytorch_model.bin")
    weights.unlink()
    refused(folder, "cannot be loaded")


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
