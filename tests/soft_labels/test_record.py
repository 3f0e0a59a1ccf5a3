"""The record of what made soft labels: JSON in a feature, read without trust."""

import json
from importlib.metadata import version

import datasets
import numpy as np
import pytest

from hf_bkd import UserError
from hf_bkd.soft_labels import attach, read, read_record
from hf_bkd.soft_labels.identity import Identity, class_names, fingerprint, summarized_ids
from hf_bkd.soft_labels.reading import read_provenance
from hf_bkd.soft_labels.record import LabelRecord, decode_record, description, encode_record, make_record
from tests.soft_labels.label_helpers import RECORD, Teacher, rows, some_probs


def made_of(teacher, dataset=None, **more):
    dataset = rows() if dataset is None else dataset
    how = {"num_samples": 1, "seed": 0, "storage": "float16", "identity": None}
    return make_record(teacher, dataset, **how | more)


class TestRecord:
    def test_says_what_was_done(self):
        dataset = rows()
        made = make_record(
            Teacher(temperature=3.0).describe(),
            dataset,
            num_samples=7,
            seed=5,
            storage="float16",
            identity=Identity(("x",)),
            preprocessing={"mean": [0.5], "std": [0.25]},
            folds={"number": 3},
            ids=summarized_ids(np.array([3, 1, 2, 3, 4, 5, 6, 7, 8, 3])),
            image_size=[3, 8, 8],
            views={"number": 2, "seed": 0, "transforms": []},
            mixed_precision="bf16",
            held_out={"nll": 0.5},
        )
        assert made.to_json() == {
            "format": 1,
            "teacher": Teacher(temperature=3.0).describe(),
            "num_samples": 7,
            "temperature": 3.0,
            "tempering": "post_average",
            "seed": 5,
            "storage": "float16",
            "views": {"number": 2, "seed": 0, "transforms": []},
            "folds": {"number": 3},
            "dataset": {
                "name": None,
                "repository": None,
                "revision": None,
                "split": None,
                "rows": 10,
                "content_column": "x",
                "identity": {"form": 2, "columns": ["x"]},
                "fingerprint": fingerprint(np.array([3, 1, 2, 3, 4, 5, 6, 7, 8, 3])),
                "repeated_ids": 2,
                "image_size": [3, 8, 8],
            },
            "class_names": ["class 0", "class 1", "class 2", "class 3"],
            "preprocessing": {"mean": [0.5], "std": [0.25]},
            "mixed_precision": "bf16",
            "held_out": {"nll": 0.5},
            "versions": {name: version(name) for name in ("hf_bkd", "torch", "transformers", "datasets")},
        }
        assert decode_record(datasets.ClassLabel(names=[encode_record(made)])) == made

    def test_names_the_repository_and_the_commit_of_a_dataset_from_the_hub(self):
        dataset = rows()
        dataset.info.dataset_name = "cifar10"
        dataset.info.download_checksums = {"hf://datasets/uoft-cs/cifar10@0b2714/plain_text/train.parquet": {}}
        made = made_of(Teacher().describe(), dataset).dataset
        assert (made.name, made.repository, made.revision) == ("cifar10", "uoft-cs/cifar10", "0b2714")

    def test_says_how_good_the_teacher_says_it_is_unless_told_better(self):
        teacher = Teacher().describe() | {"record": {"validation": {"nll": 0.7}}}
        assert made_of(teacher).held_out == {"nll": 0.7}
        assert made_of(teacher, held_out={"nll": 0.6}).held_out == {"nll": 0.6}
        assert made_of(Teacher().describe()).held_out is None

    def test_keeps_no_names_of_classes_that_the_teacher_does_not_know(self):
        """A dataset may have fine and coarse labels; which of them the teacher meant shows in their number."""
        made = made_of(Teacher(2).describe())
        assert made.class_names is None

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
                    RECORD | {"preprocessing": "center crop"},
                    RECORD | {"teacher": "me"},
                    RECORD | {"temperature": 10**400},
                    RECORD | {"temperature": float("inf")},
                    RECORD | {"temperature": True},
                    RECORD | {"class_names": 0},
                    RECORD | {"class_names": ["cat", 1]},
                    RECORD | {"teacher": {"num_classes": "4"}},
                    RECORD | {"teacher": {"num_classes": 0}},
                    RECORD | {"teacher": {"num_classes": 2.5}},
                    RECORD | {"teacher": {"members": [3]}},
                    RECORD | {"views": {"number": -1}},
                    RECORD | {"views": {"number": True}},
                    RECORD | {"views": [3]},
                    RECORD | {"held_out": "good"},
                    RECORD | {"dataset": {"repeated_ids": "none"}},
                )
            ),
        ],
    )
    def test_junk_is_refused(self, feature):
        with pytest.raises(UserError, match="teacher_provenance holds no record of this library .*: label again"):
            decode_record(feature)

    def test_so_it_is_when_the_labels_are_read(self):
        dataset = rows().add_column("teacher_probs", some_probs(10, 4).tolist())
        with pytest.raises(UserError, match="holds no record"):
            read(dataset.add_column("teacher_provenance", ["made by hand"] * 10))
        with pytest.raises(UserError, match="holds no record"):
            read(dataset.add_column("teacher_provenance", [0] * 10, feature=datasets.ClassLabel(names=["junk"])))

    def test_a_later_format_is_named(self):
        feature = datasets.ClassLabel(names=['{"format": 2, "temperatures": [1, 2]}'])
        with pytest.raises(UserError, match="are of format 2, and this version of hf_bkd reads format 1"):
            decode_record(feature)

    def test_what_could_not_be_read_is_not_written(self):
        with pytest.raises(UserError, match="holds no record"):
            attach(rows(), some_probs(10, 4), {"note": "mine"})

    def test_is_none_of_a_dataset_without(self):
        assert read_record(rows().features) is None


def test_class_names_come_from_the_label_column():
    names = datasets.ClassLabel(names=["cat", "dog"])
    for column in ("label", "labels", "fine_label"):
        assert class_names(datasets.Features({column: names})) == ["cat", "dog"]
    assert class_names(datasets.Features({"label": datasets.Value("int64"), "breed": names})) is None


class TestVersions:
    """Records of older and later versions are read, and stay as they are."""

    OTHER = RECORD | {
        "novel": [1, {"a": None}],
        "teacher": {"method": "novel", "rank": 20},
        "dataset": {"license": "x"},
    }

    @pytest.mark.parametrize("content", [RECORD, OTHER, RECORD | {"teacher": None, "views": None}])
    def test_survive_a_round_trip(self, content):
        record = LabelRecord.from_json(content)
        assert record.to_json() == content
        assert encode_record(record) == json.dumps(content, sort_keys=True)
        assert decode_record(datasets.ClassLabel(names=[encode_record(record)])) == record

    def test_have_none_for_what_they_lack(self):
        record = LabelRecord.from_json(RECORD)
        assert (
            record.num_samples is record.seed is record.views is record.teacher.method is record.dataset.rows is None
        )
        assert (record.num_views, record.draws, record.shown_views()) == (1, None, None)

    @pytest.mark.parametrize(
        ("teacher", "draws"),
        [
            ({"method": "variational"}, 10),
            ({"method": "deterministic"}, 1),
            ({"method": "laplace", "link": "mc"}, 10),
            ({"method": "laplace", "link": "probit"}, 1),
            ({"method": "ensemble", "members": [{"method": "deterministic"}, {"method": "mc_dropout"}]}, 20),
            ({"method": "novel", "num_draws": 7}, 7),
        ],
    )
    def test_say_how_often_the_teacher_drew(self, teacher, draws):
        assert LabelRecord.from_json(RECORD | {"num_samples": 10, "teacher": teacher}).draws == draws

    def test_a_teacher_that_draws_otherwise_than_its_kind_says_so(self):
        teacher = Teacher()
        assert description(teacher, 5) == teacher.describe()
        teacher.num_draws = lambda num_samples: num_samples
        assert description(teacher, 5) == teacher.describe()
        teacher.num_draws = lambda num_samples: 3 * num_samples
        assert made_of(description(teacher, 5), num_samples=5).draws == 15

    def test_old_names_work_and_warn(self):
        labeled = attach(rows(), some_probs(10, 4), RECORD)
        with pytest.warns(DeprecationWarning, match="read_provenance is now called read_record"):
            assert read_provenance(labeled.features) == RECORD
        with pytest.warns(DeprecationWarning, match="SoftLabels.provenance is now called SoftLabels.record"):
            assert read(labeled).provenance == RECORD
        with pytest.warns(DeprecationWarning, match="argument provenance of attach is now called record"):
            attach(rows(), some_probs(10, 4), provenance=RECORD)
