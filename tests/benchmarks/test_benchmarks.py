"""The arithmetic of the benchmarks' harness, on sides whose cost is known."""

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(script: str):
    spec = importlib.util.spec_from_file_location(f"bench_{script}", BENCHMARKS / f"{script}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def harness():
    return load("harness")


@pytest.fixture
def side(harness, monkeypatch) -> Callable:
    """Makes sides that take a given time on a clock of their own, and note that they ran."""
    clock = SimpleNamespace(now=0.0, log=[])
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def make(name: str, seconds: float) -> Callable:
        def run() -> None:
            clock.now += seconds
            clock.log.append(name)

        run.log = clock.log
        return run

    return make


def test_a_ratio_is_the_median_of_the_rounds_ratios(harness):
    pairs = [(1.0, 1.0), (2.0, 1.0), (30.0, 10.0), (4.0, 1.0), (1000.0, 1.0)]  # 1, 2, 3, 4, 1000
    claim = harness.claim_of("ours / theirs", pairs, 3)
    assert (claim.ratio, claim.runs, claim.better, claim.sides) == (3, 5, "lower", "4 s against 1 s")
    assert claim.spread == pytest.approx([1.4, 601.6])  # numpy's percentiles, which interpolate


def test_a_speedup_is_theirs_over_ours(harness):
    claim = harness.claim_of("theirs / ours", [(1.0, 100.0), (1.0, 200.0), (2.0, 600.0)], 100, "higher")
    assert (claim.ratio, claim.verdict) == (200, "pass")


@pytest.mark.parametrize(
    ("bar", "better", "verdict"),
    [
        (2, "lower", "pass"),
        (1.99, "lower", "FAIL"),
        (2, "higher", "pass"),
        (2.01, "higher", "FAIL"),
        (None, "lower", "reported"),
    ],
)
def test_verdicts(harness, bar, better, verdict):
    pairs = [(2.0, 1.0) if better == "lower" else (1.0, 2.0)]
    assert harness.claim_of("", pairs, bar, better).verdict == verdict


def test_sides_take_turns_until_time_is_up(harness, side):
    ours, theirs = side("A", 3.0), side("B", 1.0)
    claim = harness.Bench(torch.device("cpu"), seconds=40).slowdown("", ours, theirs, None)
    assert (claim.ratio, claim.runs) == (3, 10)
    first_calls, rounds = ours.log[:2], "".join(ours.log[2:])
    assert first_calls == ["A", "B"] and rounds == "ABBA" * 5


def test_long_sides_have_seven_rounds_all_the_same(harness, side):
    assert harness.Bench(torch.device("cpu"), seconds=1).speedup("", side("A", 50), side("B", 100), None).runs == 7


def test_short_sides_are_timed_over_many_calls(harness, side):
    ours = side("A", 0.001)
    claim = harness.Bench(torch.device("cpu"), seconds=0).slowdown("", ours, side("B", 0.5), None)
    assert claim.ratio == pytest.approx(0.002)
    assert ours.log.count("A") == 2 + 7 * 20 and ours.log.count("B") == 2 + 7


def test_peak_of_allocations(harness):
    assert harness.peak_of([5, 5, -5, 3, -8]) == 10
    assert harness.peak_of([-4, 3]) == 0  # released what was there before
    assert harness.size_of([torch.zeros(3, 4), torch.zeros(2, dtype=torch.uint8)]) == 50


def test_working_memory_counts_what_is_held_together(harness):
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(1000, 1000)

    def together() -> list:
        return [torch.zeros(1000, 1000) for _ in range(3)]

    bench = harness.Bench(torch.device("cpu"))
    assert bench.working_memory(one_after_the_other) == pytest.approx(4e6, rel=0.01)
    assert bench.working_memory(together) == pytest.approx(12e6, rel=0.01)


def test_a_missed_bar_is_told_and_is_no_error(harness, tmp_path, monkeypatch, capsys):
    def subject(bench):
        yield harness.claim_of("slow", [(3.0, 1.0)] * 7, 2)
        yield harness.claim_of("quick", [(1.0, 1.0)] * 7, 2)
        yield harness.claim_of("told", [(1.0, 1.0)] * 7, None)

    monkeypatch.setattr(sys, "argv", ["bench", "--threads", "1"])
    monkeypatch.setattr(harness, "described", lambda device: {"hardware": device.type})  # imports the whole library
    harness.main(subject, output=tmp_path / "results.json")
    shown = capsys.readouterr().out
    assert "FAIL      slow" in shown and "pass      quick" in shown and "1 of 2 bars met" in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["environment"] == {"hardware": "cuda" if torch.cuda.is_available() else "cpu"}
    assert results["claims"][0] == {
        "claim": "slow",
        "ratio": 3.0,
        "bar": 2,
        "better": "lower",
        "runs": 7,
        "spread": [3.0, 3.0],
    }
    assert [claim["bar"] for claim in results["claims"]] == [2, 2, None]


def test_the_laplace_teacher_that_is_timed_does_draw():
    subjects, cpu = load("subjects"), torch.device("cpu")
    teacher = subjects.laplace_of_head(4, cpu)
    assert teacher.predict(subjects.features(3, 4, cpu), 10, return_samples=True).samples.shape == (10, 3, 100)
    network = subjects.head_only(4, cpu)
    network.num_features = 4
    assert subjects.laplace_of(network, cpu).link == "mc"


def test_physical_cores(harness):
    assert 1 <= harness.physical_cores() <= os.cpu_count()


def test_run_all_runs_every_script_and_each_names_itself():
    scripts = {path.stem: path.read_text() for path in BENCHMARKS.glob("*.py")}
    subjects = {name for name, text in scripts.items() if "def claims(" in text}
    listed = re.search(r"^SUBJECTS = (.*)$", scripts["run_all"], re.MULTILINE).group(1).split(", ")
    assert set(listed) == subjects and len(subjects) >= 4
    for name in subjects:
        assert f"python benchmarks/{name}.py" in scripts[name]
