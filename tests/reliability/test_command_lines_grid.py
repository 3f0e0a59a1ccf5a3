"""Malformed values of every argument of the commands, by kind, with the exact sentence.

Beside the single ones of ``test_command_lines``.
"""

from itertools import product

import pytest

from tests.reliability.test_command_lines import FILES, FLOAT, HELP, INT, LINES, said

COUNTS = {
    "label": ("views", "top_k", "batch_size", "num_samples", "seed"),
    "evaluate": ("num_samples",),
    "theory": ("steps", "seed"),
    "study": (
        "num_samples", "workers", "ensemble_size", "validation_size", "max_train_samples", "views", "seed",
        "per_device_train_batch_size",
    ),
}  # fmt: skip
RATES = {
    "label": ("temperature",),
    "theory": ("rate",),
    "study": ("learning_rate", "weight_decay", "max_grad_norm", "kd_lambda", "num_train_epochs", "teacher_epochs"),
}
WORDS = {"label": ("storage", "variance", "augmentation", "mixed_precision"), "study": ("lr_scheduler_type", "optim")}
GIVEN = {"label": ["--output_dir=o"]}


def named(command: str, name: str) -> str:
    """An argument as messages call it: with both spellings where there are two."""
    both = f"/--{name.replace('_', '-')}" if command in ("study", "theory") and "_" in name else ""
    return f"argument --{name}{both}"


def each(kinds: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(command, name) for command, names in kinds.items() for name in names]


NO_COUNTS = list(product(each(COUNTS), ("x", "1.5", "1e3")))
NO_RATES = list(product(each(RATES), ("x", "1,5")))
MISSING = [*each(COUNTS), *each(RATES), *each(WORDS)]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("place", "value"), NO_COUNTS)
def test_what_is_no_whole_number(capsys, place, value):
    command, name = place
    words = said(capsys, command, [*GIVEN.get(command, []), f"--{name}", value])
    assert words == f"{named(command, name)}: {INT} '{value}'{HELP}"


@pytest.mark.parametrize(("place", "value"), NO_RATES)
def test_what_is_no_number(capsys, place, value):
    command, name = place
    words = said(capsys, command, [*GIVEN.get(command, []), f"--{name}", value])
    assert words == f"{named(command, name)}: {FLOAT} '{value}'{HELP}"


@pytest.mark.parametrize(("command", "name"), MISSING)
def test_an_argument_without_its_value(capsys, command, name):
    words = said(capsys, command, [*GIVEN.get(command, []), f"--{name}"])
    assert words == f"{named(command, name)}: expected one argument{HELP}"


@pytest.mark.parametrize(("command", "name"), each(WORDS))
def test_a_word_that_is_none_of_the_choices(capsys, command, name):
    words = said(capsys, command, [*GIVEN.get(command, []), f"--{name}=nonsense"])
    assert words.startswith(f"{named(command, name)}: invalid choice: 'nonsense' (choose from ")


def test_there_are_150_with_those_of_the_other_file():
    assert len(LINES) + len(FILES) + len(NO_COUNTS) + len(NO_RATES) + len(MISSING) + len(each(WORDS)) >= 150
