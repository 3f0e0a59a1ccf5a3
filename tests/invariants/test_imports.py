"""Imports run downward: the mathematics knows torch alone, teachers no datasets, the trainer no teachers."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hf_bkd"


def imported(file: Path) -> set[str]:
    """Modules that a file imports when it is loaded, our own with their full names."""
    home = ("hf_bkd", *file.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(home[: len(home) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names if file_of(f"{module}.{alias.name}")}
    return found


def file_of(module: str) -> Path | None:
    path = PACKAGE.parent / module.replace(".", "/")
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


def reached(*starts: Path) -> set[str]:
    """All that is imported by some files and by what they import of ours; not by the package's own front page."""
    seen, todo = set(), list(starts)
    while todo:
        for module in imported(todo.pop()) - seen:
            seen.add(module)
            file = file_of(module) if module.startswith("hf_bkd.") else None
            if file is not None:
                todo.append(file)
    return seen


def foreign(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules} - {"hf_bkd", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "name",
    [
        "theory",
        "targets",
        "losses",
        "metrics",
        "views",
        "noise",
        "predictive",
        "langevin",
        "convergence",
        "uncertainty",
    ],
)
def test_the_mathematics_imports_torch_alone(name):
    path = PACKAGE / name
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert files and foreign(reached(*files)) <= {"torch"}


def test_teachers_know_nothing_of_datasets_and_the_trainer_nothing_of_teachers():
    teachers = reached(*(PACKAGE / "teachers").glob("*.py"))
    assert "datasets" not in foreign(teachers)
    assert not any(module.startswith(("hf_bkd.soft_labels", "hf_bkd.trainer")) for module in teachers)
    assert not any(module.startswith("hf_bkd.teachers") for module in reached(PACKAGE / "trainer.py"))
