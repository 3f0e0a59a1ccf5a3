"""The record of what made soft labels: JSON in a feature, read without trust, and hashes that know an example."""

import json
from importlib.metadata import version

import datasets
import numpy as np
import pytest
from label_helpers import RECORD, Teacher, rows, some_probs
from PIL import Image

from hf_bkd import UserError
from hf_bkd.soft_labels import attach, read, read_provenance
from hf_bkd.soft_labels.provenance import (
    check_class_count,
    check_class_names,
    check_identity,
    class_names,
    content_column,
    content_ids,
    decode_provenance,
    encode_provenance,
    make_provenance,
)

FROZEN_IDS = [5830437876521264211, 7580658050685744798, -8423197372561305224]


class TestRecord:
    def test_says_what_was_done(self):
        dataset = rows()
        made = make_provenance(
            Teacher(temperature=3.0).describe(),
            dataset,
            num_samples=7,
            seed=5,
            storage="float16",
            content_column="x",
            preprocessing={"mean": [0.5], "std": [0.25]},
            folds={"number": 3},
        )
        assert made == {
            "format": 1,
            "teacher": Teacher(temperature=3.0).describe(),
            "num_samples": 7,
            "temperature": 3.0,
            "tempering": "post_average",
            "seed": 5,
            "storage": "float16",
            "folds": {"number": 3},
            "dataset": {"name": None, "split": None, "rows": 10, "content_column": "x"},
            "class_names": ["class 0", "class 1", "class 2", "class 3"],
            "preprocessing": {"mean": [0.5], "std": [0.25]},
            "versions": {name: version(name) for name in ("torch", "transformers", "datasets")},
        }
        assert decode_provenance(datasets.ClassLabel(names=[encode_provenance(made)])) == made

    def test_keeps_no_names_of_classes_that_the_teacher_does_not_know(self):
        """A dataset may have fine and coarse labels; which of them the teacher meant shows in their number."""
        made = make_provenance(
            Teacher(2).describe(), rows(), num_samples=1, seed=0, storage="float16", content_column=None,
            preprocessing=None,
        )  # fmt: skip
        assert made["class_names"] is None

    @pytest.mark.parametrize(
        "feature",
        [
            datasets.Value("string"),
            datasets.ClassLabel(num_classes=0, names=[]),
            datasets.ClassLabel(names=["cat", "dog"]),
            *(
                datasets.ClassLabel(names=[json.dumps(junk)])
                for junk in (
                    None,
                    7,
                    "format",
                    [1],
                    {},
                    {"format": 1},
                    {"format": 1, "temperature": 1.0},
                    RECORD | {"temperature": "warm"},
                    RECORD | {"temperature": None},
                    RECORD | {"temperature": 0},
                    RECORD | {"temperature": -1.0},
                    RECORD | {"tempering": 3},
                    RECORD | {"dataset": ["x"]},
                    RECORD | {"preprocessing": "centre crop"},
                    RECORD | {"teacher": "me"},
                )
            ),
        ],
    )
    def test_junk_is_refused(self, feature):
        with pytest.raises(UserError, match="teacher_provenance holds no record of this library .*: label again"):
            decode_provenance(feature)

    def test_so_it_is_when_the_labels_are_read(self):
        dataset = rows().add_column("teacher_probs", some_probs(10, 4).tolist())
        with pytest.raises(UserError, match="holds no record"):
            read(dataset.add_column("teacher_provenance", ["made by hand"] * 10))
        with pytest.raises(UserError, match="holds no record"):
            read(dataset.add_column("teacher_provenance", [0] * 10, feature=datasets.ClassLabel(names=["junk"])))

    def test_a_later_format_is_named(self):
        feature = datasets.ClassLabel(names=['{"format": 2, "temperatures": [1, 2]}'])
        with pytest.raises(UserError, match="are of format 2, and this version of hf_bkd reads format 1"):
            decode_provenance(feature)

    def test_what_could_not_be_read_is_not_written(self):
        with pytest.raises(UserError, match="holds no record"):
            attach(rows(), some_probs(10, 4), {"note": "mine"})

    def test_is_none_of_a_dataset_without(self):
        assert read_provenance(rows().features) is None


class TestContent:
    def test_column_is_the_image_else_the_text_else_the_tokens(self):
        image, text, number = datasets.Image(), datasets.Value("string"), datasets.Value("int64")
        tokens = datasets.List(number)
        found = [
            content_column(datasets.Features(features))
            for features in (
                {"text": text, "picture": image, "label": number},
                {"label": number, "input_ids": tokens, "text": text},
                {"label": number, "text": datasets.Value("large_string")},
                {"label": number, "input_ids": tokens},
                {"label": number, "pixel_values": datasets.List(tokens)},
                {"label": number},
            )
        ]
        assert found == ["picture", "text", "text", "input_ids", "pixel_values", None]

    def test_ids_never_change(self):
        """They are stored in published datasets."""
        image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
        ids = content_ids(["a text", image, [1, 2, 3]])
        assert ids.dtype == np.int64
        assert ids.tolist() == FROZEN_IDS

    def test_differ_by_pixels_shape_and_order(self):
        pixels = np.arange(16, dtype=np.uint8)
        other = pixels.copy()
        other[3] += 1
        arrays = [pixels.reshape(4, 4), pixels.reshape(2, 8), pixels.reshape(8, 2), other.reshape(4, 4)]
        ids = content_ids([Image.fromarray(array) for array in arrays])
        assert len(set(ids.tolist())) == 4
        assert len(set(content_ids(["ab", "ba", "AB", "ab ", ""]).tolist())) == 5
        assert len(set(content_ids([[1, 2], [2, 1], [1, 2, 3], []]).tolist())) == 4

    def test_an_image_is_the_same_decoded_or_not(self):
        images = [Image.fromarray(np.full((2, 2), value, np.uint8)) for value in (1, 2)]
        features = datasets.Features({"image": datasets.Image()})
        dataset = datasets.Dataset.from_dict({"image": images}, features=features)
        undecoded = dataset.cast_column("image", datasets.Image(decode=False))
        assert isinstance(undecoded[0]["image"], dict)
        assert content_ids(undecoded["image"][:]).tolist() == content_ids(images).tolist()

    def test_objects_are_known_by_what_they_say_not_by_where_they_are_in_memory(self):
        first, second, other = content_ids([["ab", None], ["".join("ab"), None], ["ba", None]]).tolist()
        assert first == second != other
        assert len(set(content_ids([None, None, ""]).tolist())) == 2

    def test_no_rows_have_no_ids(self):
        assert content_ids([]).shape == (0,)


class TestChecks:
    def test_identity_counts_and_names_the_rows(self):
        check_identity(np.arange(5), np.arange(5))
        with pytest.raises(UserError, match=r"of 2 of 5 rows were made for other examples \(first: row 3\)"):
            check_identity(np.arange(5), np.array([0, 1, 2, 4, 3]))

    def test_identity_names_the_rows_of_the_dataset_where_some_were_looked_at(self):
        with pytest.raises(UserError, match=r"of 1 of 3 rows looked at were made .* \(first: row 100\)"):
            check_identity(np.arange(3), np.array([0, 7, 2]), np.array([0, 100, 200]))

    def test_class_names_come_from_the_label_column(self):
        names = datasets.ClassLabel(names=["cat", "dog"])
        for column in ("label", "labels", "fine_label"):
            assert class_names(datasets.Features({column: names})) == ["cat", "dog"]
        assert class_names(datasets.Features({"label": datasets.Value("int64"), "breed": names})) is None

    def test_class_names_are_compared_where_both_are_known(self):
        features = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog", "eel"])})
        for accepted in (None, {}, {"class_names": None}, {"class_names": ["cat", "dog", "eel"]}):
            check_class_names(accepted, features)
        check_class_names({"class_names": ["a", "b"]}, datasets.Features({"label": datasets.Value("int64")}))
        with pytest.raises(UserError, match="other classes .*: class 1 is 'eel' there and 'dog' here; label it again"):
            check_class_names({"class_names": ["cat", "eel", "dog"]}, features)
        with pytest.raises(UserError, match="other classes .*: 2 classes against 3"):
            check_class_names({"class_names": ["cat", "dog"]}, features)

    def test_class_counts_are_compared_with_every_label_column(self):
        two, three = datasets.ClassLabel(names=["cat", "dog"]), datasets.ClassLabel(num_classes=3)
        check_class_count("the teacher", 2, datasets.Features({"label": two, "fine_label": three}))
        check_class_count("the teacher", 5, datasets.Features({"label": datasets.Value("int64")}))
        with pytest.raises(
            UserError, match="the teacher has 2 classes and the dataset's column labels has 3: label it"
        ):
            check_class_count("the teacher", 2, datasets.Features({"labels": three}))


def test_a_count_that_no_label_column_has_is_refused_and_one_that_any_has_is_not():
    fine, coarse = datasets.ClassLabel(num_classes=100), datasets.ClassLabel(num_classes=20)
    both = datasets.Features({"fine_label": fine, "coarse_label": coarse})
    check_class_count("the teacher", 20, both)
    check_class_count("the teacher", 100, both)
    with pytest.raises(UserError, match="fine_label has 100 and coarse_label has 20"):
        check_class_count("the teacher", 3, both)
