"""Labels that were shared without their examples find them again, wherever they stand, or say what is missing."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.soft_labels import attach, join_soft_labels, only_soft_labels, read
from hf_bkd.soft_labels.identity import content_ids
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    RECORD,
    STORAGES,
    VIEWS,
    Teacher,
    column_bytes,
    image_teacher,
    images,
    quiet,
    rows,
    some_probs,
    text_inputs,
    texts,
)


def labeled_texts(dataset=None, **how):
    return quiet(texts() if dataset is None else dataset, Teacher(), preprocessor=text_inputs, **how)


class TestFound:
    @pytest.mark.parametrize("views", [None, VIEWS], ids=["one view", "three views"])
    @pytest.mark.parametrize("storage", STORAGES)
    def test_of_every_storage_to_the_byte(self, storage, views):
        whole = quiet(images(12), image_teacher(), preprocessor=PREPROCESS, views=views, storage=storage, top_k=2)
        shared = only_soft_labels(whole)
        assert "picture" not in shared.column_names
        assert column_bytes(join_soft_labels(images(12), shared)) == column_bytes(whole)

    @pytest.mark.parametrize("shuffled", ["examples", "labels", "both"])
    def test_in_whatever_order(self, shuffled):
        whole = labeled_texts()
        examples = texts() if shuffled == "labels" else texts().shuffle(seed=1)
        labels = only_soft_labels(whole if shuffled == "examples" else whole.shuffle(seed=2))
        found = join_soft_labels(examples, labels)
        assert found.column_names == whole.column_names
        assert found["text"][:] == examples["text"][:]
        assert column_bytes(found.sort("number")) == column_bytes(whole)

    def test_for_some_of_the_examples(self):
        whole = labeled_texts()
        found = join_soft_labels(texts().select([7, 2, 3]), only_soft_labels(whole))
        assert torch.equal(read(found).probs, read(whole).probs[[7, 2, 3]])
        assert found["example_id"][:] == content_ids(["text 7", "text 2", "text 3"]).tolist()

    def test_where_examples_are_equal(self):
        """As often as they were labeled, and oftener."""
        repeated = texts(3).select([0, 1, 0, 2, 0])
        whole = labeled_texts(repeated)
        found = join_soft_labels(repeated.shuffle(seed=4), only_soft_labels(whole).shuffle(seed=5))
        assert column_bytes(found.sort("number")) == column_bytes(whole.sort("number"))
        oftener = join_soft_labels(texts(3).select([0] * 7), only_soft_labels(whole))
        assert torch.equal(read(oftener).probs, read(whole).probs[[0] * 7])

    def test_where_equal_examples_have_several_labels(self):
        """The k-th of equal examples gets the k-th label, if several teachers can have labeled them."""
        values = texts(2).select([0, 1, 0])
        ids = content_ids(values["text"][:])
        probs = some_probs(3, 4)
        folds = {"number": 2, "seed": 0, "weights": ["a", "b"]}
        record = RECORD | {"folds": folds}
        labels = only_soft_labels(attach(values, probs, record, example_ids=ids, storage="float32"))
        found = join_soft_labels(texts(2).select([0, 0, 1, 0]), labels)
        assert torch.equal(read(found).probs, torch.from_numpy(probs[[0, 2, 1, 0]]).float())

    def test_of_several_teachers(self):
        both = quiet(labeled_texts(name="a"), Teacher(name="b"), preprocessor=text_inputs, seed=1, name="b")
        found = join_soft_labels(texts().shuffle(seed=0), only_soft_labels(both))
        assert column_bytes(found.sort("number")) == column_bytes(both)
        assert not torch.equal(read(found, "a").probs, read(found, "b").probs)

    def test_in_place_of_older_ones(self):
        old, new = labeled_texts(seed=1), labeled_texts(seed=2)
        assert column_bytes(join_soft_labels(old, only_soft_labels(new))) == column_bytes(new)

    def test_after_parquet(self, tmp_path):
        whole = labeled_texts(storage="top_k", top_k=2)
        only_soft_labels(whole).shuffle(seed=0).to_parquet(tmp_path / "labels.parquet")
        loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "labels.parquet"), cache_dir=tmp_path)
        assert column_bytes(join_soft_labels(texts(), loaded["train"])) == column_bytes(whole)

    def test_and_the_format_of_the_examples_stays(self):
        examples = texts().with_transform(lambda batch: {"length": [len(text) for text in batch["text"]]})
        assert join_soft_labels(examples, only_soft_labels(labeled_texts()))[3] == {"length": 6}


class TestRefused:
    def test_examples_without_labels_are_counted_and_named(self):
        labels = only_soft_labels(labeled_texts().select(range(2, 10)))
        first = ", ".join(map(str, content_ids(["text 0", "text 1"])))
        with pytest.raises(
            UserError,
            match=rf"2 of 10 examples have no soft labels \(the first ids: {first}\): .*label these with",
        ):
            join_soft_labels(texts(), labels)
        first = ", ".join(map(str, content_ids([f"other {i}" for i in range(3)])))
        with pytest.raises(UserError, match=rf"10 of 10 examples .*\(the first ids: {first}\)"):
            join_soft_labels(texts(prefix="other"), only_soft_labels(labeled_texts()))

    def test_ids_that_were_repeated_after_labeling_are_counted_and_named(self):
        labels = only_soft_labels(labeled_texts())
        twice = datasets.concatenate_datasets([labels, labels.select([3, 5])])
        told = ", ".join(map(str, sorted(content_ids(["text 3", "text 5"]).tolist())))
        with pytest.raises(
            UserError, match=rf"2 rows of the labels repeat an example_id and 0 did when .*\(the first: {told}\)"
        ):
            join_soft_labels(texts(), twice)

    def test_equal_ids_with_different_labels(self):
        """Unless cross-fitted, nobody can tell which label is whose."""
        values = texts(2).select([1, 0, 0])
        ids = content_ids(values["text"][:])
        labels = only_soft_labels(attach(values, some_probs(3, 4), RECORD, example_ids=ids, storage="float32"))
        with pytest.raises(
            UserError, match="rows 1 and 2 of the labels have the same example_id and different labels"
        ):
            join_soft_labels(values, labels)

    def test_labels_that_lost_their_ids(self):
        labels = only_soft_labels(labeled_texts()).remove_columns("example_id")
        with pytest.raises(
            UserError,
            match="need teacher_probs and example_id, and they have only teacher_probs, teacher_variance,",
        ):
            join_soft_labels(texts(), labels)

    def test_what_holds_no_labels(self):
        with pytest.raises(UserError, match="need teacher_probs and example_id, and they have only text, number"):
            join_soft_labels(texts(), texts())
        with pytest.raises(UserError, match="only rows without columns"):
            join_soft_labels(texts(), datasets.Dataset.from_dict({}))

    @pytest.mark.parametrize("ids", [["a"] * 10, [None] * 10, [2**70] * 10])
    def test_ids_that_are_no_whole_numbers(self, ids):
        labels = only_soft_labels(labeled_texts()).remove_columns("example_id")
        kind = datasets.Value("string") if ids[0] is not None else datasets.Value("int64")
        labels = labels.add_column("example_id", [i if i is None else str(i) for i in ids], feature=kind)
        with pytest.raises(UserError, match="example_id of the labels holds something else than whole numbers"):
            join_soft_labels(texts(), labels)

    def test_labels_without_a_record_unless_allowed(self):
        whole = labeled_texts()
        labels = only_soft_labels(whole).remove_columns("teacher_provenance")
        with pytest.raises(
            UserError, match="teacher_probs has no teacher_provenance, so nobody .* pass allow_unrecorded=True if you"
        ):
            join_soft_labels(texts(), labels)
        found = join_soft_labels(texts(), labels, allow_unrecorded=True)
        assert torch.equal(read(found).probs, read(whole).probs)
        assert read(found).record is None

    def test_examples_that_nothing_tells_apart(self):
        with pytest.raises(UserError, match="nothing in the columns x, label, number tells what an example is"):
            join_soft_labels(rows(), only_soft_labels(labeled_texts()))

    def test_labels_of_other_classes(self):
        names = [datasets.ClassLabel(names=list(letters)) for letters in ("abcd", "abdc")]
        one, other = (texts().add_column("label", [0, 1] * 5, feature=name) for name in names)
        with pytest.raises(UserError, match="other classes than the dataset's: class 2 is 'c' there and 'd' here"):
            join_soft_labels(other, only_soft_labels(labeled_texts(one)))

    def test_labels_that_are_no_distributions(self):
        labels = only_soft_labels(labeled_texts()).remove_columns("teacher_probs")
        broken = np.full((10, 4), 0.25)
        broken[6, 1] = np.nan
        with pytest.raises(UserError, match="row 6 of the soft labels holds a value that is not a finite number"):
            join_soft_labels(texts(), labels.add_column("teacher_probs", broken.tolist()))
