"""Imports run one way, from the ground up, and every file stands in a room."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import hf_bkd
from hf_bkd._moved import MOVED

PACKAGE = Path(__file__).parents[2] / "hf_bkd"
# from the ground up; a room imports from itself and from the lines before its own, from nothing else
FLOORS = """
utils
metrics
targets uncertainty
dirichlet conformal
likelihoods
distances
losses hub models
theory
data reports
language
teachers
soft_labels
responses
training
study
cli
""".strip().splitlines()
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor.split()}
FRONT_PAGE = {"__init__", "_moved"}  # give names on from all rooms


def room_of(module: str) -> str:
    """The room of ``hf_bkd.ROOM...``; "" of what is not ours."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "hf_bkd" else ""


@cache
def imported(file: Path, lazily: bool = False) -> set[str]:
    """Modules that a file imports when it is loaded (or also later), our own with their full names."""
    home = ("hf_bkd", *file.relative_to(PACKAGE).parts[:-1])
    modules, tree = set(), ast.parse(file.read_text())
    for node in ast.walk(tree) if lazily else tree.body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(home[: len(home) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            inner = {f"{module}.{alias.name}" for alias in node.names if file_of(f"{module}.{alias.name}")}
            modules |= inner or {module}
    return modules


@cache
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


def outside(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules} - {"hf_bkd", *sys.stdlib_module_names}


def test_every_file_stands_in_a_room_and_imports_only_from_the_floors_below():
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in FRONT_PAGE:
            continue
        assert room in FLOOR, f"{file} stands in no room"
        for module in filter(room_of, imported(file, lazily=True)):
            other = room_of(module)
            assert other == room or FLOOR[other] < FLOOR[room], f"{file} imports {module}, which stands above it"


@pytest.mark.parametrize(
    "name",
    [
        "theory",
        "targets",
        "losses",
        "metrics",
        "uncertainty",
        "data/views",
        "utils/random",
        "teachers/langevin_dynamics",
        "teachers/mcmc_diagnostics",
    ],
)
def test_the_mathematics_imports_torch_alone(name):
    path = PACKAGE / name
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert files and outside(reached(*files)) <= {"torch"}


def test_teachers_know_nothing_of_datasets_and_the_trainer_nothing_of_teachers():
    assert "datasets" not in outside(reached(*(PACKAGE / "teachers").glob("*.py")))
    assert not any(room_of(module) == "teachers" for module in reached(PACKAGE / "training" / "trainer.py"))


def test_names_of_the_front_page_are_told_to_editors_too():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    told = {alias.name: node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    for name in hf_bkd.__all__:
        assert told[name].module == hf_bkd._HOME[name]
        assert getattr(hf_bkd, name).__name__ == name


@pytest.mark.parametrize("room", ["soft_labels", "training"])
def test_a_rooms_front_page_says_what_each_of_its_files_is_for(room):
    words = set(re.findall(r"`(\w+)`", ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))))
    assert words == {file.stem for file in (PACKAGE / room).glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("old", MOVED)
def test_a_module_that_moved_is_found_by_its_old_name_for_a_release(old):
    with pytest.warns(DeprecationWarning, match=MOVED[old]):
        sys.modules.pop(f"hf_bkd.{old}", None)
        module = __import__(f"hf_bkd.{old}", fromlist=["name"])
    assert module is sys.modules[f"hf_bkd.{MOVED[old]}"]
    assert module.__spec__.name == module.__name__
