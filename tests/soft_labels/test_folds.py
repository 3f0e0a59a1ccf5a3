"""Cross-fitting: each example is labeled by a teacher that was fitted without it."""

import datasets
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.identity import content_ids
from tests.soft_labels.label_helpers import Teacher, quiet, rows


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
