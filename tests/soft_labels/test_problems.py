"""Labels that are each there or not, numbers, and a class for each token: the promises of soft labels hold for all."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import UserError, join_soft_labels
from hf_bkd.likelihoods import Bernoulli, Gaussian
from hf_bkd.soft_labels import (
    attach,
    check_against_teacher,
    concatenate_soft_labels,
    only_soft_labels,
    read,
    read_record,
)
from hf_bkd.soft_labels.pictures import picture_of
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.soft_labels.sharing import label_card
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    RECORD,
    VIEWS,
    Answer,
    KindTeacher,
    Teacher,
    TokenTeacher,
    column_bytes,
    images,
    quiet,
    rows,
    text_inputs,
    texts,
    token_inputs,
    words,
)

HOW = {"preprocessor": text_inputs}
KINDS = {
    "multi_label_classification": (lambda **how: KindTeacher(Bernoulli(), **how), texts, text_inputs, {}),
    "regression": (lambda **how: KindTeacher(Gaussian(), noise=0.25, **how), texts, text_inputs, {}),
    "tokens": (lambda **how: TokenTeacher(**how), words, token_inputs, {}),
    "tokens, compact": (lambda **how: TokenTeacher(**how), words, token_inputs, {"storage": "top_k", "top_k": 2}),
    "tokens, in bytes": (lambda **how: TokenTeacher(**how), words, token_inputs, {"storage": "uint8"}),
    "labels, in bytes": (lambda **how: KindTeacher(Bernoulli(), **how), texts, text_inputs, {"storage": "uint8"}),
}


@pytest.fixture(params=KINDS)
def kind(request):
    teacher, dataset, preprocessor, storage = KINDS[request.param]
    return teacher, dataset, {"preprocessor": preprocessor, "storage": "auto"} | storage


class TestTheSameLabels:
    def test_in_whatever_batches_and_shards(self, kind):
        teacher, dataset, how = kind
        whole = column_bytes(quiet(dataset(13), teacher(), **how))
        for batch_size, shard_rows in [(1, 5), (4, 13), (13, 1)]:
            again = quiet(dataset(13), teacher(), batch_size=batch_size, shard_rows=shard_rows, **how)
            assert column_bytes(again) == whole

    def test_in_a_folder_that_was_begun(self, kind, tmp_path):
        teacher, dataset, how = kind
        whole = column_bytes(quiet(dataset(13), teacher(), **how))
        assert column_bytes(quiet(dataset(13), teacher(), folder=tmp_path, shard_rows=3, **how)) == whole
        for file in sorted(tmp_path.glob("rows-*.arrow"))[1::2]:
            file.unlink()
        again, asked = quiet(dataset(13), own := teacher(), folder=tmp_path, shard_rows=3, **how), own.calls
        assert column_bytes(again) == whole and 0 < len(asked) < 5

    def test_of_folds(self, kind, tmp_path):
        teacher, dataset, how = kind
        fitted = []

        def fit(rest, fold):
            fitted.append(fold)
            return teacher(name=f"fold {fold}")

        made = quiet(dataset(13), folds=3, fit=fit, folder=tmp_path, shard_rows=3, **how)
        alone = quiet(dataset(13), teacher(), **how)
        assert torch.equal(read(made).values, read(alone).values)  # all of these teachers have the same weights
        again = quiet(dataset(13), folds=3, fit=fit, folder=tmp_path, shard_rows=3, **how)
        assert column_bytes(again) == column_bytes(made) and fitted == [0, 1, 2]

    def test_of_a_stream(self, kind):
        teacher, dataset, how = kind
        whole = only_soft_labels(quiet(dataset(13), teacher(), **how))
        stream = quiet(dataset(13).to_iterable_dataset(), teacher(), shard_rows=4, **how)
        assert column_bytes(stream) == column_bytes(whole)

    def test_when_they_were_saved_and_loaded(self, kind, tmp_path):
        teacher, dataset, how = kind
        made = quiet(dataset(13), teacher(), name="t", **how)
        made.to_parquet(tmp_path / "rows.parquet")
        loaded = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=tmp_path / "cache")
        assert column_bytes(loaded) == column_bytes(made)
        assert list(stored_labels(loaded, None, None)) == [read(made, "t").layout.name]

    def test_joined_and_concatenated(self, kind):
        teacher, dataset, how = kind
        whole = quiet(dataset(13), teacher(), **how)
        joined = join_soft_labels(dataset(13).select([5, 0, 12]), only_soft_labels(whole))
        assert column_bytes(joined) == column_bytes(whole.select([5, 0, 12]).flatten_indices())
        parts = [quiet(dataset(13).select(range(*part)), teacher(), **how) for part in ((0, 6), (6, 13))]
        together = read(concatenate_soft_labels(parts))
        assert torch.equal(together.values, read(whole).values)
        assert together.record.to_json() == read(whole).record.to_json()

    def test_and_their_teacher_is_recognized(self, kind):
        teacher, dataset, how = kind
        own = {"preprocessor": how["preprocessor"]}
        made = quiet(dataset(13), teacher(), **how)
        assert check_against_teacher(made, teacher(), **own) == 0
        other = teacher()
        other.weight = -other.weight
        with pytest.raises(UserError, match=r"differs by .* from what this teacher says \(row"):
            check_against_teacher(made, other, **own)

    def test_with_a_card_and_a_picture(self, kind):
        teacher, dataset, how = kind
        made = quiet(dataset(13), teacher(), **how)
        assert picture_of(made)[0][:4] == b"\x89PNG"
        text = label_card(made, "somebody/labels")
        record = read_record(made.features)
        assert record.likelihood.called in text and ("tokens" in text) == (record.positions is not None)


def test_values_variance_and_noise_of_numbers_are_those_of_the_teacher():
    teacher = KindTeacher(Gaussian(), noise=0.25)
    labels = read(quiet(texts(7), teacher, 5, storage="auto", seed=2, **HOW))
    assert labels.layout.name == "teacher_mean" and labels.parts["probs"].dtype == torch.float32
    assert labels.record.problem_type == "regression" and labels.record.storage == "float32"
    assert torch.equal(labels.noise, torch.full((7, 4), 0.25))
    drawn = read(quiet(texts(7), KindTeacher(Gaussian(), num_classes=4), 5, seed=2, **HOW))
    assert torch.equal(labels.values, drawn.values) and drawn.noise is None
    assert labels.variance.shape == (7, 4) and (labels.variance > 0).all()
    batch = labels.at(torch.tensor([3, 0]), 0)
    assert list(batch) == ["teacher_mean", "teacher_variance", "teacher_noise"]
    assert torch.equal(batch["teacher_mean"], labels.values[[3, 0]])


def test_one_number_keeps_its_dimension():
    labels = read(quiet(texts(7), KindTeacher(Gaussian(), num_classes=1, noise=1.0), **HOW))
    assert labels.values.shape == labels.variance.shape == labels.noise.shape == (7, 1)


def test_labels_of_tokens_are_those_of_their_inputs():
    dataset, teacher = words(7), TokenTeacher()
    made = quiet(dataset, teacher, 1, preprocessor=token_inputs)
    labels = read(made)
    inputs = token_inputs(dataset[:])
    expected = torch.softmax(teacher.weight[inputs["input_ids"]], dim=-1).shape
    assert labels.lengths.tolist() == inputs["attention_mask"].sum(dim=1).tolist()
    assert len(labels) == 7 and labels.values.shape == (int(labels.lengths.sum()), 3)
    batch = labels.at(torch.arange(7), 0, inputs["attention_mask"])["teacher_probs"]
    assert batch.shape == expected
    assert (batch[inputs["attention_mask"] == 0] == 0).all()
    assert torch.equal(batch[inputs["attention_mask"] == 1], labels.values)
    stored = made["teacher_probs"][:]
    of_rows = labels.layout.of_rows(stored, mask=inputs["attention_mask"])
    assert torch.equal(of_rows, batch)
    left = inputs["attention_mask"].flip(1)
    assert torch.equal(labels.layout.of_rows(stored, mask=left)[left == 1], labels.values)
    assert labels.record.positions == "tokens" and labels.record.class_names == ["O", "PER", "LOC"]


@pytest.mark.parametrize("variance", ["full", "sum", "none"])
def test_variances_of_tokens_are_kept_as_those_of_examples(variance):
    made = quiet(words(7), TokenTeacher(), variance=variance, preprocessor=token_inputs)
    labels = read(made)
    full = read(quiet(words(7), TokenTeacher(), preprocessor=token_inputs)).variance
    assert full.shape == labels.values.shape
    if variance == "none":
        assert labels.variance is None
        return
    expected = full if variance == "full" else full.sum(dim=1)
    torch.testing.assert_close(labels.variance, expected)
    padded = labels.at(torch.tensor([2, 0]), 0)["teacher_variance"]
    again = labels.layout.variance_of_rows([made["teacher_variance"][2], made["teacher_variance"][0]])
    torch.testing.assert_close(again.squeeze(-1), padded)


def test_labels_of_several_views():
    teacher = KindTeacher(Bernoulli(), num_features=12, input_name="pixel_values")
    pictures = images(5).remove_columns("label")
    labels = read(quiet(pictures, teacher, preprocessor=PREPROCESS, views=VIEWS, storage="uint8"))
    assert labels.values.shape == (5, 3, 4) and labels.variance.shape == (5, 3)
    token = TokenTeacher(num_classes=4)
    token.predict = lambda inputs, *how: Answer(torch.full((len(inputs["pixel_values"]), 2, 4), 0.25), None)
    with pytest.raises(UserError, match="answers for each token: label without views"):
        quiet(pictures, token, preprocessor=PREPROCESS, views=VIEWS)


class TestSideBySide:
    def test_teachers_of_several_kinds(self):
        teachers = {"a": Teacher(), "b": KindTeacher(Gaussian(), noise=1.0), "c": KindTeacher(Bernoulli())}
        made = quiet(texts(5), teachers, storage="auto", **HOW)
        assert {"teacher_probs__a", "teacher_mean__b", "teacher_noise__b", "teacher_probs__c"} <= set(made.features)
        assert [read(made, name).record.likelihood.problem_type for name in teachers] == [
            "single_label_classification", "regression", "multi_label_classification",
        ]  # fmt: skip
        assert list(stored_labels(made, None, None)) == ["teacher_probs__a", "teacher_mean__b", "teacher_probs__c"]

    def test_another_kind_takes_the_place_of_the_one_before(self):
        numbers = attach(texts(2), np.ones((2, 1)), RECORD | {"problem_type": "regression"}, noise=np.ones((2, 1)))
        classes = attach(numbers, np.full((2, 2), 0.5), RECORD)
        assert [name for name in classes.column_names if "teacher" in name] == ["teacher_probs", "teacher_provenance"]

    def test_records_of_classes_say_nothing_new(self):
        record = read_record(quiet(texts(2), Teacher(), **HOW).features).to_json()
        assert not {"problem_type", "positions", "tokenizer"} & set(record)


def features_of(batch):
    return {"x": torch.tensor(batch["x"])}


def test_a_column_of_classes_beside_numbers_is_refused_unless_it_is_of_something_else():
    teacher = KindTeacher(Gaussian(), num_classes=2)
    with pytest.raises(
        UserError, match=r"the teacher predicts numbers, and the dataset's column label holds ClassLabel"
    ):
        quiet(rows(6), teacher, storage="auto", preprocessor=features_of)
    assert not teacher.calls
    made = quiet(rows(6).rename_column("label", "own"), teacher, storage="auto", preprocessor=features_of)
    assert read(made).record.class_names is None and read(made).values.shape == (6, 2)
