"""What pictures show: colors of methods, six lines at most, dots by what they hold, differences of all widths."""

import math

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from hf_bkd.reports.claims import Panel, Series
from hf_bkd.reports.claims.plots import _draw_panel
from hf_bkd.reports.comparisons import Difference
from hf_bkd.reports.ood_plot import ood_auroc, ood_scores
from hf_bkd.reports.plots import LARGEST_DOT, _accuracy, _draw_differences, _reliability
from hf_bkd.reports.plotting import METHODS, OTHERS, colors_of, highlighted
from hf_bkd.reports.results import MEASURES


def panel(**differences):
    row = {"seeds": 3, "measure": MEASURES["accuracy"], "is_reference": False}
    rows = [{**row, "arm": "deterministic", "difference": None, "is_reference": True}]
    rows += [{**row, "arm": arm, "difference": Difference(*difference)} for arm, difference in differences.items()]
    ax = Figure().subplots()
    _draw_differences(ax, rows, dict.fromkeys((row["arm"] for row in rows), "black"))
    return ax


def markers(ax, y):
    """Marker -> place of what is drawn in a row."""
    points = [line for line in ax.lines if line.get_marker() != "None" and list(line.get_ydata()) == [y]]
    return {line.get_marker(): line.get_xdata()[0] for line in points if math.isfinite(line.get_xdata()[0])}


def test_a_huge_interval_ends_in_an_arrowhead_and_leaves_the_others_readable():
    near = (0.001, -0.009, 0.01, 3)
    ax = panel(a=near, b=near, wide=(0.02, -0.3, 0.34, 3), broken=(-0.6, -0.61, -0.59, 3))
    low, high = ax.get_xlim()
    assert -low == high == pytest.approx(5.25)
    assert markers(ax, 1) == pytest.approx({"|": 1.0, "D": 0.1})
    assert markers(ax, 3) == pytest.approx({"<": -5, ">": 5, "D": 2})
    assert markers(ax, 4) == pytest.approx({"<": -5})
    assert ax.get_yticklabels()[3].get_text() == "+2.00 [-30.00, +34.00]"  # what the axis cuts off is still said


def test_comparable_intervals_are_shown_whole():
    ax = panel(a=(0.01, -0.02, 0.04, 3), b=(-0.01, -0.09, 0.07, 3))
    assert ax.get_xlim()[1] > 9 and set(markers(ax, 1)) == set(markers(ax, 2)) == {"|", "D"}


def test_one_seed_and_equal_arms():
    assert markers(panel(a=(0.02, math.nan, math.nan, 1)), 1) == {"D": 2}
    assert markers(panel(a=(0.0, 0.0, 0.0, 3)), 1) == {"|": 0, "D": 0}
    assert markers(panel(a=(math.nan, math.nan, math.nan, 0)), 1) == {}


ARMS = [
    "one-hot",
    "label smoothing",
    "deterministic",
    "deterministic, best T",
    "ensemble",
    "Laplace",
    "variational head",
]
ARMS += ["ensemble, cross-fitted", "exact Bayes"]


def test_a_method_has_one_color_in_all_studies_and_claims():
    colors = colors_of(ARMS)
    assert colors["Laplace"] == colors_of(["Laplace, λ = 0.5", "T5"])["Laplace, λ = 0.5"] == METHODS["laplace"]
    assert colors["deterministic, best T"] == colors["deterministic"]
    assert colors["ensemble, cross-fitted"] == colors_of(["cross-fitted, λ = 1"])["cross-fitted, λ = 1"]
    assert len(set(METHODS.values())) == len(METHODS) - 1  # "no teacher" is one-hot under another name
    strangers = colors_of(["T5", "ESM", "average", "T5, tuned"])
    assert strangers["T5"] == strangers["T5, tuned"] == colors_of(["T5"])["T5"]  # whoever stands beside it
    assert len(set(strangers.values())) == 3 and not {strangers["T5"], strangers["ESM"]} & set(METHODS.values())
    ax = Figure().subplots()
    _draw_panel(ax, Panel("", "", "", [Series("one-hot", [1, 2], [1, 2], style="line", color=7)]))
    assert ax.lines[0].get_color() == colors["one-hot"]


def test_at_most_six_arms_stand_out_whatever_their_results():
    shown = highlighted(ARMS, "deterministic")
    assert shown == [
        "one-hot",
        "deterministic",
        "Laplace",
        "variational head",
        "ensemble, cross-fitted",
        "exact Bayes",
    ]
    lambdas = [f"{kind}, λ = {value}" for kind in ("Laplace", "cross-fitted") for value in (0.5, 1)]
    assert highlighted(["deterministic", *lambdas], "deterministic") == ["deterministic", lambdas[1], lambdas[3]]
    assert highlighted(["average", "average, tuned"], "one-hot") == ["average"]
    dirichlet = ["ensemble", "ensemble, Dirichlet", "ensemble, Dirichlet by variance", "ensemble, Dirichlet, wide"]
    assert highlighted(dirichlet, "one-hot") == dirichlet[:2]


def test_curves_of_the_other_arms_are_gray():
    record = {"history": {"epoch": [1, 2, 3], "accuracy": [0.1, 0.2, 0.3]}, "noise_window": 2}
    record["metrics"] = {"convergence_noise": 0.01}
    _, figure = _accuracy({"": {arm: {0: record} for arm in ARMS}}, "deterministic", colors_of(ARMS))
    lines = [line.get_color() for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert lines.count(OTHERS["color"]) == 3 and len(set(lines) - {OTHERS["color"]}) == 6
    assert [text.get_text() for text in figure.legends[0].texts][-1] == "others"


@pytest.mark.parametrize(("condition", "title"), [("clean", "Laplace\nECE 0.120"), ("30 % label noise", "Laplace")])
def test_dots_are_sized_by_what_they_hold_and_noisy_labels_have_no_ece(condition, title):
    bins = {"count": [0, 10, 40], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.4, 1.0]}
    runs = {seed: {"reliability": bins, "metrics": {"ece": 0.12}} for seed in (0, 1)}
    _, figure = _reliability({condition: {"Laplace": runs}}, "deterministic", {"Laplace": "#332288"})
    (dots,) = figure.axes[0].collections
    assert list(dots.get_sizes()) == [LARGEST_DOT / 4, LARGEST_DOT] and figure.axes[0].get_title() == title
    assert dots.get_offsets().tolist() == [[0.5, 0.4], [0.9, 1.0]] and to_hex(dots.get_facecolors()[0]) == "#332288"


def test_negative_parts_are_stacked_below_zero():
    ax = Figure().subplots()
    names = ["1", "2"]
    parts = {"rank": [3, 2], "cross": [-1, 0.5], "variance": [1, -2]}
    _draw_panel(ax, Panel("", "", "", [Series(part, names, y, style="stacked", color=1) for part, y in parts.items()]))
    bars = [(bar.get_y(), bar.get_height()) for bar in ax.patches]
    assert bars == [(0, 3), (0, 2), (0, -1), (2, 0.5), (3, 1), (0, -2)]


def test_lines_that_jump_are_drawn_faint_with_their_running_mean():
    ax = Figure().subplots()
    jumping = [i % 2 + i / 100 for i in range(96)]
    panel = Panel("run", "", "", [Series("a", range(96), jumping, style="line", color=1)])
    _draw_panel(ax, panel)
    faint, mean = (list(line.get_ydata()) for line in ax.lines)
    assert faint == jumping and mean[0] == jumping[0] and mean[50] == pytest.approx(sum(jumping[46:55]) / 9)
    assert ax.get_title() == "run (bold: running mean)"


def test_aurocs_of_students_their_teachers_and_sampled_posteriors_are_drawn_in_rows():
    """0.8 and 0.9 of two seeds: 0.85 +- 0.0707; two of three scores stand around the row, one alone in it."""
    sets = [{"noise": {"entropy": each, "teacher entropy": 0.7}} for each in (0.8, 0.9)]
    records = [{"arm": "ensemble", "seed": seed, "limits": {"ood_auroc": each}} for seed, each in enumerate(sets)]
    records += [{"arm": "one-hot", "seed": 0, "limits": {"ood_auroc": {"noise": {"entropy": 0.6}}}}]
    records += [{"arm": "one-hot", "seed": 0, "condition": "b", "uncertainty": {"auroc": {"mean_deviance": 0.5}}}]
    shown = ood_scores({"arms": records})
    assert list(shown) == ["noise", "b: uncertain examples"]
    _, figure = ood_auroc(shown, colors_of(["ensemble", "one-hot"]))
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["ensemble", "one-hot"]
    points = sorted((*line.get_xydata()[0].round(9).tolist()[::-1], line.get_marker()) for line in first.lines)
    assert points == [(-0.133333333, 0.85, "D"), (0.133333333, 0.7, "s"), (1.0, 0.6, "D")]
    bars = sorted(bar.get_segments()[0][:, 0].tolist() for bar in first.collections if len(bar.get_segments()[0]))
    assert bars[1] == pytest.approx([0.85 - 0.0707, 0.85 + 0.0707], abs=1e-4)
    assert [line.get_marker() for line in second.lines] == ["o"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["entropy", "deviance", "teacher entropy"]
    assert not ood_scores({"arms": [{"arm": "one-hot", "seed": 0}]})
