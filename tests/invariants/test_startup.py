"""What an import brings along: as little as is needed, and yet timm always knows our networks."""

import subprocess
import sys

import pytest

TRAINING = ("torch._dynamo", "transformers.modeling_utils", "scipy", "torchvision")
UNUSED = ("timm", "laplace", "sklearn", "evaluate", "matplotlib", "scipy.stats")
STAGES = [  # public names, lightest first, and what they do without
    ("UserError", ("torch", "numpy")),
    ("Views, CropAndFlip, Perceptron, convergence_noise, uncertainty_report", ("datasets", "transformers")),
    ("LaplaceTeacher, VariationalTeacher, MultiTeacher", TRAINING),
    ("add_soft_labels, push_soft_labels, ImagePreprocessor, load_splits", TRAINING),
]
HELPS = ["--help", "teacher --help"]


def imported_after(code: str, *arguments: str) -> set[str]:
    """Modules that a fresh process has imported when it ends."""
    code = f"import atexit, sys; atexit.register(lambda: print('imported', *sys.modules))\n{code}"
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.splitlines()[-1].split()[1:])


def test_the_package_alone_imports_nothing_that_is_heavy():
    imported = imported_after("import hf_bkd; hf_bkd.UserError; assert len(dir(hf_bkd)) > 30")
    assert "hf_bkd.utils.errors" in imported
    assert not imported & {"torch", "numpy", "timm", "transformers", "datasets", "accelerate", "huggingface_hub"}


@pytest.mark.parametrize("arguments", HELPS)
def test_help_needs_no_torch(arguments):
    imported = imported_after("from hf_bkd.cli import main; main(sys.argv[1:])", *arguments.split())
    assert "hf_bkd.cli" in imported
    assert not imported & {"torch", "numpy", "timm", "transformers", "datasets", "accelerate"}


def test_a_public_name_brings_no_more_than_it_needs():
    imported_after(f"""
for names, absent in {STAGES!r}:
    exec(f"from hf_bkd import {{names}}")
    unneeded = set(sys.modules) & {{*absent, *{UNUSED!r}}}
    assert not unneeded, f"{{names}}: {{unneeded}}"
""")


@pytest.mark.slow
def test_the_trainer_brings_no_more_than_transformers():
    imported = imported_after("from hf_bkd import DistillationTrainer, DiagnosticsCallback, BatchedDataset")
    assert "transformers.trainer" in imported and not imported & set(UNUSED)
