"""timm and transformers know our networks, whatever is imported first."""

import importlib
import importlib.util
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import timm
import torch

from hf_bkd.models import registration
from hf_bkd.models.classifier import create_classifier
from hf_bkd.models.registration import TimmFinder, register_networks

KNOWN = """
import timm
assert timm.is_model("cnn6_small") and "resnet18_cifar" in timm.list_models()
assert type(timm.create_model("wrn_16_1_cifar")).__name__ == "CifarResNet"
"""
ORDERS = {
    "hf_bkd first": "import hf_bkd, timm",
    "timm first": "import timm, hf_bkd",
    "a module of timm": "import hf_bkd; from timm.models import create_model",
    "a network's module": "from hf_bkd.models.cifar_resnet import CIFAR100_MEAN",
    "asked whether timm is there": "import hf_bkd, importlib.util; importlib.util.find_spec('timm')",
    "transformers first": "import transformers; transformers.TimmWrapperConfig; import hf_bkd",
    "by transformers": "import hf_bkd, transformers; transformers.TimmWrapperConfig",
}
LOADED = """
import sys, hf_bkd
from transformers import AutoModelForImageClassification
assert "timm" not in sys.modules
network = AutoModelForImageClassification.from_pretrained(sys.argv[1])
assert type(network.timm_model).__name__ == "SmallCnn"
"""
SPAWNED = """
import multiprocessing
import hf_bkd

def is_known(name):
    import timm
    return timm.is_model(name)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(is_known, ("resnet18_cifar",))
"""
PICKLED = "import pickle, sys; assert pickle.load(open(sys.argv[1], 'rb')).fc.out_features == 7"


def run(*words: str) -> None:
    process = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def finder_of(modules: dict[str, object]) -> SimpleNamespace:
    return SimpleNamespace(find_spec=lambda name, path=None, target=None: modules.get(name))


@pytest.fixture
def ends(monkeypatch) -> list[str]:
    """Collects the moments at which the networks are imported."""
    moments = []
    monkeypatch.setattr(registration, "_import_networks", lambda: moments.append("networks"))
    return moments


def test_timms_import_ends_with_that_of_the_networks(monkeypatch, ends):
    loader = SimpleNamespace(create_module=lambda spec: None, exec_module=lambda module: ends.append(module.__name__))
    specs = {name: importlib.util.spec_from_loader(name, loader) for name in ("timm", "timm_and_more")}
    monkeypatch.setattr(sys, "meta_path", [TimmFinder(), TimmFinder(), finder_of(specs)])  # of two copies of hf_bkd
    for name in specs:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, None)  # so that monkeypatch removes what is imported here
        del sys.modules[name]
    assert importlib.util.find_spec("timm") is specs["timm"] and not ends  # asking imports nothing
    importlib.import_module("timm")
    assert ends[0] == "timm" and set(ends[1:]) == {"networks"}
    ends.clear()
    importlib.import_module("timm_and_more")  # of the same loader, as the modules of a zip file are
    assert ends == ["timm_and_more"]


def test_without_timm_nothing_is_found(monkeypatch, ends):
    monkeypatch.setattr(sys, "meta_path", [TimmFinder()])
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(ModuleNotFoundError, match="No module named 'timm'"):
        importlib.import_module("timm")
    assert not ends


def test_networks_are_registered_at_once_with_a_timm_that_is_there(monkeypatch, ends):
    before = list(sys.meta_path)
    register_networks()
    assert ends == ["networks"] and sys.meta_path == before
    monkeypatch.setattr(sys, "meta_path", before)
    monkeypatch.setitem(sys.modules, "timm", None)  # told to be absent
    register_networks()
    register_networks()
    assert ends == ["networks"]
    assert sum(isinstance(finder, TimmFinder) for finder in sys.meta_path) == 1


@pytest.mark.parametrize("name", ["cnn6_small", "wrn_16_1_cifar"])
def test_networks_are_pickled(name):
    network = timm.create_model(name, num_classes=7).eval()
    images = torch.randn(2, network.pretrained_cfg["input_size"][0], 8, 8)
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(again(images), network(images))
    assert type(again) is type(network)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_timm_knows_the_networks_in_every_order_of_imports(order):
    run("-c", ORDERS[order] + KNOWN)


@pytest.mark.slow
def test_a_saved_network_is_loaded_by_transformers_after_our_import_alone(tmp_path):
    create_classifier("cnn6_small", 3, in_chans=1, image_size=8, mean=[0.5], std=[0.5]).save_pretrained(tmp_path)
    run("-c", LOADED, tmp_path)


@pytest.mark.slow
def test_processes_know_the_networks_that_are_spawned_or_given_a_pickle(tmp_path):
    (tmp_path / "program.py").write_text(SPAWNED)
    run(tmp_path / "program.py")
    (tmp_path / "network.pkl").write_bytes(pickle.dumps(timm.create_model("resnet20_cifar", num_classes=7)))
    run("-c", PICKLED, tmp_path / "network.pkl")
