"""Labels that are each there or not, numbers, and a class for each token: what is refused of them, and imported."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.likelihoods import Bernoulli, Gaussian
from hf_bkd.soft_labels import attach, import_soft_labels, read
from hf_bkd.soft_labels.belonging import Facts, check_belonging
from hf_bkd.soft_labels.reading import stored_labels
from tests.soft_labels.label_helpers import (
    RECORD,
    KindTeacher,
    TokenTeacher,
    quiet,
    text_inputs,
    texts,
    token_inputs,
    words,
)

HOW = {"preprocessor": text_inputs}


def test_a_storage_that_such_labels_cannot_have():
    for likelihood, storage in [(Bernoulli(), "top_k"), (Gaussian(), "top_k"), (Gaussian(), "uint8")]:
        teacher = KindTeacher(likelihood)
        with pytest.raises(UserError, match=f"storage='{storage}' holds .* and the soft labels are of"):
            quiet(texts(3), teacher, storage=storage, **HOW)
        assert not teacher.calls


def test_probabilities_outside_of_zero_to_one():
    record = RECORD | {"problem_type": "multi_label_classification"}
    with pytest.raises(UserError, match="row 1 of the soft labels holds a probability above one .*maximum 1.5"):
        attach(texts(2), np.array([[0.5, 1.0], [1.5, 0.0]]), record)
    with pytest.raises(UserError, match="row 0 of the soft labels holds a negative probability"):
        attach(texts(1), np.array([[-0.5, 1.0]]), record)
    sums = attach(texts(2), np.array([[1.0, 1.0], [0.0, 0.0]]), record)
    assert read(sums).values.tolist() == [[1, 1], [0, 0]]


def test_numbers_that_are_not_finite():
    record = RECORD | {"problem_type": "regression"}
    with pytest.raises(UserError, match="row 1 of the soft labels holds a value that is not a finite number"):
        attach(texts(2), np.array([[0.5], [np.nan]]), record)


def test_a_noise_that_is_no_variance():
    record = RECORD | {"problem_type": "regression"}
    for noise in (0.0, -1.0, np.inf):
        with pytest.raises(UserError, match="the noise is a label's variance .* must be above 0"):
            attach(texts(1), np.array([[0.5]]), record, noise=np.array([[noise]]))
    made = attach(texts(2), np.ones((2, 1)), record, noise=np.ones((2, 1)))
    feature = made.features["teacher_noise"]
    changed = made.remove_columns("teacher_noise").add_column("teacher_noise", [[1.0], [0.0]], feature=feature)
    with pytest.raises(UserError, match="row 1 of column teacher_noise holds a variance that is not above 0"):
        read(changed)


def test_a_temperature_of_numbers():
    record = RECORD | {"problem_type": "regression", "temperature": 2.0}
    with pytest.raises(UserError, match="a temperature means nothing for regression"):
        attach(texts(1), np.array([[0.5]]), record)
    made = attach(texts(1), np.array([[0.5]]), RECORD | {"problem_type": "regression"})
    with pytest.raises(UserError, match="where a temperature means nothing: omit teacher_temperature"):
        stored_labels(made, 2.0, None)


def test_an_unknown_problem():
    with pytest.raises(UserError, match="problem_type is 'ranking'"):
        attach(texts(1), np.array([[0.5]]), RECORD | {"problem_type": "ranking"})


def test_another_kind_than_the_students():
    numbers = read(quiet(texts(3), KindTeacher(Gaussian()), **HOW)).layout
    with pytest.raises(UserError, match="of regression, and the student's problem_type is multi_label"):
        check_belonging(numbers, Facts(likelihood=Bernoulli()))
    with pytest.raises(UserError, match="has 4 numbers and the model has 3"):
        check_belonging(numbers, Facts(num_classes=3))
    tokens = read(quiet(words(3), TokenTeacher(), preprocessor=token_inputs)).layout
    with pytest.raises(UserError, match="one label for each token, and the student answers for each example"):
        check_belonging(tokens, Facts(per_token=False))
    with pytest.raises(UserError, match="one label for each example, and the student answers for each token"):
        check_belonging(numbers, Facts(per_token=True))


def test_other_classes_than_the_lists_name():
    dataset = words(4)
    with pytest.raises(UserError, match="the teacher has 4 classes and the dataset's column ner_tags has 3"):
        quiet(dataset, TokenTeacher(num_classes=4), preprocessor=token_inputs)
    teacher = TokenTeacher()
    teacher.class_names = ["LOC", "O", "PER"]
    swapped = read(quiet(dataset, teacher, preprocessor=token_inputs))
    plain = read(quiet(dataset, TokenTeacher(), preprocessor=token_inputs))
    assert torch.equal(swapped.values, plain.values[:, [1, 2, 0]])


def test_labels_of_another_number_of_tokens():
    dataset = words(5)
    made = quiet(dataset, TokenTeacher(), preprocessor=token_inputs)
    mask = token_inputs(dataset[:])["attention_mask"]
    mask[3, -1] = 1 - mask[3, -1]
    layout = read(made).layout
    with pytest.raises(UserError, match="row 13 of column teacher_probs has labels of"):
        layout.of_rows(made["teacher_probs"][:], mask=mask, numbers=range(10, 15))
    ids = [row[mask[number] == 1].tolist() for number, row in enumerate(token_inputs(dataset[:])["input_ids"])]
    features = datasets.Features({"input_ids": datasets.List(datasets.Value("int64"))})
    tokens = datasets.Dataset.from_dict({"input_ids": [each[:-1] if n == 2 else each for n, each in enumerate(ids)]})
    probs, lengths = read(made).values.numpy(), read(made).lengths.numpy()
    record = RECORD | {"positions": "tokens", "dataset": {"content_column": "input_ids"}}
    joined = attach(tokens.cast(features), probs, record, lengths=lengths)
    with pytest.raises(UserError, match="row 2 of column teacher_probs has labels of .* tokens, and its example has"):
        read(joined)


def test_tokens_of_another_number_than_their_teacher_answers_for():
    teacher = TokenTeacher()
    short = teacher.predict
    teacher.predict = lambda inputs, *how: short({"input_ids": inputs["input_ids"][:, 1:]}, *how)
    with pytest.raises(UserError, match=r"answered with probabilities \[5, 5, 3\].* they would be \[5, 6, 3\]"):
        quiet(words(5), teacher, preprocessor=token_inputs)


def test_columns_and_records_that_contradict_each_other():
    record = RECORD | {"positions": "tokens"}
    with pytest.raises(UserError, match="labels of tokens need both lengths and a record"):
        attach(texts(2), np.full((2, 2), 0.5), record)
    with pytest.raises(UserError, match="there are labels of 2 tokens, and the rows have 3 together"):
        attach(texts(2), np.full((2, 2), 0.5), record, lengths=np.array([1, 2]))
    made = attach(texts(2), np.full((3, 2), 0.5), record, lengths=np.array([1, 2]))
    plain = attach(texts(2), np.full((2, 2), 0.5), RECORD)
    with pytest.raises(UserError, match="speaks of one answer for each row"):
        read(
            made.remove_columns("teacher_provenance").add_column(
                "teacher_provenance", [0, 0], feature=plain.features["teacher_provenance"]
            )
        )


def test_teachers_of_several_kinds_in_the_folds():
    def fit(rest, fold):
        return (KindTeacher(Bernoulli()), KindTeacher(Gaussian()))[fold]

    with pytest.raises(UserError, match="fit gave a teacher of multi_label_classification for the first fold"):
        quiet(texts(6), folds=2, fit=fit, storage="auto", **HOW)


class TestImporting:
    IDS = ["text 0", "text 1"]

    def imported(self, values, problem_type, **how):
        return import_soft_labels(texts(2), np.array(values), self.IDS, "text", problem_type=problem_type, **how)

    def test_logits_and_probabilities_of_labels(self):
        made = self.imported([[0.0, 2.0], [-1.0, 5.0]], "multi_label_classification", storage="float32")
        np.testing.assert_allclose(read(made).values, 1 / (1 + np.exp([[0, -2.0], [1, -5]])), rtol=1e-6)
        made = self.imported([[0.0, 1.0], [1.0, 1.0]], "multi_label_classification", kind="probs")
        assert read(made).values.tolist() == [[0, 1], [1, 1]]
        with pytest.raises(UserError, match="are no probabilities .* the maximum 3"):
            self.imported([[0.0, 3.0], [1.0, 1.0]], "multi_label_classification", kind="probs")

    def test_draws_of_numbers_with_their_noise(self):
        draws = [[[1.0], [2.0]], [[3.0], [2.0]]]
        labels = read(self.imported(draws, "regression", noise=[[0.5], [0.25]]))
        assert labels.values.tolist() == [[2], [2]] and labels.variance.tolist() == [[2], [0]]
        assert labels.noise.tolist() == [[0.5], [0.25]]
        for how, sentence in [({"kind": "probs"}, "has numbers"), ({"temperature": 2.0}, "temperature means nothing")]:
            with pytest.raises(UserError, match=sentence):
                self.imported(draws, "regression", **how)

    def test_labels_that_are_named_in_another_order(self):
        features = datasets.Features(
            {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=["x", "y"]))}
        )
        dataset = datasets.Dataset.from_dict({"text": self.IDS, "labels": [[0], []]}, features=features)
        how = {"kind": "probs", "problem_type": "multi_label_classification"}
        made = import_soft_labels(
            dataset, np.array([[0.25, 1], [0, 0.5]]), self.IDS, "text", classes=["y", "x"], **how
        )
        assert read(made).values.tolist() == [[1, 0.25], [0.5, 0]] and read(made).record.class_names == ["x", "y"]
        with pytest.raises(UserError, match="classes must name each of the 2 labels once"):
            import_soft_labels(dataset, np.full((2, 2), 0.5), self.IDS, "text", classes=["y", "y"], **how)
