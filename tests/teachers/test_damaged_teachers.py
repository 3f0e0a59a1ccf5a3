"""A folder that is not whole is refused in one sentence, and code or pickles in it are never run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_bkd.teachers import DeterministicTeacher, LaplaceTeacher, Teacher
from hf_bkd.utils.errors import UserError
from tests.teachers.saving_helpers import IMAGES, ensemble, laplace, variational
from tests.teachers.teacher_helpers import SmallNetwork, small_cnn


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
    variational(small_cnn(), IMAGES, "full", 2).save_pretrained(root / "full")
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
        lambda f: edit(f / "teacher.json", lambda d: d.update(method="seance")),
        "unknown method 'seance'",
    ),
    "unhashable method": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d.update(method=["laplace"])),
        "unknown method",
    ),
    "unknown setting": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d["settings"].update(color="red")),
        "color",
    ),
    "bad setting": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d["settings"].update(prior_precision=-1)),
        "prior_precision must be above 0",
    ),
    "posterior cut off": ("laplace", lambda f: truncate(f / "posterior.safetensors"), "SafetensorError"),
    "posterior gone": ("laplace", lambda f: (f / "posterior.safetensors").unlink(), "cannot be loaded"),
    "spread gone": ("variational", lambda f: (f / "posterior.safetensors").unlink(), "has no posterior"),
    "spread of another head": (
        "variational",
        lambda f: save_file({"std.timm_model.fc.weight": torch.ones(1)}, f / "posterior.safetensors"),
        "timm_model.fc.weight of shape [1] is not of this network",
    ),
    "spread of another network": (
        "variational",
        lambda f: save_file({"std.fc.weight": torch.ones(4, 64)}, f / "posterior.safetensors"),
        "fc.weight of shape [4, 64] is not of this network",
    ),
    "a factor without its spread": (
        "full",
        lambda f: drop(f / "posterior.safetensors", "std.timm_model.fc.bias"),
        "timm_model.fc.bias of shape [2, 4] is not of this network",
    ),
    "a record that is none": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d.update(record=["good"])),
        "teacher.json is damaged",
    ),
    "no record": ("laplace", lambda f: edit(f / "teacher.json", lambda d: d.pop("record")), "teacher.json is damaged"),
    "weights cut off": ("laplace", lambda f: truncate(f / "network" / "model.safetensors"), "cannot be loaded"),
    "weights gone": ("laplace", lambda f: (f / "network" / "model.safetensors").unlink(), "holds no weights"),
    "weights missing": (
        "laplace",
        lambda f: drop(f / "network" / "model.safetensors", "fc.weight"),
        "fc.weight",
    ),
    "weights of seven classes": ("laplace", replace_weights, "cannot be loaded"),
    "config cut off": ("laplace", lambda f: truncate(f / "network" / "config.json"), "config.json"),
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
    "network gone": ("laplace", lambda f: shutil.rmtree(f / "network"), "holds no network"),
    "plain weights cut off": ("plain", lambda f: truncate(f / "network" / "model.safetensors"), "SafetensorError"),
    "members gone": ("ensemble", lambda f: shutil.rmtree(f / "members"), "cannot be loaded"),
    "member damaged": (
        "ensemble",
        lambda f: truncate(f / "members" / "1" / "posterior.safetensors"),
        "members/1",
    ),
    "unknown structure": (
        "laplace",
        lambda f: edit(f / "teacher.json", lambda d: d["settings"].update(structure="round")),
        "cannot be loaded",
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
    edit(folder / "teacher.json", lambda d: d.pop("files"))  # as if it had been saved so
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
    refused(folder, "pickled ones (pytorch_model.bin) could run code")
