"""Rows that can't be read are left out where that is asked for, and nothing else changes."""

import json

import datasets
import numpy as np
import pytest

from hf_bkd import DeterministicTeacher, UserError, add_soft_labels
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.identity import Identity
from tests.cli.fitting_helpers import bert, texts, tokenizer
from tests.data.test_preprocessor_for import mixed, timm_vit

BROKEN, MISSING = {"bytes": b"no image", "path": None}, None


def photographs(**replaced) -> datasets.Dataset:
    """Seven images, of which some are replaced by their numbers."""
    rows = mixed(24).cast_column("image", datasets.Image(decode=False))
    files = [replaced.get(f"row{number}", file) for number, file in enumerate(rows["image"][:])]
    features = rows.features
    rows = rows.remove_columns("image").add_column("image", files, feature=features["image"])
    return (
        rows.remove_columns("label").add_column("label", [0, 1, 2, 0, 1, 2, 0]).cast_column("image", datasets.Image())
    )


def labeled(rows, teacher, **settings):
    return add_soft_labels(rows, teacher, storage="float32", progress=False, **settings)


def test_the_others_are_labeled_as_without_them(tmp_path):
    teacher = DeterministicTeacher(timm_vit())
    rows = photographs(row0=BROKEN, row4=MISSING)
    with pytest.raises(UserError, match="row 0 of column image holds an image that can't be read"):
        labeled(rows, teacher)
    message = (
        r"2 of 7 rows can't be read and are left out \(rows 0, 4; row 0 of column image holds an image that can't"
    )
    with pytest.warns(UserWarning, match=message):
        soft = labeled(rows, teacher, on_error="skip", folder=tmp_path / "shards", shard_rows=2)
    whole = labeled(photographs().select([1, 2, 3, 5, 6]), teacher)
    assert soft["teacher_probs"][:] == whole["teacher_probs"][:]
    assert soft["id"][:] == ["1", "2", "3", "5", "6"]
    record = read(soft).record
    assert record.dataset.left_out == [0, 4] and record.dataset.rows == 5
    said = json.loads((tmp_path / "shards" / "left_out.json").read_text())
    assert [(each["row"], each["column"]) for each in said] == [(0, "image"), (4, "image")]
    assert "holds no image" in said[1]["reason"]
    assert Identity(("image",)).of_dataset(soft).tolist() == soft["example_id"][:]


def test_nothing_is_said_where_all_can_be_read(recwarn):
    teacher = DeterministicTeacher(timm_vit())
    soft = labeled(photographs(), teacher, on_error="skip")
    assert not [each for each in recwarn if "left out" in str(each.message)]
    plain = labeled(photographs(), teacher)
    assert soft.features == plain.features and soft["teacher_probs"][:] == plain["teacher_probs"][:]


@pytest.mark.filterwarnings("ignore:.*left out")
def test_an_interrupted_one_goes_on_and_another_set_of_rows_is_refused(tmp_path):
    teacher, rows = DeterministicTeacher(timm_vit()), photographs(row3=BROKEN)
    settings = {"on_error": "skip", "folder": tmp_path / "shards", "shard_rows": 2}
    whole = labeled(rows, teacher, **settings)
    shards = sorted((tmp_path / "shards").glob("*.arrow"))
    assert len(shards) == 3
    shards[1].unlink()
    asked, predict = [], teacher.predict
    teacher.predict = lambda inputs, *rest: asked.append(len(inputs["pixel_values"])) or predict(inputs, *rest)
    again = labeled(rows, teacher, **settings)
    assert asked == [2] and again["teacher_probs"][:] == whole["teacher_probs"][:]
    with pytest.raises(UserError, match="holds an unfinished labeling with another (rows|left out)"):
        labeled(photographs(row3=BROKEN, row5=BROKEN), teacher, **settings)
    with pytest.raises(UserError, match="holds an unfinished labeling with another (rows|left out)"):
        labeled(photographs(row5=BROKEN), teacher, **settings)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_texts_missing_values_and_functions():
    rows = texts(6, 0)
    words = rows["text"][:]
    words[0], words[4] = None, ""
    rows = rows.remove_columns("text").add_column("text", words)
    teacher = DeterministicTeacher(bert())
    with pytest.raises(UserError, match="row 4: the text has no tokens"):
        labeled(rows.select([1, 2, 3, 1, 4, 5]), teacher, processing_class=tokenizer())
    soft = labeled(rows, teacher, processing_class=tokenizer(), on_error="skip")
    assert read(soft).record.dataset.left_out == [0, 4]

    def prepare(batch):
        return dict(tokenizer()([text.lower() for text in batch["text"]], padding=True, return_tensors="pt"))

    own = labeled(rows.select([0, 1, 2, 3]), teacher, preprocessor=prepare, on_error="skip")
    assert read(own).record.dataset.left_out == [0]
    np.testing.assert_allclose(own["teacher_probs"][:], soft["teacher_probs"][:3], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_several_teachers_and_folds_leave_out_the_same_rows():
    rows = photographs(row2=BROKEN)
    teachers = {"a": DeterministicTeacher(timm_vit()), "b": DeterministicTeacher(timm_vit(), temperature=2.0)}
    soft = labeled(rows, teachers, on_error="skip")
    assert len(soft) == 6 and {"teacher_probs__a", "teacher_probs__b"} <= set(soft.column_names)
    seen = []

    def fit(rest, fold):
        seen.append(len(rest))
        return teachers["a"]

    preprocessor = teachers["a"].preprocessor_for(rows)
    folded = labeled(rows, None, folds=2, fit=fit, preprocessor=preprocessor, on_error="skip")
    assert seen == [3, 3] and folded["teacher_probs"][:] == soft["teacher_probs__a"][:]


def test_what_cannot_be_skipped_is_refused():
    teacher = DeterministicTeacher(timm_vit())
    with pytest.raises(UserError, match="on_error is 'ignore'; it must be one of raise, skip"):
        labeled(photographs(), teacher, on_error="ignore")
    with pytest.raises(UserError, match="not one of the 1 rows can be read; of the first it is said: row 0 of column"):
        labeled(photographs(row0=BROKEN).select([0]), teacher, on_error="skip")
    with pytest.raises(UserError, match="rows of a streamed dataset can't be looked at before"):
        labeled(photographs().to_iterable_dataset(), teacher, on_error="skip")
