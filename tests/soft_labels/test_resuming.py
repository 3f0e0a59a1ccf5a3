"""Promise 3: labeling killed at any moment and started again gives the same columns, to the byte."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from hf_bkd import CropAndFlip, ImagePreprocessor, UserError, Views
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    Teacher,
    column_bytes,
    image_teacher,
    images,
    quiet,
    text_inputs,
    texts,
)

KILLS = 4
HOW = {"preprocessor": text_inputs, "batch_size": 2, "shard_rows": 3, "storage": "top_k", "top_k": 2}


class Slow(Teacher):
    def predict(self, inputs, num_samples, generator):
        time.sleep(0.004)
        return super().predict(inputs, num_samples, generator)


def whole_or_in_folds(folder, teacher, notes, folds):
    """Label 40 texts; each fit leaves a line in the notes."""
    if not folds:
        return quiet(texts(40), teacher("weights"), folder=folder, **HOW)

    def fit(rest, fold):
        with open(notes, "a") as file:
            file.write(f"{fold} {sum(rest['number'])}\n")
        return teacher(f"fold {fold}")

    return quiet(texts(40), folds=4, fit=fit, folder=folder, **HOW)


def label_slowly(folder, notes, folds):
    """With time between a file and its name too, so that it may be killed in there."""
    replace = os.replace

    def late(source, target):
        time.sleep(0.003)
        replace(source, target)

    os.replace = late
    whole_or_in_folds(folder, lambda name: Slow(name=name), notes, folds)


def finished_shards(folder):
    return len(list(folder.glob("[!.]*.arrow")))


@pytest.mark.parametrize(
    "folds", [pytest.param(False, marks=pytest.mark.slow), True], ids=["one teacher", "folds"]
)  # reliability/test_labels_folders.py kills the labeling of one
def test_killed_at_random_moments_and_finished_equals_uninterrupted(tmp_path, folds):
    folder, notes, moments = tmp_path / "labels", tmp_path / "notes", random.Random(folds)
    finished, killed = [0], 0
    for _ in range(KILLS):
        child = multiprocessing.get_context("fork").Process(target=label_slowly, args=(folder, notes, folds))
        child.start()
        deadline = time.monotonic() + 60
        while finished_shards(folder) == finished[-1] and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.04))
        os.kill(child.pid, signal.SIGKILL)
        child.join(timeout=60)
        killed += child.exitcode == -signal.SIGKILL
        finished.append(finished_shards(folder))
    assert finished == sorted(finished) and finished[-1] > 0
    assert killed >= 2  # the last may have finished before it was killed
    called = []

    def counted(name):
        called.append(Teacher(name=name))
        return called[-1]

    result = column_bytes(whole_or_in_folds(folder, counted, notes, folds))
    assert result == column_bytes(whole_or_in_folds(None, lambda name: Teacher(name=name), tmp_path / "other", folds))
    total = 4 * 4 if folds else 14
    asked = sum(len(call["x"]) for teacher in called for call in teacher.calls)
    assert 40 - 3 * finished[-1] <= asked <= 40 - 2 * finished[-1] + 4
    assert finished_shards(folder) == total
    assert not list(folder.glob(".*"))  # what was half written is gone
    if folds:
        fits = notes.read_text().splitlines()
        assert {fit.split()[0] for fit in fits} == set("0123") and len(set(fits)) == 4
        assert fits == sorted(fits)  # a fold that was finished was never fitted again
        assert len(fits) <= 4 + KILLS


def label_texts(folder, teacher=None, number=15, **how):
    return quiet(texts(number), teacher or Teacher(), folder=folder, **HOW | how)


def test_a_finished_labeling_asks_no_teacher(tmp_path):
    expected = column_bytes(label_texts(tmp_path))
    teacher = Teacher()
    assert column_bytes(label_texts(tmp_path, teacher)) == expected
    assert not teacher.calls


def test_finished_folds_are_not_fitted_again(tmp_path):
    fits = []

    def fit(rest, fold):
        fits.append(fold)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return Teacher(name=f"fold {fold}")

    def label():
        return quiet(texts(14), folds=4, fit=fit, folder=tmp_path, **HOW)

    with pytest.raises(KeyboardInterrupt):
        label()
    first = column_bytes(label())
    assert fits == [0, 1, 2, 2, 3]
    assert column_bytes(label()) == first
    assert len(fits) == 5


@pytest.mark.parametrize("folds", [False, True])
def test_the_record_of_a_resumed_labeling_tells_the_size_of_its_images(tmp_path, folds):
    """Even if none of them was read again."""

    def label(folder):
        who = {"folds": 2, "fit": lambda rest, fold: image_teacher()} if folds else {"teacher": image_teacher()}
        return column_bytes(quiet(images(10), preprocessor=PREPROCESS, shard_rows=4, folder=folder, **who))

    first = label(tmp_path)
    assert "[3, 2, 2]" in first["teacher_provenance"][1]
    assert label(tmp_path) == first == label(None)


def test_what_a_killed_process_left_half_written_is_ignored_and_removed(tmp_path):
    expected = column_bytes(label_texts(tmp_path))
    shards = sorted(tmp_path.glob("*.arrow"))
    whole = shards[1].read_bytes()
    shards[1].unlink()
    leftovers = [f".{shards[1].name}.abc123", ".labelling.json.xyz", ".fold-0000.json.q1"]
    for name in leftovers:
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert column_bytes(label_texts(tmp_path)) == expected
    assert sorted(tmp_path.glob("*.arrow")) == shards and shards[1].read_bytes() == whole
    assert not list(tmp_path.glob(".*"))


class TestAnotherLabeling:
    """Resumed into the same folder is refused, and what is there stays."""

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"teacher": Teacher(name="others")}, r"weights \('weights' there, 'others' here\)"),
            ({"teacher": Teacher(temperature=2.0)}, r"temperature \(1.0 there, 2.0 here\)"),
            ({"seed": 1}, r"seed \(0 there, 1 here\)"),
            ({"num_samples": 4}, r"num samples \(3 there, 4 here\)"),
            ({"storage": "float16"}, r"storage \('top_k' there, 'float16' here\)"),
            ({"top_k": 3}, r"top k \(2 there, 3 here\)"),
            ({"variance": "none"}, r"variance \('sum' there, 'none' here\)"),
            ({"shard_rows": 5}, r"shard rows \(3 there, 5 here\)"),
            ({"mixed_precision": "bf16"}, r"mixed precision \(None there, 'bf16' here\)"),
            ({"number": 16}, r"rows \(15 there, 16 here\)"),
        ],
    )
    def test_with_other_settings(self, tmp_path, changes, told):
        expected = column_bytes(label_texts(tmp_path))
        with pytest.raises(UserError, match=f"holds an unfinished labeling with another {told}: pass another folder"):
            label_texts(tmp_path, **changes)
        teacher = Teacher()
        assert column_bytes(label_texts(tmp_path, teacher)) == expected and not teacher.calls

    def test_with_other_views_or_preprocessing(self, tmp_path):
        how = {"preprocessor": PREPROCESS, "folder": tmp_path}
        views = Views(CropAndFlip(padding=1), num_views=2, seed=0)
        quiet(images(), image_teacher(), views=views, **how)
        for other, told in (
            (Views(CropAndFlip(padding=1), num_views=2, seed=1), "another seed"),
            (Views(CropAndFlip(padding=1), num_views=3, seed=0), "another number"),
            (Views(CropAndFlip(padding=0), num_views=2, seed=0), "another transforms"),
            (None, "another views"),
        ):
            with pytest.raises(UserError, match=told):
                quiet(images(), image_teacher(), views=other, **how)
        how["preprocessor"] = ImagePreprocessor((0.5, 0.25, 0.125), (1.0, 0.5, 0.5))
        with pytest.raises(UserError, match="another std"):
            quiet(images(), image_teacher(), views=views, **how)

    @pytest.mark.parametrize("folds", [False, True])
    def test_of_other_examples(self, tmp_path, folds):
        who = {"folds": 3, "fit": lambda rest, fold: Teacher()} if folds else {"teacher": Teacher()}
        quiet(texts(15), folder=tmp_path, **who, **HOW)
        with pytest.raises(UserError, match="were made for other examples .*another dataset, split or order"):
            quiet(texts(15, "other"), folder=tmp_path, **who, **HOW)

    def test_of_a_stream_of_another_length(self, tmp_path):
        quiet(texts(14).to_iterable_dataset(), Teacher(), folder=tmp_path, **HOW)
        with pytest.raises(UserError, match="a finished shard has 2 rows, and the dataset 3 in its place: it is of"):
            quiet(texts(15).to_iterable_dataset(), Teacher(), folder=tmp_path, **HOW)

    def test_in_other_folds_or_by_other_teachers_of_a_fold(self, tmp_path):
        def label(folds=3, name="fold"):
            return quiet(
                texts(15), folds=folds, fit=lambda rest, fold: Teacher(name=f"{name} {fold}"), folder=tmp_path, **HOW
            )

        expected = column_bytes(label())
        with pytest.raises(UserError, match=r"another folds \(3 there, 5 here\)"):
            label(folds=5)
        with pytest.raises(UserError, match=r"another folds \(3 there, None here\)|another teacher"):
            label_texts(tmp_path)
        next(tmp_path.glob("fold-0001-000001-*.arrow")).unlink()
        with pytest.raises(
            UserError,
            match=r"fold 2 is labeled in part by a teacher of another weights \('fold 1' there, 'new 1'",
        ):
            label(name="new")
        assert column_bytes(label()) == expected
