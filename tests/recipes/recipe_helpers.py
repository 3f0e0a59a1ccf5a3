"""Running recipes: in this process, or as a user does in processes of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hf_bkd.study import StudyArguments, main

ROOT = Path(__file__).parents[2]
CIFAR100 = ROOT.parent / "shared" / "data" / "cifar100"
needs_cifar100 = pytest.mark.skipif(not CIFAR100.is_dir(), reason="the real CIFAR-100 files are not here")
SMALL = {
    "dataset": CIFAR100, "seeds": 0, "teacher_model": "wrn_16_1_cifar", "student_model": "wrn_16_1_cifar",
    "max_train_samples": 200, "validation_size": 100, "max_test_samples": 100, "views": 2, "num_train_epochs": 1,
    "num_samples": 3, "workers": 1, "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip


def load(recipe: str) -> ModuleType:
    if str(ROOT / "recipes") not in sys.path:
        sys.path.insert(0, str(ROOT / "recipes"))
    spec = importlib.util.spec_from_file_location(recipe, ROOT / "recipes" / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(output_dir: Path, options: dict) -> list[str]:
    given = {"--output_dir": output_dir} | {f"--{name}": value for name, value in options.items()}
    return [str(part) for pair in given.items() for part in pair]


def run(recipe: str, output_dir: Path, **options) -> dict:
    """The results of a recipe that ends well, in this process."""
    module = load(recipe)
    defaults = getattr(module, "defaults", None) or module.DEFAULTS
    main(module.study, defaults, words(output_dir, options), getattr(module, "Arguments", StudyArguments))
    return json.loads((output_dir / "results.json").read_text())


def status(recipe: str, output_dir: Path, **options) -> int:
    """The exit status of one that may not."""
    try:
        run(recipe, output_dir, **options)
    except SystemExit as stop:
        return stop.code
    return 0


def command(recipe: str, output_dir: Path, options: dict, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), *words(output_dir, options)]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run_as_command(recipe: str, output_dir: Path, options: dict, processes: int = 1) -> dict:
    done = subprocess.run(
        command(recipe, output_dir, options, processes), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"report: {output_dir / 'report.md'}" in done.stdout
    return json.loads((output_dir / "results.json").read_text())
