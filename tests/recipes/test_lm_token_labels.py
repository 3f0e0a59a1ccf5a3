"""The recipe of stored token labels: its text, its plain draws, and a small run that goes on where it ended."""

import json

import numpy as np
import pytest
import torch
from datasets import DatasetDict

from hf_bkd import DeterministicTeacher, EnsembleTeacher
from hf_bkd.utils.errors import UserError
from tests.language.language_helpers import V, learned, llama, texts, tokenizer
from tests.recipes.recipe_helpers import load

LENGTH = 16

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def recipe():
    return load("lm_token_labels")


@pytest.fixture(scope="module")
def rows(recipe):
    return recipe.blocks(texts(60), tokenizer(), LENGTH)


@pytest.fixture(scope="module")
def network(rows):
    return learned(llama(num_attention_heads=2), rows)


def test_no_paragraph_of_the_reference_is_in_both_splits_or_comes_twice(recipe):
    splits = recipe.texts(recipe.PYTHON)
    paragraphs = {name: [part for text in own["text"] for part in text.split("\n\n")] for name, own in splits.items()}
    train, test = paragraphs["train"], paragraphs["test"]
    assert len({*train, *test}) == len(train) + len(test) and len(train) > 3 * len(test) > 900


def test_blocks_are_the_texts_one_after_the_other(recipe):
    made = recipe.blocks(texts(5), tokenizer(), 8)
    tokens = [token for row in made["input_ids"] for token in row]
    whole = [token for text in texts(5)["text"] for token in tokenizer()(text + "#")["input_ids"]]
    assert tokens == whole[: len(tokens)] and 0 <= len(whole) - len(tokens) < 8


def test_a_remembering_teacher_says_what_the_network_does(recipe, network, rows):
    teacher, ids = recipe.Remembering(network), torch.tensor(rows["input_ids"][:3])
    with torch.no_grad():
        expected = network(ids).logits.softmax(-1)
    for asked, like in ((ids, expected), (ids.flip(0), expected.flip(0)), (ids[:, :8], expected[:, :8])):
        answer = teacher.predict({"input_ids": asked, "attention_mask": torch.ones_like(asked)}).mean
        torch.testing.assert_close(answer, like, rtol=2e-2, atol=1e-4)
    assert len(teacher.known) == 6


def test_plain_draws_have_as_many_tokens_as_asked_for_and_the_teachers_mean(recipe, network, rows):
    teacher = recipe.Remembering(network)
    teacher.processing_class = tokenizer()
    kept = rows.select(range(2))
    sums, distinct, exact = 0, [], teacher.predict({"input_ids": torch.tensor(kept["input_ids"][:])}).mean
    for seed in range(20):
        drawn = recipe.Labels(kept, teacher, seed).of(recipe.Arm("draws", 4)).with_format("numpy")
        ids, probs = np.stack(drawn["teacher_tokens"][:]), np.stack(drawn["teacher_probs"][:]).astype(np.float32)
        assert not probs[:, -1].any()
        np.testing.assert_allclose(probs[:, :-1].sum(-1), 1, atol=2e-3)
        distinct.append((probs[:, :-1] > 0).sum(-1).mean())
        dense = torch.zeros(*ids.shape[:2], V).scatter_add(2, torch.tensor(ids.astype(np.int64)), torch.tensor(probs))
        sums = sums + dense[:, :-1] / 20
    assert np.mean(distinct) == pytest.approx(4, abs=0.5)
    assert (sums - exact[:, :-1]).abs().mean() < (sums - exact[:, :-1].flip(0)).abs().mean() / 5


def test_a_small_run_goes_on_to_the_same_results(recipe, network, tmp_path, monkeypatch, capsys):
    teacher, data, folder = tmp_path / "teacher", tmp_path / "data", tmp_path / "run"
    network.save_pretrained(teacher)
    tokenizer().save_pretrained(teacher)
    DatasetDict({"train": texts(40), "test": texts(30)}).save_to_disk(data)
    monkeypatch.setattr(recipe, "ARMS", recipe.CONDITIONS[recipe.FIRST])
    monkeypatch.setattr(recipe, "CONDITIONS", dict.fromkeys(recipe.CONDITIONS, recipe.CONDITIONS[recipe.FIRST]))
    words = ["--pretrained", teacher, "--dataset", data, "--output_dir", folder, "--seeds", "0,1", "--length", LENGTH]
    words = [str(word) for word in [*words, "--train_rows", 2, "--test_rows", 4, "--layers", 1]]
    words += ["--seeds_of_all_arms", "1"]
    recipe.main(words)
    results = json.loads((folder / "results.json").read_text())
    assert len(results["arms"]) == 2 * (5 + 3) and len(results["checks"]) == 6
    assert {each["arm"] for each in results["arms"] if each["seed"]} == set(recipe.DECIDING)
    assert {record["reliability"]["count"] and sum(record["reliability"]["count"]) for record in results["arms"]} == {
        4 * (LENGTH - 1)
    }
    assert [each["condition"] for each in results["arms"][::8]] == list(recipe.CONDITIONS)
    report = (folder / "report.md").read_text()
    assert "missing" not in report and "## Bars" in report and "vs online teacher (nats, [95 % CI, Holm])" in report
    for file in list(folder.glob("arms/*/seed-1/*.json"))[:2]:
        file.unlink()
    recipe.main(words)
    again = json.loads((folder / "results.json").read_text())
    assert [each["metrics"] for each in again["arms"]] == [each["metrics"] for each in results["arms"]]
    members = map(DeterministicTeacher, (network, llama(1, num_attention_heads=2)))
    EnsembleTeacher(list(members)).save_pretrained(tmp_path / "ensemble")
    recipe.main([*words, "--seeds", "0", "--adapters", str(tmp_path / "ensemble")])
    further = json.loads((folder / "results.json").read_text())["arms"]
    assert {each["arm"]: each["teacher"] for each in further}["average, PPS, 64 bytes"] == "ensemble"
    assert len(further) == 2 * 6 and further[1]["teacher_metrics"]["nll"] < further[5]["teacher_metrics"]["nll"]
    with pytest.raises(SystemExit):
        recipe.main([*words, "--kd_lambda", "0.5"])
    assert "kd_lambda" in capsys.readouterr().err


def test_rows_that_there_are_not_are_refused(recipe, rows):
    with pytest.raises(UserError, match="rows of tokens"):
        recipe.chosen(rows, len(rows) + 1, 0, "train")
