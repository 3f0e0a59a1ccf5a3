"""What a teacher's card tells, to people and to the Hub."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_bkd.metrics import classification_metrics
from hf_bkd.teachers import DeterministicTeacher, EnsembleTeacher, LaplaceTeacher, Teacher, predict_all
from tests.teachers.saving_helpers import IMAGES, KINDS, WORDS, deterministic, laplace, variational
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points, small_bert, small_cnn

METRICS = {"accuracy": 0.91234, "nll": 0.3125, "ece": 0.0421, "brier": 0.15}


def card_of(teacher: Teacher, folder: Path) -> tuple[ModelCard, dict[str, Any]]:
    """The card as huggingface_hub reads it, and its header as YAML."""
    teacher.save_pretrained(folder)
    header = (folder / "README.md").read_text().split("---\n")[1]
    return ModelCard.load(folder / "README.md"), yaml.safe_load(header)


def tables(card: ModelCard) -> list[dict[str, str]]:
    """Each table of a card, as the rows below its head by their first cell."""
    actual: list[dict[str, str]] = [{}]
    for line in card.text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and not line.startswith(("| ---", "| |", "| accuracy")):
            actual[-1][cells[0]] = " | ".join(cells[1:])
        elif not line.startswith("|") and actual[-1]:
            actual.append({})
    return actual[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_teachers_card_is_one_and_tells_its_settings(kind, tmp_path):
    teacher = KINDS[kind](small_cnn(), IMAGES)
    card, header = card_of(teacher, tmp_path / "teacher")
    assert card.data.library_name == "hf_bkd" and card.data.model_name == f"{teacher.method} teacher"
    assert set(card.data.tags) == {"knowledge-distillation", "bayesian", "hf_bkd", teacher.method}
    assert card.data.eval_results is None and "model-index" not in header
    settings = teacher.get_state()[0] | {"temperature": teacher.temperature, "tempering": teacher.tempering}
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in settings.items()}
    assert tables(card) == [{name.replace("_", " "): value for name, value in shown.items()}]
    assert "A network with 4 classes" in card.text and "has not been measured" in card.text
    assert ("distribution over its predictions" in card.text) == (teacher.method != "deterministic")
    assert "Teacher.from_pretrained" in card.text and "{{" not in card.text and "{%" not in card.text


def test_the_record_and_the_metrics_are_on_the_card(tmp_path):
    teacher = laplace(small_cnn(), IMAGES)
    teacher.record = {"examples": 1234, "learning rate": 1.23456e-5, "prior precision chosen by": "validation NLL"}
    teacher.record["validation"] = METRICS
    card, header = card_of(teacher, tmp_path / "teacher")
    facts, validation = tables(card)
    assert facts["examples"] == "1234" and facts["learning rate"] == "1.235e-05" and "validation" not in facts
    assert facts["prior precision chosen by"] == "validation NLL" and facts["prior precision"] == "0.37"
    assert validation == {"0.9123": "0.3125 | 0.0421 | 0.1500"}
    assert "the same that a setting above was chosen on" in card.text and "not been measured" not in card.text
    assert "model-index" not in header  # of which dataset is not known
    assert json.loads((tmp_path / "teacher" / "teacher.json").read_text())["record"] == teacher.record


def test_metrics_on_examples_that_nothing_was_chosen_on_say_nothing_of_a_choice(tmp_path):
    teacher = variational(small_cnn(), IMAGES)
    teacher.record = {"validation": METRICS}
    card, _ = card_of(teacher, tmp_path / "teacher")
    assert "Of the averaged probabilities on held-out examples; NLL is in nats" in card.text
    assert "| accuracy | NLL | ECE | Brier |" in card.text and "| 0.9123 | 0.3125 | 0.0421 | 0.1500 |" in card.text


@pytest.mark.parametrize(("make", "inputs", "task"), [(small_cnn, IMAGES, "image"), (small_bert, WORDS, "text")])
def test_the_hub_reads_the_metrics_on_a_known_dataset(make, inputs, task, tmp_path):
    teacher = deterministic(make(), inputs)
    teacher.record = {"dataset": "someone/flowers", "validation": METRICS}
    card, header = card_of(teacher, tmp_path / "teacher")
    (entry,) = header["model-index"]
    assert entry["name"] == "deterministic teacher"
    (result,) = entry["results"]
    assert result["task"]["type"] == f"{task}-classification"
    assert result["dataset"]["type"] == "someone/flowers" and result["dataset"]["split"] == "validation"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == METRICS
    assert {each.metric_type: each.metric_value for each in card.data.eval_results} == METRICS
    assert tables(card)[0]["dataset"] == "someone/flowers"


def test_a_dataset_without_metrics_gives_no_results(tmp_path):
    teacher = deterministic(small_cnn(), IMAGES)
    teacher.record = {"dataset": "someone/flowers"}
    card, header = card_of(teacher, tmp_path / "teacher")
    assert "model-index" not in header and tables(card)[0]["dataset"] == "someone/flowers"


def test_metrics_that_were_not_taken_are_left_open(tmp_path):
    teacher = deterministic(small_cnn(), IMAGES)
    teacher.record = {"dataset": "someone/flowers", "validation": {"accuracy": 0.5, "f1": 0.4}}
    card, header = card_of(teacher, tmp_path / "teacher")
    assert "| accuracy |\n| --- |\n| 0.5000 |" in card.text
    assert {metric["type"] for metric in header["model-index"][0]["results"][0]["metrics"]} == {"accuracy", "f1"}


@pytest.mark.parametrize("kind", [DeterministicTeacher, LaplaceTeacher])
def test_fitting_on_held_out_examples_records_how_good_the_teacher_is_on_them(kind, tmp_path):
    network, train, validation = SmallNetwork(scale=8), in_batches(*points(40)), in_batches(*points(60, seed=2))
    arguments = {"link": "probit"} if kind is LaplaceTeacher else {}
    teacher = kind.fit(network, *([train] if kind is LaplaceTeacher else []), validation, **arguments)
    expected = classification_metrics(*predict_all(teacher, validation))
    assert teacher.record["validation"] == pytest.approx(expected, rel=1e-5)
    card, _ = card_of(teacher, tmp_path / "teacher")
    assert tables(card)[1] == {
        f"{expected['accuracy']:.4f}": " | ".join(f"{expected[name]:.4f}" for name in ("nll", "ece", "brier"))
    }
    assert "chosen by" in str(tables(card)[0]) and "a setting above was chosen on" in card.text


def test_members_keep_their_records_and_cards(tmp_path):
    members = [deterministic(small_cnn(), IMAGES) for _ in range(2)]
    members[1].record = {"examples": 7}
    ensemble = EnsembleTeacher(members)
    ensemble.record = {"examples": 9}
    card, _ = card_of(ensemble, tmp_path / "teacher")
    assert tables(card)[0]["examples"] == "9"
    loaded = EnsembleTeacher.from_pretrained(tmp_path / "teacher")
    assert [teacher.record for teacher in (loaded, *loaded.members)] == [{"examples": 9}, {}, {"examples": 7}]
    inner = ModelCard.load(tmp_path / "teacher" / "members" / "1" / "README.md")
    assert tables(inner)[0]["examples"] == "7"
    assert [member.get("record") for member in loaded.describe()["members"]] == [None, {"examples": 7}]


def test_the_record_is_told_with_the_teachers_description():
    teacher = deterministic(SmallNetwork(), points(5)[0])
    assert "record" not in teacher.describe()
    fingerprint = teacher.fingerprint()
    teacher.record = {"examples": 5}
    assert teacher.describe()["record"] == {"examples": 5} and teacher.fingerprint() == fingerprint


def test_a_record_that_json_cannot_hold_is_not_saved(tmp_path):
    teacher = deterministic(small_cnn(), IMAGES)
    teacher.record = {"examples": {1, 2}}
    with pytest.raises(TypeError):
        teacher.save_pretrained(tmp_path / "teacher")
    assert not list(tmp_path.iterdir())
