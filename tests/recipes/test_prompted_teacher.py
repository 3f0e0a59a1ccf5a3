"""The recipe of a language model that teaches beside an encoder, with small ones of both."""

import json

import datasets
import pytest
from datasets import load_from_disk

from hf_bkd.soft_labels import read
from hf_bkd.study import main
from tests.cli.fitting_helpers import bert, tokenizer
from tests.language import language_helpers
from tests.recipes.recipe_helpers import load, words

pytestmark = pytest.mark.usefixtures("blank_pictures")


def questions(number: int) -> datasets.Dataset:
    names = ["NUM", "ABBR", "DESC", "ENTY", "HUM", "LOC"]  # in an order of their own
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    rows = {"text": [f"a {number} b" for number in range(number)], "label": [each % 6 for each in range(number)]}
    return datasets.Dataset.from_dict(rows, datasets.Features(kinds))


def test_it_labels_once_and_teaches_with_either_and_both(tmp_path, monkeypatch):
    signs = ["\n" if sign == "~" else sign for sign in language_helpers.WORDS]
    language_helpers.llama(max_position_embeddings=128).save_pretrained(tmp_path / "llm")
    language_helpers.tokenizer(words=signs).save_pretrained(tmp_path / "llm")
    bert(layers=2).base_model.save_pretrained(tmp_path / "weights")
    tokenizer().save_pretrained(tmp_path / "weights")
    datasets.DatasetDict(train=questions(60), test=questions(12)).save_to_disk(tmp_path / "data")
    options = {
        "dataset": tmp_path / "data", "pretrained": tmp_path / "weights", "language_model": tmp_path / "llm",
        "labels": tmp_path / "labels", "seeds": 0, "num_train_epochs": 4, "teacher_epochs": 1,
        "student_model": "layers-2", "per_device_train_batch_size": 50,
    }  # fmt: skip
    recipe = load("prompted_teacher")
    monkeypatch.setattr(recipe, "LABELED", 30)
    main(recipe.study, recipe.DEFAULTS, words(tmp_path / "run", options), recipe.Arguments)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    arms = ["labels alone", "MiniLM", "MiniLM, scaled", "language model", "mixture", "mixture, entropy weights"]
    assert [record["arm"] for record in results["arms"]] == arms
    labels = read(load_from_disk(tmp_path / "labels"), "language_model")
    assert labels.record.teacher.json["label_words"] == recipe.WORDS
    assert labels.probs.shape == (72, 6) and labels.record.draws == 2
    assert all(record["metrics"]["accuracy"] >= 0 for record in results["arms"])
    assert results["arms"][3]["teacher_metrics"]["accuracy"] >= 0
