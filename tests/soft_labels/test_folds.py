"""Cross-fitting: each example is labeled by a teacher that was fitted without it."""

import datasets
import pytest
import torch

from hf_bkd import DeterministicTeacher, UserError, Views
from hf_bkd.data.augmentations import CutMix, Mixup
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.identity import content_ids
from tests.cli.fitting_helpers import bert, tokenizer
from tests.cli.fitting_helpers import texts as classified_texts
from tests.soft_labels.label_helpers import PREPROCESS, Teacher, image_teacher, images, quiet, rows


class TestFolds:
    @pytest.fixture
    def fitted(self):
        return {}

    @pytest.fixture
    def fit(self, fitted):
        def fit(rest, fold):
            teacher = Teacher(name=f"fold {fold}")
            teacher.seen = set(rest.with_format(None)["number"][:])
            fitted[fold] = teacher
            return teacher

        return fit

    @pytest.fixture
    def numbered(self):
        """Whose inputs are their numbers."""
        dataset = rows(11).remove_columns("x")
        return dataset.with_transform(
            lambda batch: {"x": torch.tensor(batch["number"]).float()[:, None].expand(-1, 3)}
        )

    @pytest.mark.parametrize("folds", [2, 3, 11])
    def test_no_teacher_labels_what_it_was_fitted_on(self, numbered, fit, fitted, folds):
        quiet(numbered, folds=folds, fit=fit, batch_size=2)
        assert sorted(fitted) == list(range(folds))
        labeled = []
        for teacher in fitted.values():
            asked = set(torch.cat([call["x"][:, 0] for call in teacher.calls]).int().tolist())
            assert not asked & teacher.seen
            assert asked | teacher.seen == set(range(11))
            assert len(asked) in (11 // folds, 11 // folds + 1)
            labeled += asked
        assert sorted(labeled) == list(range(11))

    @pytest.mark.parametrize("shuffled", [False, True])
    def test_labels_are_back_in_order(self, numbered, shuffled):
        class Echo(Teacher):
            def predict(self, inputs, num_samples, generator):
                number = inputs["x"][:, :1] / 100
                return (
                    super()
                    .predict(inputs, 2, generator)
                    ._replace(
                        mean=torch.cat([number, 1 - number, 0 * number, 0 * number], dim=1),
                        variance=number.expand(-1, 4),
                    )
                )

        numbered = numbered.shuffle(seed=0) if shuffled else numbered
        found = quiet(numbered, folds=3, fit=lambda rest, fold: Echo(), batch_size=2)
        numbers = torch.tensor(found.with_format(None)["number"][:]) / 100
        assert torch.equal(read(found).probs[:, 0], numbers)
        assert torch.equal(read(found).variance[:, 2], numbers)

    def test_record_says_so(self, numbered, fit):
        record = read(quiet(numbered, folds=3, fit=fit, seed=4)).record
        assert record.folds == {"number": 3, "seed": 4, "weights": ["fold 0", "fold 1", "fold 2"]}

    def test_example_ids_are_back_in_order_too(self, fit):
        dataset = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(7)], "number": list(range(7))})
        found = quiet(dataset, folds=3, fit=fit, preprocessor=lambda batch: {"x": torch.zeros(len(batch["text"]), 3)})
        assert found["example_id"][:] == content_ids(dataset["text"][:]).tolist()

    def test_parts_depend_on_the_seed(self, numbered, fit, fitted):
        seen = []
        for seed in (0, 0, 1):
            quiet(numbered, folds=2, fit=fit, seed=seed)
            seen.append(fitted[0].seen)
        assert seen[0] == seen[1] != seen[2]

    @pytest.mark.parametrize("folds", [-1, 0, 1, 12])
    def test_out_of_range_are_refused(self, numbered, fit, folds):
        told = r"between 2 and the number of rows \(11\)" if folds > 2 else "a whole number of at least 2"
        with pytest.raises(UserError, match=f"folds must be {told}, and it is {folds}"):
            quiet(numbered, folds=folds, fit=fit)


@pytest.mark.parametrize("mixing", [Mixup(0.4), CutMix(1.0)])
def test_each_image_is_mixed_with_one_of_the_whole_set_as_its_student_sees_it(mixing):
    settings = {"views": Views(mixing, num_views=2, seed=3), "preprocessor": PREPROCESS}
    whole = read(quiet(images(9), image_teacher(), **settings)).probs
    folded = read(quiet(images(9), folds=3, fit=lambda rest, fold: image_teacher(), **settings)).probs
    assert torch.equal(folded, whole)


@pytest.mark.parametrize("own", [True, False])
def test_teachers_read_by_their_own_preprocessor(own):
    rows, network = classified_texts(8, 0), bert()

    def fit(rest, fold):
        teacher = DeterministicTeacher(network)
        teacher.processing_class = tokenizer() if own else None
        return teacher

    passed = {} if own else {"processing_class": tokenizer()}
    folded = quiet(rows, folds=2, fit=fit, **passed)
    whole = quiet(rows, fit(rows, 0), **passed)
    assert torch.equal(read(folded).probs, read(whole).probs)
    assert folded["example_id"][:] == whole["example_id"][:]


def test_teachers_that_read_differently_are_refused():
    def fit(rest, fold):
        teacher = DeterministicTeacher(bert())
        teacher.processing_class = tokenizer()
        teacher.processing_class.model_max_length = 5 - fold
        return teacher

    with pytest.raises(UserError, match="the teacher of fold 2 prepares examples differently"):
        quiet(classified_texts(8, 0), folds=2, fit=fit)


def test_rows_that_nobody_can_read_yet_are_not_skipped():
    with pytest.raises(UserError, match="with folds and on_error='skip' rows are read before there is a teacher"):
        quiet(classified_texts(8, 0), folds=2, fit=lambda rest, fold: None, on_error="skip")
