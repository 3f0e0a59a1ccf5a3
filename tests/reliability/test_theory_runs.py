"""Recipes of theory that are started twice or killed."""

import json
import os
import time

import pytest

from hf_bkd.reports.claims import Check, Claim, main
from hf_bkd.utils.locks import LOCK_FILE
from tests.reliability.real_processes import forked, killed, used_by_another, wait_for


def one_claim(options) -> list[Claim]:
    return [Claim("A claim", "A text.", "a source", [Check("a number", 1, 1 + options.seed)])]


def run(folder, claims=one_claim, seed: int = 0) -> int:
    try:
        main("theory_test", "A note.", claims, argv=[f"--output_dir={folder}", f"--seed={seed}"])
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_second_start_names_the_first_and_computes_nothing(tmp_path, capsys):
    with used_by_another(tmp_path / "run", tmp_path / "log") as process:
        assert run(tmp_path / "run", lambda options: pytest.fail("it ran")) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: {tmp_path / 'run'} is in use by process {process} on ") and "\n" not in said
    assert run(tmp_path / "run") == 0


def test_of_two_at_once_the_first_finishes(tmp_path):
    folder, began = tmp_path / "run", tmp_path / "began"

    def slow(options):
        began.touch()
        wait_for((tmp_path / "go").exists)
        return one_claim(options)

    first = forked(lambda: run(folder, slow), tmp_path / "log")
    wait_for(began.exists)
    assert run(folder, seed=1) == 2
    (tmp_path / "go").touch()
    os.waitpid(first, 0)
    assert json.loads((folder / "results.json").read_text())["checks"][0]["measured"] == 1
    assert not (folder / LOCK_FILE).exists()


def test_a_killed_one_is_in_nobodys_way(tmp_path):
    folder = tmp_path / "run"
    assert killed(lambda: run(folder, lambda options: time.sleep(600)), tmp_path / "log", 1)
    (folder / ".results.json.unfinished.abc").touch()  # as a death within a write leaves it
    assert run(folder) == 0
    left = {path.name for path in folder.iterdir()}
    assert left == {"results.json", "report.md"}
