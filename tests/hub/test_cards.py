"""A student's card: what it claims follows from its numbers, and what a record says stays text."""

import re

import pytest
from huggingface_hub import ModelCard

from hf_bkd.hub.cards import write_student_card

GIVEN = {"title": "student", "how": "from a laplace teacher", "measured": "After the last epoch.", "dataset": "digits"}
GIVEN |= {
    "library": "timm",
    "code": "import timm",
    "split": "test",
    "task": "image-classification",
    "tags": [],
    "facts": {"lambda": 0.75},
}
TEACHER = {"accuracy": 0.92, "nll": 0.3, "ece": 0.02, "brier": 0.1}


@pytest.mark.parametrize(
    ("metrics", "teacher", "finding"),
    [
        (
            {"accuracy": 0.9, "ece": 0.031},
            TEACHER,
            "Accuracy 0.9000 and ECE 0.0310 on held-out examples; the teacher's was 0.9200 on those that it was "
            "measured on.",
        ),
        ({"accuracy": 0.9}, None, "Accuracy 0.9000 on held-out examples."),
        ({}, TEACHER, "It has not been evaluated yet."),
    ],
)
def test_a_card_begins_with_finding_data_and_limits(metrics, teacher, finding, tmp_path):
    write_student_card(tmp_path, metrics=metrics, teacher_metrics=teacher, **GIVEN)
    card = (tmp_path / "README.md").read_text()
    bullets = [line for line in card.splitlines() if line.startswith("- **")]
    assert bullets[0] == f"- **Finding.** {finding}" and "A student distilled with [hf_bkd]" in card
    assert bullets[1] == "- **Data.** digits, test split. After the last epoch." and "One training" in bullets[2]
    assert card.index("| student |") < card.index("<details>") < card.index("| lambda | 0.75 |")


@pytest.mark.parametrize("license", [None, "mit"])
def test_a_card_names_the_license_that_is_given_and_none_of_its_own(license, tmp_path):
    write_student_card(tmp_path, metrics={}, teacher_metrics=None, license=license, **GIVEN)
    assert ModelCard.load(tmp_path / "README.md").data.license == license
    assert ("license" in (tmp_path / "README.md").read_text()) == (license is not None)


def test_what_strangers_wrote_stays_text(tmp_path):
    evil = "x\r# Owned <script>y</script> [a](javascript:b) | c"
    given = GIVEN | {"title": evil, "how": evil, "dataset": evil, "measured": evil, "facts": {evil: evil}}
    write_student_card(tmp_path, metrics={}, teacher_metrics=None, figures={"a.png": evil}, **given)
    text = (tmp_path / "README.md").read_text().split("---\n", 2)[2]  # the header is YAML, which quotes
    assert "<script" not in text and not re.search(r"(?<!\\)\]\(javascript", text) and "\r" not in text
    assert not [line for line in text.splitlines() if line.startswith("# Owned")]
