"""What an import brings along: as little as is needed, and yet timm always knows our networks."""

import subprocess
import sys

import pytest

TRAINING = ("torch._dynamo", "transformers.modeling_utils", "scipy", "torchvision")  # seconds each, most of it torch's
UNUSED = ("timm", "laplace", "sklearn", "evaluate", "matplotlib", "scipy.stats")
HELPS = ["--help", "teacher --help"]
IMPORTED = "import sys; print('imported', *sys.modules)"


def imported_after(code: str, *arguments: str) -> set[str]:
    """Modules that a fresh process has imported when it ends."""
    code = f"import atexit\n@atexit.register\ndef tell():\n    {IMPORTED}\n{code}"
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.splitlines()[-1].split()[1:])


def test_the_package_alone_imports_nothing_that_is_heavy():
    imported = imported_after("import hf_bkd; hf_bkd.UserError; assert len(dir(hf_bkd)) > 30")
    assert "hf_bkd.utils.errors" in imported
    assert not imported & {"torch", "numpy", "timm", "transformers", "datasets", "accelerate", "huggingface_hub"}


@pytest.mark.parametrize("arguments", HELPS)
def test_help_needs_no_torch(arguments):
    imported = imported_after("import sys; from hf_bkd.cli import main; main(sys.argv[1:])", *arguments.split())
    assert "hf_bkd.cli" in imported
    assert not imported & {"torch", "numpy", "timm", "transformers", "datasets", "accelerate"}


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ("Views, CropAndFlip, Perceptron, convergence_noise, uncertainty_report", ("datasets", "transformers")),
        ("LaplaceTeacher, VariationalTeacher, MultiTeacher", TRAINING),
        ("add_soft_labels, push_soft_labels, ImagePreprocessor, load_splits", TRAINING),
        pytest.param("DistillationTrainer, DiagnosticsCallback, BatchedDataset", (), marks=pytest.mark.slow),
    ],
)
def test_a_public_name_brings_no_more_than_it_needs(names, absent):
    imported = imported_after(f"from hf_bkd import {names}")
    assert "torch" in imported
    assert not imported & {*absent, *UNUSED}
