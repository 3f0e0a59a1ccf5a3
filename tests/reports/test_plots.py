"""What the panel of differences shows when one interval is far wider than the others, or when there is none."""

import math

import pytest
from matplotlib.figure import Figure

from hf_bkd.reports.plots import _draw_differences
from hf_bkd.reports.results import MEASURES, Difference


def panel(**differences):
    row = {"seeds": 3, "measure": MEASURES["accuracy"], "is_reference": False}
    rows = [{**row, "arm": "deterministic", "difference": None, "is_reference": True}]
    rows += [{**row, "arm": arm, "difference": Difference(*difference)} for arm, difference in differences.items()]
    ax = Figure().subplots()
    _draw_differences(ax, rows, {row["arm"]: ("black", "-") for row in rows})
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
