"""The study of language models' answers: its worlds, that its students learn and are read again, and its claims."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.recipes.recipe_helpers import load

TINY = {"students": 3, "taught": 40, "questions": 24, "test": 12, "teacher_steps": 2, "student_steps": 2, "answers": 3}


@pytest.fixture
def recipe():
    return load("lm_responses")


@pytest.fixture
def parts(recipe):
    from lm_answers import cells, claims, measuring, world

    return cells, claims, measuring, world


def test_a_world_knows_the_probabilities_of_its_answers(parts):
    _, _, _, worlds = parts
    world, words = worlds.World(3), worlds.tokenizer()
    assert len(world.questions) == len(set(world.questions)) == 1200 and world.probs.shape == (1200, 32)
    assert torch.allclose(world.probs.sum(dim=1), torch.ones(1200, dtype=torch.float64))
    assert ((world.probs > 0).sum(dim=1) == 12).all()  # three nouns, four degrees
    assert not torch.equal(world.probs, worlds.World(4).probs) and torch.equal(world.probs, worlds.World(3).probs)
    best = world.references(7)[0]
    assert world.probs[7, world.answers[7].index(best)] == world.probs[7].max()
    text = f"{world.questions[7]} {best}"
    assert words.decode(words(text)["input_ids"]) == text  # no word of a world is unknown


def test_probabilities_are_those_of_the_tokens(parts):
    cells, _, _, _ = parts
    own = cells.Cells(cells.ResponseArguments(**TINY), 0, Path("nowhere"))
    network, question, answer = own.network(1, 8, 0).eval(), own.test[2], 5
    words = own.tokenizer(own.world.questions[question])["input_ids"]
    log_prob = 0.0
    for token in [*own.tokenizer(own.world.answers[question][answer])["input_ids"], own.tokenizer.eos_token_id]:
        log_prob += network(torch.tensor([words])).logits[0, -1].log_softmax(dim=-1)[token].item()
        words = [*words, token]
    probs = cells.answer_probs(network, own.world, own.test, own.tokenizer)
    assert probs[2, answer].item() == pytest.approx(math.exp(log_prob), rel=1e-4)
    assert torch.allclose(probs.sum(dim=1), torch.ones(12, dtype=torch.float64))


def test_embeddings_are_bags_of_words(parts):
    cells, _, _, _ = parts
    one, same, other, empty = cells.bag_of_words(["mostly fish", "fish mostly", "mostly honey", ""])
    assert one @ same == pytest.approx(1) and one @ other == pytest.approx(0.5) and empty.norm() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [("inverse_variance", 3), ("soft", 4, "order"), ("all", 2, "teacher", "ensemble")])
def test_a_student_is_trained_once_and_read_again(parts, kind, tmp_path, monkeypatch):
    cells, _, _, _ = parts
    own = cells.Cells(cells.ResponseArguments(**TINY), 0, tmp_path)
    first = own.students(cells.Kind(*kind))
    assert first[0].probs.shape == (12, 33) and [len(row) for row in first[2].answers] == [3] * 12
    assert not torch.equal(first[0].probs, first[1].probs)
    monkeypatch.setattr(cells.Cells, "_trained", None)
    again = cells.Cells(cells.ResponseArguments(**TINY), 0, tmp_path).students(cells.Kind(*kind))
    assert all(
        torch.equal(one.probs, two.probs) and one.answers == two.answers for one, two in zip(first, again, strict=True)
    )


def test_other_settings_are_refused(recipe, parts, tmp_path):
    cells, _, _, _ = parts
    cells.check_settings(cells.ResponseArguments(**TINY), tmp_path)
    cells.check_settings(cells.ResponseArguments(**TINY, seeds="5"), tmp_path)
    with pytest.raises(ValueError, match="students of other settings"):
        cells.check_settings(cells.ResponseArguments(**TINY | {"student_steps": 3}), tmp_path)
    with pytest.raises(ValueError, match="there are 1200 questions, and 1264"):
        cells.Cells(cells.ResponseArguments(**TINY | {"taught": 1228}), 0, tmp_path)
    with pytest.raises(ValueError, match="students must be a whole number of at least 3"):
        recipe.claims(cells.ResponseArguments(**TINY | {"students": 2, "output_dir": str(tmp_path)}))


@pytest.mark.usefixtures("blank_pictures")
def test_claims_say_what_students_are_like(recipe, parts, tmp_path, monkeypatch, capsys):
    """Students whose noise is known: of all k answers it falls as 1 / k, of the nearest to the mean not at all."""
    from hf_bkd.reports.claims import main

    cells, _, measuring, _ = parts

    def students(self, kind):
        generator = torch.Generator().manual_seed(self.seed * 1000 + cells.KINDS.index(kind))
        variance = 1e-4 / (kind.k if kind.supervision == "all" else 4 * kind.k if kind.supervision == "soft" else 1)
        noise = torch.randn((6, 12, 33), generator=generator, dtype=torch.float64)
        noise -= noise.mean(dim=-1, keepdim=True)
        said = [[self.world.references(i)[:1] * 3 for i in self.test]] * 6
        return [
            cells.Answered((1 / 33 + variance**0.5 * own).clamp_min(0), texts)
            for own, texts in zip(noise, said, strict=True)
        ]

    monkeypatch.setattr(cells.Cells, "students", students)
    monkeypatch.setattr(
        cells.Cells, "members", property(lambda self: [self.network(1, 8, n).eval() for n in range(3)])
    )
    argv = [f"--{name}={value}" for name, value in (TINY | {"output_dir": tmp_path, "seeds": "0,1,2"}).items()]
    main("lm_responses", recipe.NOTE, recipe.claims, cells.ResponseArguments, argv)
    assert "checks hold" in capsys.readouterr().out
    checks = {check["name"]: check for check in json.loads((tmp_path / "results.json").read_text())["checks"]}
    assert checks["slope, all k answers"]["measured"] == pytest.approx(-1, abs=0.1)
    assert checks["slope, nearest to the mean"]["measured"] == pytest.approx(0, abs=0.1)
    (soft,) = [c for name, c in checks.items() if name.startswith("variance between students, soft labels, 4 entries")]
    low, high = soft["interval"]
    assert 5 / 16 / 1.3 < low < 5 / 16 < high < 5 / 16 * 1.3 and soft["holds"]
    page = (tmp_path / "report.md").read_text()
    assert "| nearest to the weighted mean of 5 |" in page and "an ORACLE" in page
    assert measuring.Interval.of([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.303 / math.sqrt(3), rel=1e-3)
