"""Running recipes: as a user does, in processes of their own, or quickly in this one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CIFAR100 = ROOT.parent / "shared" / "data" / "cifar100"
needs_cifar100 = pytest.mark.skipif(not CIFAR100.is_dir(), reason="the real CIFAR-100 files are not here")
SMALL = {
    "--dataset": CIFAR100,
    "--seeds": 0,
    "--teacher_model": "resnet8x4_cifar",
    "--student_model": "resnet20_cifar",
    "--max_train_samples": 1000,
    "--views": 2,
    "--max_test_samples": 200,
    "--num_train_epochs": 1,
    "--num_samples": 3,
    "--disable_tqdm": True,
    "--use_cpu": True,
}


def command(recipe: str, output_dir: Path, options: dict, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    flat = [str(part) for pair in options.items() for part in pair]
    return [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), "--output_dir", str(output_dir), *flat]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(recipe: str, output_dir: Path, options: dict, processes: int = 1) -> dict:
    done = subprocess.run(
        command(recipe, output_dir, options, processes), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"report: {output_dir / 'report.md'}" in done.stdout
    return json.loads((output_dir / "results.json").read_text())


def load(recipe: str):
    sys.path.insert(0, str(ROOT / "recipes"))
    spec = importlib.util.spec_from_file_location(recipe, ROOT / "recipes" / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DIGITS = {"--seeds": "0,1", "--num_train_epochs": 1, "--max_train_samples": 300, "--ensemble_size": 2}


def digits(output_dir: Path, **options) -> int:
    """Run the demo in this process; returns its exit status."""
    from hf_bkd.study import main

    recipe = load("digits")
    given = DIGITS | {"--workers": 1} | {f"--{name}": value for name, value in options.items()}
    try:
        main(recipe.STUDY, recipe.DEFAULTS, ["--output_dir", str(output_dir), *map(str, sum(given.items(), ()))])
    except SystemExit as stop:
        return stop.code
    return 0
