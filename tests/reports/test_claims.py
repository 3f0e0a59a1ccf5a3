"""Claims: which checks hold, what is written, and that it can be written again from results.json."""

import json
import re

import pytest
import torch

from hf_bkd.cli import main as command_line
from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series, main
from hf_bkd.reports.claims.claim import as_json, from_json
from hf_bkd.reports.claims.page import table_of, verdict, write_page
from hf_bkd.utils.errors import UserError


@pytest.mark.parametrize(
    ("compare", "predicted", "measured", "tolerance", "holds"),
    [
        ("relative", 10, 10.9, 0.1, True),
        ("relative", 10, 11.1, 0.1, False),
        ("relative", -10, -8.9, 0.1, False),
        ("absolute", 0, 1e-9, 1e-8, True),
        ("absolute", 0, -1e-7, 1e-8, False),
        ("at most", 0.5, -3, 0, True),
        ("at most", 0.5, 0.6, 0, False),
        ("at least", 0.5, 0.45, 0.1, True),
        ("at least", 0.5, 0.3, 0.1, False),
    ],
)
def test_which_checks_hold(compare, predicted, measured, tolerance, holds):
    assert Check("it", predicted, torch.tensor(measured), tolerance, compare).holds is holds


@pytest.mark.parametrize(
    ("compare", "predicted", "interval", "outcome"),  # of a measured 1, of which .1 more or less is allowed
    [
        ("at most", 1.2, (0.5, 1.3), "yes"),
        ("at most", 1.2, (0.5, 1.4), "undecided"),
        ("at most", 0.5, (0.7, 1.4), "no"),
        ("at most", 0.5, (0.6, 1.4), "undecided"),
        ("at least", 1.0, (0.9, 1.4), "yes"),
        ("at least", 1.0, (0.8, 5.0), "undecided"),
        ("at least", 2.0, (0.8, 1.8), "no"),
        ("absolute", 1.0, (0.95, 1.05), "yes"),
        ("absolute", 1.0, (0.5, 1.5), "undecided"),
        ("absolute", 1.2, (0.9, 1.05), "no"),
    ],
)
def test_a_check_with_an_interval_holds_fails_or_is_undecided(compare, predicted, interval, outcome):
    check = Check("it", predicted, 1, 0.1, compare, interval)
    assert (check.holds, check.undecided) == (outcome == "yes", outcome == "undecided")
    assert f"| {outcome} |" in table_of([check]).replace("**no**", "no")
    (read,) = from_json(json.loads(json.dumps(as_json([Claim("", "", "", [check])]))))
    assert read.checks == [check]


def test_the_verdict_counts_what_is_undecided():
    checks = [Check("a", 1, 1), Check("b", 1, 1, 0, "at most", (0, 2)), Check("c", 0, 1, 0, "at most", (0.5, 2))]
    assert verdict([Claim("", "", "", checks[:2])]) == "1 of 2 checks hold, 1 is undecided."
    assert verdict([Claim("", "", "", checks)]) == "1 of 3 checks hold, 1 is undecided; these do not: c."


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"interval": (2, 3)}, r"\[2.0, 3.0\] is no interval around 1.0 of the check 'it'"),
        ({"interval": (0, 1, 2)}, "is no interval"),
        ({"measured": float("nan")}, "measured of the check 'it' is nan"),
        ({"tolerance": -1}, "tolerance of the check 'it' must be at least 0, and it is -1"),
        ({"compare": "about"}, "compare is 'about'"),
    ],
)
def test_bad_checks_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Check(**{"name": "it", "predicted": 1, "measured": 1} | bad)


def test_bad_series_are_refused():
    with pytest.raises(ValueError, match="'ragged' has 2 x, 1 y and 0 error"):
        Series("ragged", [1, 2], [1])
    with pytest.raises(ValueError, match="style is 'dotty'"):
        Series("it", [1], [1], style="dotty")


def claims(options):
    names = ["one-hot", "exact | oracle", "Dirichlet"]
    figure = Figure(
        "floors",
        "What was measured stands in color.",
        [
            Panel(
                "By name",
                "",
                "ratio",
                [Series("predicted", names, [1, 0, 0.5]), Series("measured", names, [1, 0, 0.6], [0.1] * 3, color=0)],
            ),
            Panel("Curves", "k", "variance", [Series("theory", [1, 10], [1, 0.1], style="dashed")], log="xy"),
            Panel(
                "Costs",
                "rank",
                "nats",
                [
                    Series(part, ["1", "2"], [2, 1], style="stacked", color=i)
                    for i, part in enumerate(("bias", "rank"))
                ],
            ),
        ],
    )
    checks = [Check("floor | one-hot", 1.0, 1.04, 0.1), Check("order", 0.5, 0.7, 0, "at most")]
    return [
        Claim("Noise sets the floor", f"Seed {options.seed}.", "theorem 1", checks, [figure], "An oracle."),
        Claim("Nothing to check", "Words.", "derived here", []),
    ]


def test_a_recipe_writes_results_and_a_page_that_can_be_written_again(tmp_path, capsys):
    main("theory_test", "A note.", claims, argv=["--output_dir", str(tmp_path), "--seed", "7"])
    shown = capsys.readouterr().out
    assert "1 of 2 checks hold; these do not: order." in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["recipe"] == "theory_test" and results["kind"] == "claims" and "torch" in results["environment"]
    first = results["checks"][0]
    assert (first["name"], first["predicted"], first["measured"], first["tolerance"]) == (
        "floor | one-hot",
        1,
        1.04,
        0.1,
    )
    page = (tmp_path / "report.md").read_text()
    assert "| floor \\| one-hot | 1 | 1.04 | +4.0 % (10 %) | yes |" in page
    assert "| order | ≤ 0.5 | 0.7 | +0.2 (0) | **no** |" in page
    assert page.startswith(
        "# Theory test\n\n- **Finding.** 1 of 2 checks hold; these do not: order.\n- **Size.** Two claims"
    )
    assert "Seed 7." in page and "> **Caveat.** An oracle." in page and "![Noise sets the floor](floors.png)" in page
    assert page.index("**no**") < page.index("An oracle.") < page.index("Nothing to check")
    picture = (tmp_path / "floors.png").read_bytes()
    for file in ("report.md", "floors.png"):
        (tmp_path / file).unlink()
    command_line(["report", str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == page
    assert (tmp_path / "floors.png").read_bytes() == picture
    assert from_json(as_json(from_json(results))) == from_json(results)


def test_a_page_on_which_all_holds_says_so():
    assert verdict([Claim("", "", "", [Check("a", 1, 1)])]) == "All 1 checks hold."


def test_unreadable_results_and_bad_arguments_end_in_a_sentence(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"recipe": "x", "note": "", "environment": {}, "checks": []}')
    with pytest.raises(SystemExit):
        command_line(["report", str(tmp_path)])
    assert "hold no claims that can be read: KeyError('claims')" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main("theory_test", "", claims, argv=["--sead", "7"])
    assert "unrecognized arguments: --sead 7" in capsys.readouterr().err


def test_what_strangers_wrote_stays_text_and_damaged_results_end_in_a_sentence(tmp_path):
    evil = "*a*\r# Owned <script>x</script> [a](javascript:alert(1))"
    stored = as_json([Claim(evil, evil, evil, [Check(evil, 1, 1)], caveat=evil)])
    page = write_page({"recipe": evil, "note": evil, "environment": {evil: evil}} | stored, tmp_path).read_text()
    assert (
        "<script" not in page and not re.search(r"(?<!\\)\]\(javascript", page) and "\n*a*" in page
    )  # the text is Markdown, the title is not
    assert not [line for line in page.splitlines() if line.lstrip("# ").startswith("Owned")]
    for damage in ({"claims": [1]}, {"claims": 1}, {"checks": [{}]}, {"environment": 3}, {"recipe": 4}):
        with pytest.raises(UserError):
            write_page({"recipe": "r", "note": ""} | stored | damage, tmp_path)
    with pytest.raises(UserError, match="use letters, digits"):
        Figure("../../x", "", [])


def test_a_table_in_the_text_stays_one(tmp_path):
    claim = Claim("A", "Before <b>.\n\n| a | b |\n| --- | --- |\n| 1 |  |\n", "here", [Check("x", 1, 1)])
    write_page(as_json([claim]) | {"recipe": "some", "environment": {}}, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "\nBefore &lt;b&gt;.\n\n| a | b |\n| --- | --- |\n| 1 |  |\n" in page
