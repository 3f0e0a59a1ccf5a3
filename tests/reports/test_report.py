"""The report says what the numbers say: tables against hand computation, and pictures that are there and not blank."""

import copy
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from hf_bkd.reports.claims import Check
from hf_bkd.reports.comparisons import Difference
from hf_bkd.reports.pages import values_of, verdict
from hf_bkd.reports.report import print_summary, write_report
from hf_bkd.reports.results import MEASURES, REFERENCE, by_condition, kind_of, summary_table
from hf_bkd.reports.swept_settings import by_example_cells, sweeps_of
from hf_bkd.utils.errors import UserError

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


def tables(text):
    """arm -> cells of the five columns, and of the folded ones, of the first condition."""
    parts = [part for part in text.split("## Results")[1].split("\n\n") if part.startswith("| ")][:2]
    return [
        {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in part.splitlines())}
        for part in parts
    ]


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
    level = 1 - 0.05 / 2  # its p-value is the second smallest of three
    half = stats.t.ppf((1 + level) / 2, 2) * np.std(difference, ddof=1) / np.sqrt(3)
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
    main, details = tables(text)
    assert main["arm"] == ["accuracy", "vs deterministic (points, [95 % CI, Holm])", "NLL", "ECE"]
    assert main["one-hot"] == ["86.00 ± 1.00", "-0.33 [-1.85, +1.18]", "0.600 ± 0.100", "0.100 ± 0.000"]
    assert main["deterministic"][1] == "reference" and details["deterministic"][-3] == "91.00 ± 1.00"
    assert details["one-hot"][:2] == ["3", "0.200 ± 0.000"]
    assert details["one-hot"][3:] == ["–", "–", "–", "0.444", "1.89"]  # p is 4 / 9
    assert details["broken \\| \\$x\\$ [b]"][0] == "3"
    lines = text.splitlines()
    assert lines[0] == "# Digits" and lines[2] == (
        "- **Finding, with three seeds.** Better than the deterministic teacher: Laplace (+2.07 [+1.52, +2.61] "
        "points). Worse than the deterministic teacher: broken \\| \\$x\\$ [b] (-16.33 [-19.03, -13.64] points). Not "
        "distinguishable from it: one-hot (the smallest difference that could have been seen, with 80 % power: 1.89 "
        "points). The "
        "lowest ECE of three arms with a teacher is 0.100 (deterministic), of 1 without one 0.100 (one-hot): +0.000 "
        "[+0.000, +0.000], not distinguishable."
    )
    assert lines[3] == "- **Data.** my/digits, 87 test examples. 12 runs of 4 arms; the student is cnn4."
    assert lines[4].startswith("- **Limits.** Three seeds: ") and "corrected for the arms compared" in lines[4]
    assert "over the last 5 evaluations" in text and "\n### " not in text and "nan" not in text
    assert "| Laplace | laplace | 1 | 1 | 1 | 10 | 1 | 11 |" in text and "- hardware: 2 cores" in text
    names = {"report.md", "comparison.png", "accuracy.png", "reliability.png"}
    assert {file.name for file in path.parent.iterdir()} == names  # and nothing temporary
    for name in names - {"report.md"}:
        assert f"]({name})" in text
        with Image.open(path.parent / name) as image:
            assert image.width >= 800 and len(np.unique(np.asarray(image.convert("L")))) > 20
        assert (path.parent / name).stat().st_size < 120_000


def test_a_null_is_printed_as_a_null_and_many_arms_by_their_ends(tmp_path):
    rows = summary_table(results(arms=["one-hot", "deterministic"]))
    assert verdict(rows) == (
        "Not distinguishable from the deterministic teacher: one-hot (the smallest difference that could have been "
        "seen, with 80 % power: 1.89 points)."
    )
    reference, better = summary_table(results(arms=["deterministic", "Laplace"]))
    many = [reference] + [
        {**better, "arm": f"arm {i}", "difference": Difference(i / 100, 0.001, 0.1, 3)} for i in range(1, 6)
    ]
    assert verdict(many) == (
        "Better than the deterministic teacher: five arms, arm 5 (+5.00 [+0.10, +10.00] points) to arm 1 (+1.00 "
        "[+0.10, +10.00] points)."
    )


@pytest.mark.parametrize("said", [{}, {"label_noise": 0.3}])
def test_no_ece_is_printed_where_labels_are_noisy(said, tmp_path):
    name = "noisy" if said else "30 % label noise"
    content = results(conditions=(name,), history=None, **said)
    text = write_report(content, tmp_path).read_text()
    assert "ECE" not in text.split("## Results")[1].split("## Plots")[0] and "The lowest ECE" not in text
    assert (
        tables(text)[0]["arm"][-1] == "convergence noise" and f"ECE is omitted where labels are noisy ({name})" in text
    )
    clean = bare(conditions=(name,), label_noise=0.0)  # what the record says counts more than a name
    assert tables(write_report(clean, tmp_path).read_text())[0]["arm"][-1] == "ECE"


def test_chains_that_have_not_mixed_are_said_to(tmp_path):
    content = bare(arms=["deterministic", "Laplace"])
    for entry in content["arms"]:
        entry["uncertainty"] = {
            "credible_sets": [
                {"level": 0.9, "coverage": 0.88, "size": 2.5},
                {"level": 0.95, "coverage": 0.9, "size": 3.0},
            ],
            "chains": {"rhat max": 1.05 if entry["arm"] == "Laplace" else 1.2},
        }
    text = write_report(content, tmp_path).read_text()
    assert "for all begin in one place" in text and "ended in different places" not in text
    assert "The chains of 1 of 2 arms have not mixed (largest R-hat, mean over seeds, above 1.1)" in text
    assert "| Laplace | 0.880 ± 0.000 | 2.50 ± 0.00 | 1.05 ± 0.00 |" in text and "](credible_sets.png)" in text


def test_chains_that_ended_in_different_places_are_said_to_however_their_mean_looks(tmp_path):
    content = bare(arms=["deterministic", "Laplace"])
    for number, entry in enumerate(content["arms"]):
        sets = [{"level": 0.9, "coverage": 0.88, "size": 2.5}]
        chains = {"rhat max": 1.02, "apart": 3.0 if number == 0 else 0.1}
        entry["uncertainty"] = {"credible_sets": sets, "chains": chains | ({"apart": None} if number == 1 else {})}
    text = write_report(content, tmp_path).read_text()
    assert f"In 1 of {len(content['arms'])} runs chains that began in different places ended in different" in text
    assert "have not mixed (" not in text and "The chains begin dispersed" in text


def test_what_strangers_wrote_stays_text(tmp_path):
    evil = "x\r# Owned\u2028<script>alert(1)</script> [a](javascript:alert(1))"
    content = bare(arms=["deterministic", "Laplace"], conditions=(evil, "plain"), student=evil)
    content["arms"][-1]["arm"] = evil
    content |= {"recipe": evil, "dataset": evil, "note": evil, "environment": {evil: evil}}
    text = write_report(content, tmp_path).read_text()
    assert "<script" not in text and not re.search(r"(?<!\\)\]\(javascript", text)
    assert not [line for line in text.splitlines() if line.lstrip("# ").startswith("Owned")] and "\r" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["arms"][0]["history"]["accuracy"].pop(), "history of the arm 'one-hot' differ in length"),
        (lambda r: r["arms"][0]["reliability"]["count"].pop(), "reliability of the arm 'one-hot' differ in length"),
        (lambda r: r["arms"][1].pop("seed"), "record 1 of results.json has no 'seed'"),
        (lambda r: r["arms"][1]["metrics"].update(nll="low"), "'nll' of metrics of record 1"),
        (lambda r: r["arms"].append(7), "record 12 of results.json is no object but 7"),
        (lambda r: r.update(measure="speed"), "measure 'speed' is unknown"),
        (lambda r: r.update(environment=[1]), "'environment' of results.json"),
        (lambda r: r["arms"][0].update(uncertainty={"credible_sets": [1]}), "a credible set of record 0"),
        (lambda r: r.update(kind="study", checks=[{"name": "x"}]), "hold no checks that can be read"),
        (lambda r: r.pop("arms"), 'neither a list "arms" nor "checks"'),
    ],
)
def test_damaged_results_end_in_a_sentence(change, words, tmp_path):
    content = copy.deepcopy(results())
    change(content)
    with pytest.raises(UserError, match=words):
        write_report(content, tmp_path)


def test_bars_that_a_study_set_itself_are_listed(tmp_path):
    bars = [Check("A at most B", 0.2, 0.3, compare="at most"), Check("C near D", 2.0, 2.01, 0.01)]
    write_report(bare() | {"kind": "study", "checks": [bar.as_json() for bar in bars]}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "## Bars" in text and "| A at most B | ≤ 0.2 | 0.3 | +0.1 (0) | **no** |" in text
    assert "| C near D | 2 | 2.01 | +0.5 % (1 %) | yes |" in text


@pytest.mark.parametrize("content", [[], 3, None, "x", {}, {"claims": [{"ratio": 1}]}, {"arms": {}}])
def test_other_json_is_of_no_kind(content):
    with pytest.raises(UserError, match="pass the results.json of a recipe"):
        kind_of(content)


def test_the_kind_is_what_the_file_says_or_its_keys():
    assert kind_of({"kind": "teachers", "arms": []}) == "teachers" and kind_of({"checks": []}) == "claims"
    assert kind_of({"arms": [{}]}) == "study" and kind_of({"arms": [{"scaled_metrics": {}}]}) == "teachers"


def test_two_conditions_and_sweeps(tmp_path):
    content = bare(arms=["deterministic", "Laplace"], seeds=(0, 1), conditions=("noisy", "clean"))
    for seed in (0, 1):
        sweep = {"history": None, "reliability": None, "teacher": "laplace", "label_seconds": 1.5 + seed}
        content["arms"] += [
            record("λ = 0.5", seed, 0.88 + seed / 100, "noisy", kd_lambda=0.5, **sweep),
            record("S = 100", seed, 0.89 + seed / 100, "noisy", num_samples=100, **sweep),
            record("tuned", seed, 0.89, "noisy", teacher_temperature=2.0 + seed, **sweep),
        ]
    content["arms"][0]["noise_window"] = 10
    text = write_report(content, tmp_path).read_text()
    assert "over the last 5 or 10 evaluations" in text
    assert {file.stem for file in tmp_path.glob("*.png")} == {"comparison", "sweep_kd_lambda", "sweep_num_samples"}
    assert "### noisy\n" in text and "### clean\n" in text
    assert "weight of the teacher. Arms: λ = 0.5; Laplace." in text
    assert "| noisy | tuned | laplace | 1 | 2, 3 | 1 | 10 |" in text


def test_settings_show_folds_where_there_are_any(tmp_path):
    content = bare(seeds=(0,))
    for entry in content["arms"]:
        entry["folds"] = 3 if entry["arm"] == "Laplace" else 0
    text = write_report(content, tmp_path).read_text()
    assert (
        "| S | views | folds | seconds a run |" in text
        and "| Laplace | laplace | 1 | 1 | 1 | 10 | 1 | 3 | 10 |" in text
    )


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([4, 4], "4"),
        ([2.0, 1.0, 4.0], "1, 2, 4"),
        ([1, 2, 3, 0.5, 2.25], "0.5 to 3"),
        (list("edcba"), "a, b, c, d, e"),
    ],
)
def test_many_values_of_a_setting_are_their_range(values, shown):
    assert values_of(({"T": value} for value in values), "T") == shown


def test_report_leads_to_numbers_and_students_that_are_there(tmp_path):
    assert "](results.json)" not in write_report(bare(), tmp_path).read_text()
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "students").mkdir()
    text = write_report(bare(), tmp_path).read_text()
    assert "[results.json](results.json)" in text and "[`students/CONDITION/seed-S/ARM`](students)" in text


def test_partial_runs_say_how_many_seeds(tmp_path):
    content = bare()
    content["arms"] = [r for r in content["arms"] if not (r["arm"] == "deterministic" and r["seed"] == 0)]
    content["arms"] = [r for r in content["arms"] if not (r["arm"] == "Laplace" and r["seed"] == 1)]
    content["arms"][0]["metrics"] |= {"convergence_noise": None, "nll": math.nan}
    for entry in content["arms"]:
        entry.pop("condition")
    text = write_report(content, tmp_path).read_text()
    main, details = tables(text)
    assert main["Laplace"][:2] == ["89.05 ± 0.21", "+2.10 [–] (1 shared)"] and details["Laplace"][0] == "2"
    assert main["one-hot"][2] == "0.650 ± 0.071 (2 of 3 seeds)" and "(2 of 3 seeds)" in details["one-hot"][2]
    assert "Undecided, with fewer than two shared seeds: Laplace." in text and "Two runs are missing" in text
    assert "nan" not in text


def test_single_seed_has_no_interval(tmp_path):
    content = bare(seeds=(1,))
    text = write_report(content, tmp_path).read_text()
    assert tables(text)[0]["Laplace"][:3] == ["87.10", "+1.90 [–]", "0.600"] and "with one seed.**" in text
    assert "nan" not in text and "Not distinguishable" not in text
    assert "nan" not in terminal(content)


def test_without_the_reference_there_are_no_differences(tmp_path):
    content = bare(arms=["one-hot", "Laplace"])
    text = write_report(content, tmp_path).read_text()
    assert "no differences are given" in text and "vs deterministic (points" not in text
    assert tables(text)[0]["arm"] == ["accuracy", "NLL", "ECE"]


def test_nothing_measured_is_a_dash(tmp_path):
    content = bare(arms=["deterministic", "Laplace"])
    for entry in content["arms"]:
        entry["metrics"] = dict.fromkeys(entry["metrics"])
        entry |= {"teacher_metrics": None, "seconds": None, "noise_window": None}
    text = write_report(content, tmp_path).read_text()
    main, details = tables(text)
    assert main["Laplace"] == ["–"] * 4 and details["Laplace"] == ["3", *["–"] * 7] and "nan" not in text


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
        "Better than the deterministic teacher: Laplace",
    ):
        assert word in text
    assert text.startswith("noisy, three seeds\n") and text.endswith(".\n") and not text.endswith("\n\n")


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
    assert lines[-1].startswith("Better than") and lines[-1].endswith("1.89 points).")


def test_a_lambda_that_is_set_by_example_is_compared_with_the_best_fixed_one():
    """By hand: against 0.87, the mean of lambda = 0.5, one is 0.4 points worse and the other 0.6."""
    accuracies = {"one-hot": (0.85, 0.86), "l 0.5": (0.86, 0.88), "l 1": (0.86, 0.87), "other": (0.99, 0.99)}
    lambdas = {"one-hot": 0.0, "l 0.5": 0.5, "other": 0.5}
    schedules = {"near": "bias_aware", "far": "adaptive"}
    accuracies |= {"near": (0.858, 0.874), "far": (0.854, 0.874)}
    records = [
        record(arm, seed, accuracy, kd_lambda=lambdas.get(arm, 1.0), lambda_schedule=schedules.get(arm))
        for arm, pair in accuracies.items()
        for seed, accuracy in enumerate(pair)
    ]
    for each in records:
        each |= {"folds": 0 if each["arm"] == "other" else 3}
        each["teacher"] = "none" if each["arm"] == "one-hot" else "ensemble"
    arms = by_condition({"kind": "study", "arms": records})[""]
    header, near, far = by_example_cells(arms, MEASURES["accuracy"])
    assert header[-1] == "within 0.5 points of it"
    assert near == ["near", "l 0.5", "-0.40 [-2.94, +2.14]", "yes"]  # -0.2 and -0.6, and t = 12.71
    assert far == ["far", "l 0.5", "-0.60 [-0.60, -0.60]", "no"]
    del arms["near"], arms["far"]
    assert by_example_cells(arms, MEASURES["accuracy"]) == []
    assert [(line[0], *points.values()) for line, points in sweeps_of(arms, "kd_lambda").items()] == [
        ("ensemble, cross-fitted", "l 0.5", "l 1")  # what all lines share, such as the folds, no legend says
    ]


def test_labels_of_different_teachers_and_arms_at_one_value_are_no_sweep():
    def arms(teacher, *temperatures):
        each = [{"arm": f"arm {number}", "teacher": teacher, "seed": 0} for number in range(len(temperatures))]
        return by_condition(
            {
                "kind": "study",
                "arms": [
                    record | {"teacher_temperature": value} for record, value in zip(each, temperatures, strict=True)
                ],
            }
        )[""]

    assert len(sweeps_of(arms("laplace", 1.0, 2.0), "teacher_temperature")) == 1
    assert sweeps_of(arms("stored", 1.0, 0.8), "teacher_temperature") == {}
    assert sweeps_of(arms("laplace", 1.0, 1.0, 2.0), "teacher_temperature") == {}
