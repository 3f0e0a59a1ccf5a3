"""The report says what the numbers say: tables against hand computation, and pictures that are there and not blank."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from hf_bkd.reports.report import print_summary, write_report
from hf_bkd.reports.results import REFERENCE, summary_table

ACCURACY = {  # arm -> accuracy of seeds 0, 1, 2
    "one-hot": (0.860, 0.850, 0.870),
    "deterministic": (0.870, 0.852, 0.868),
    "Laplace": (0.892, 0.871, 0.889),
    "broken | $x$ [b]": (0.700, 0.690, 0.710),
}
TEACHERS = {"one-hot": "none", "deterministic": "deterministic", "Laplace": "laplace"}


def record(arm, seed, accuracy, condition="", **changes):
    rng = np.random.default_rng(seed)
    teacher = TEACHERS.get(arm, "laplace")
    curve = accuracy - 0.3 * np.exp(-np.arange(12) / 2) + rng.normal(0, 0.005, 12)
    count = [0, 0, 1, 2, 3, 5, 8, 13, 21, 34]
    bins = [None if n == 0 else i / 10 + 0.05 for i, n in enumerate(count)]
    fields = {
        "arm": arm,
        "condition": condition,
        "teacher": teacher,
        "student": "cnn4",
        "seed": seed,
        "kd_lambda": 1.0,
        "teacher_temperature": 1.0,
        "student_temperature": 1.0,
        "num_samples": 10 if teacher == "laplace" else 1,
        "views": 1,
        "seconds": 10.0 + seed,
        "noise_window": 5,
        "metrics": {
            "accuracy": accuracy,
            "nll": 0.5 + seed / 10,
            "ece": 0.1,
            "brier": 0.2,
            "best_accuracy": 0.9,
            "convergence_noise": float(np.std(curve[-5:], ddof=1)),
            "agreement": None if teacher == "none" else 0.9 + seed / 100,
        },
        "teacher_metrics": None if teacher == "none" else {"accuracy": 0.91, "nll": 0.3, "ece": 0.1, "brier": 0.1},
        "history": {"epoch": list(map(float, range(1, 13))), "accuracy": curve.tolist()},
        "reliability": {"confidence": bins, "accuracy": bins, "count": count},
    }
    return fields | changes


def results(arms=ACCURACY, seeds=(0, 1, 2), conditions=("",), **changes):
    records = [
        record(arm, seed, ACCURACY[arm][seed], condition, **changes)
        for condition in conditions
        for seed in seeds
        for arm in arms
    ]
    return {
        "recipe": "digits",
        "dataset": "my/digits",
        "environment": {"torch": "2.0", "hardware": "2 cores"},
        "arms": records,
    }


def bare(**options):
    """Results without curves and bins, so with one plot only."""
    return results(**options, history=None, reliability=None)


def table_lines(text):
    """arm -> cells of the first table of a report."""
    lines = text.split("## Results")[1].split("\n\n")[1].splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:] for line in lines}


def terminal(content, width=200):
    stream = io.StringIO()
    print_summary(content, Console(file=stream, width=width))
    return stream.getvalue()


def test_rows_match_numpy():
    rows = {row["arm"]: row for row in summary_table(results())}
    assert list(rows) == list(ACCURACY)
    for arm, values in ACCURACY.items():
        assert rows[arm]["accuracy"] == pytest.approx((np.mean(values), np.std(values, ddof=1), 3))
        assert rows[arm]["nll"] == pytest.approx((0.6, 0.1, 3))
    difference = np.subtract(ACCURACY["Laplace"], ACCURACY["deterministic"])
    half = stats.t.ppf(0.975, 2) * np.std(difference, ddof=1) / np.sqrt(3)
    mean = difference.mean()
    assert rows["Laplace"]["difference"] == pytest.approx((mean, mean - half, mean + half, 3))
    assert rows[REFERENCE]["difference"] is None
    assert rows["one-hot"]["agreement"].count == rows["one-hot"]["teacher_nll"].count == 0


def test_rows_keep_conditions_apart():
    content = bare(conditions=("noisy", "clean"))
    for entry in content["arms"]:
        if entry["condition"] == "clean" and entry["arm"] == "Laplace":
            entry["metrics"]["accuracy"] = 0.99
    assert len(summary_table(content)) == 8
    noisy, clean = (summary_table(content, name)[2]["accuracy"].mean for name in ("noisy", "clean"))
    assert noisy == pytest.approx(np.mean(ACCURACY["Laplace"])) and clean == pytest.approx(0.99)
    with pytest.raises(ValueError, match="no condition 'other'"):
        summary_table(content, "other")


def test_report_of_one_condition(tmp_path):
    path = write_report(json.loads(json.dumps(results())), tmp_path / "new" / "folder")
    text = path.read_text()
    lines = table_lines(text)
    assert lines["one-hot"] == [
        "3",
        "86.00 ± 1.00",
        "-0.33 [-1.85, +1.18]",
        "0.600 ± 0.100",
        "0.100 ± 0.000",
        "0.200 ± 0.000",
        lines["one-hot"][6],
        "–",
        "–",
        "–",
    ]
    assert lines["deterministic"][2] == "reference" and lines["deterministic"][-1] == "91.00 ± 1.00"
    assert lines["broken \\| $x$ [b]"][0] == "3"
    assert "Better than the deterministic teacher beyond seed noise: Laplace (+2.07 points)." in text
    assert "Worse than the deterministic teacher beyond seed noise: broken | $x$ [b] (-16.33 points)." in text
    assert "Not distinguishable from it: one-hot." in text
    assert "# digits on my/digits" in text and "12 runs of 4 arms, with seeds 0, 1, 2" in text
    assert "over the last 5 evaluations" in text and "\n### " not in text and "nan" not in text
    assert "| Laplace | laplace | 1 | 1 | 1 | 10 | 1 | 11 |" in text and "- hardware: 2 cores" in text
    names = {"report.md", "comparison.png", "accuracy.png", "reliability.png"}
    assert {file.name for file in path.parent.iterdir()} == names  # and nothing temporary
    for name in names - {"report.md"}:
        assert f"]({name})" in text
        with Image.open(path.parent / name) as image:
            assert image.width >= 1200 and len(np.unique(np.asarray(image.convert("L")))) > 20


def test_two_conditions_and_sweeps(tmp_path):
    content = bare(arms=["deterministic", "Laplace"], seeds=(0, 1), conditions=("noisy", "clean"))
    for seed in (0, 1):
        sweep = {"history": None, "reliability": None, "teacher": "laplace", "label_seconds": 1.5 + seed}
        content["arms"] += [
            record("λ = 0.5", seed, 0.88 + seed / 100, "noisy", kd_lambda=0.5, **sweep),
            record("S = 100", seed, 0.89 + seed / 100, "noisy", num_samples=100, **sweep),
            record("tuned", seed, 0.89, "noisy", teacher_temperature=2.0 + seed, **sweep),
        ]
    text = write_report(content, tmp_path).read_text()
    assert {file.stem for file in tmp_path.glob("*.png")} == {"comparison", "sweep_kd_lambda", "sweep_num_samples"}
    assert "### noisy\n" in text and "### clean\n" in text
    assert "weight of the teacher. Arms: λ = 0.5; Laplace." in text
    assert "| noisy | tuned | laplace | 1 | 2, 3 | 1 | 10 |" in text


def test_settings_show_folds_where_there_are_any(tmp_path):
    content = bare()
    for entry in content["arms"]:
        entry["folds"] = 3 if entry["arm"] == "Laplace" else 0
    text = write_report(content, tmp_path).read_text()
    assert (
        "| S | views | folds | seconds a run |" in text
        and "| Laplace | laplace | 1 | 1 | 1 | 10 | 1 | 3 | 11 |" in text
    )


def test_report_leads_to_numbers_and_students_that_are_there(tmp_path):
    assert "](results.json)" not in write_report(bare(), tmp_path).read_text()
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "students").mkdir()
    text = write_report(bare(), tmp_path).read_text()
    assert "[results.json](results.json)" in text and "[`students/CONDITION/seed-S/ARM`](students)" in text


def test_no_arm_differs(tmp_path):
    text = write_report(bare(arms=["one-hot", "deterministic"]), tmp_path).read_text()
    assert "No arm differs from the deterministic teacher beyond seed noise." in text


def test_partial_runs_say_how_many_seeds(tmp_path):
    content = bare()
    content["arms"] = [r for r in content["arms"] if not (r["arm"] == "deterministic" and r["seed"] == 0)]
    content["arms"] = [r for r in content["arms"] if not (r["arm"] == "Laplace" and r["seed"] == 1)]
    content["arms"][0]["metrics"] |= {"convergence_noise": None, "nll": math.nan}
    for entry in content["arms"]:
        entry.pop("condition")
    text = write_report(content, tmp_path).read_text()
    lines = table_lines(text)
    assert lines["Laplace"][:3] == ["2", "89.05 ± 0.21", "+2.10 [–] (1 shared)"]
    assert lines["one-hot"][3] == "0.650 ± 0.071 (2 of 3 seeds)" and "(2 of 3 seeds)" in lines["one-hot"][6]
    assert "Undecided, with fewer than two shared seeds: Laplace." in text and "2 runs are missing" in text
    assert "nan" not in text


def test_single_seed_has_no_interval(tmp_path):
    content = bare(seeds=(1,))
    text = write_report(content, tmp_path).read_text()
    assert table_lines(text)["Laplace"][:4] == ["1", "87.10", "+1.90 [–]", "0.600"]
    assert "nan" not in text and "No arm differs" not in text
    assert "nan" not in terminal(content)


def test_without_the_reference_there_are_no_differences(tmp_path):
    content = bare(arms=["one-hot", "Laplace"])
    text = write_report(content, tmp_path).read_text()
    assert "no differences are given" in text and "vs deterministic (points" not in text
    assert len(table_lines(text)["arm"]) == 9


def test_nothing_measured_is_a_dash(tmp_path):
    content = bare(arms=["deterministic", "Laplace"])
    for entry in content["arms"]:
        entry["metrics"] = dict.fromkeys(entry["metrics"])
        entry |= {"teacher_metrics": None, "seconds": None, "noise_window": None}
    text = write_report(content, tmp_path).read_text()
    assert table_lines(text)["Laplace"] == ["3", *["–"] * 9] and "nan" not in text


def test_no_runs_yet_and_no_arms(tmp_path):
    assert "No run has finished yet" in write_report({"recipe": "r", "arms": []}, tmp_path).read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
    with pytest.raises(ValueError, match='no list "arms"'):
        write_report({"recipe": "theory", "checks": []}, tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "comparison.png").write_bytes(b"old")

    def savefig(self, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    with pytest.raises(OSError, match="disk full"):
        write_report(bare(), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"comparison.png": b"old"}


def test_print_summary_shows_every_arm_and_the_verdict():
    text = terminal(bare(conditions=("noisy", "clean")))
    for word in (
        "noisy",
        "clean",
        "one-hot",
        "broken | $x$ [b]",
        "88.40 ± 1.14",
        "-0.33 [-1.85, +1.18]",
        "reference",
        "Not distinguishable from it:",
    ):
        assert word in text
    assert text.startswith("noisy, 3 seeds\n") and text.endswith(".\n") and not text.endswith("\n\n")


def test_a_terminal_of_80_columns_keeps_numbers_whole_and_indents_long_names():
    content = bare()
    for entry in content["arms"]:
        if entry["arm"] == "Laplace":
            entry["arm"] = "Laplace, whole network, fitted in two steps"
    lines = terminal(content, width=80).splitlines()
    assert "…" not in "".join(lines) and max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.startswith("Laplace, whole network,  "))
    assert "88.40 ± 1.14" in lines[start] and lines[start + 1].rstrip() == "  fitted in two steps"


def test_nothing_is_wrapped_in_a_file(capsys):
    print_summary(bare())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Better than") and lines[-1].endswith("one-hot.")
