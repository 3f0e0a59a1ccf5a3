"""Labels from arrays: found by id, checked, and then like any others."""

import datasets
import numpy as np
import pytest
from scipy.special import softmax

from hf_bkd import UserError, import_soft_labels, join_soft_labels, only_soft_labels
from hf_bkd.soft_labels import read

CLASSES = ["nucleus", "cytoplasm", "membrane"]
IDS = ["P3", "P1", "P9", "P2", "P4"]  # of the values: another order, and one that the dataset lacks
LOGITS = np.random.default_rng(0).normal(size=(5, 3)) * 3
PLACE = [IDS.index(each) for each in ("P1", "P2", "P3", "P4")]


def proteins() -> datasets.Dataset:
    features = datasets.Features(
        {
            "accession": datasets.Value("string"),
            "sequence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=CLASSES),
        }
    )
    rows = {"accession": ["P1", "P2", "P3", "P4"], "sequence": ["MKV", "MAA", "MLL", "MGG"], "label": [0, 1, 2, 0]}
    return datasets.Dataset.from_dict(rows, features=features)


def imported(values=LOGITS, ids=IDS, **how) -> datasets.Dataset:
    return import_soft_labels(proteins(), values, ids, **{"id_column": "accession", "storage": "float32"} | how)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_logits_find_their_examples_by_id(temperature):
    labels = read(imported(temperature=temperature, name="esm", made_by="ESM-2 650M"), "esm")
    np.testing.assert_allclose(labels.probs, softmax(LOGITS / temperature, axis=1)[PLACE], rtol=1e-6)
    assert labels.variance is None
    teacher = labels.record.teacher
    assert (teacher.method, teacher.json["made_by"], labels.record.temperature) == (
        "imported",
        "ESM-2 650M",
        temperature,
    )
    assert labels.record.class_names == CLASSES


def test_probabilities_are_renormalized_and_draws_averaged():
    draws = np.stack([softmax(LOGITS + noise, axis=1) for noise in np.random.default_rng(1).normal(size=(4, 5, 3))])
    labeled = imported(draws * 1.005, kind="probs")
    labels = read(labeled)
    np.testing.assert_allclose(labels.probs, draws.mean(axis=0)[PLACE], rtol=1e-6)
    np.testing.assert_allclose(labels.variance, draws.var(axis=0, ddof=1)[PLACE], rtol=1e-5)
    assert labels.record.num_samples == 4


def test_numbers_may_be_ids_and_rows_may_be_shuffled():
    dataset = proteins().add_column("number", [7, 5, 6, 4]).shuffle(seed=1)
    values, ids = np.arange(12).reshape(4, 3) * 0.1, np.array([4, 5, 6, 7])
    labeled = import_soft_labels(dataset, values, ids.tolist(), "number", storage="float32")
    expected = softmax(values[[n - 4 for n in labeled["number"]]], axis=1)
    np.testing.assert_allclose(read(labeled).probs, expected, rtol=1e-6)


def test_columns_of_other_classes_are_mapped_by_name_or_number():
    four = np.concatenate([LOGITS, LOGITS[:, :1]], axis=1)
    plain = softmax(four, axis=1)[PLACE]
    expected = np.stack([plain[:, 3], plain[:, 0] + plain[:, 2], plain[:, 1]], axis=1)
    for classes in (["cytoplasm", "membrane", "cytoplasm", "nucleus"], [1, 2, 1, 0]):
        np.testing.assert_allclose(read(imported(four, classes=classes)).probs, expected, rtol=1e-6)


def test_they_are_shared_and_joined_like_any_labels():
    labeled = imported(storage="float16")
    joined = join_soft_labels(proteins().shuffle(seed=2), only_soft_labels(labeled))
    by_id = dict(zip(labeled["accession"], read(labeled).probs.tolist(), strict=True))
    assert [by_id[each] for each in joined["accession"]] == read(joined).probs.tolist()


BAD = LOGITS.copy()
BAD[3, 1] = np.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: imported(LOGITS[:4]), r"they are \[4, 3\], and there are 5 ids"),
        (lambda: imported(LOGITS[0]), "values must be"),
        (
            lambda: imported(ids=["P3", "P1", "P9", "P8", "P4"]),
            r"1 of 4 examples have no values \(the first ids: 'P2'\)",
        ),
        (
            lambda: imported(ids=["P3", "P1", "P1", "P2", "P4"]),
            r"1 of the ids occur more than once \(the first: 'P1'\)",
        ),
        (lambda: imported(id_column="uniprot"), "no column 'uniprot'; it has accession, sequence, label"),
        (lambda: imported(BAD), r"the values of 1 examples are not finite \(the first: row 1\)"),
        (lambda: imported(LOGITS, kind="probs"), r"are no probabilities .*: pass kind='logits'"),
        (lambda: imported(softmax(LOGITS, axis=1) * 1.1, kind="probs"), "are no probabilities .* with the sum 1.1"),
        (lambda: imported(kind="logit"), "kind is 'logit'; it must be one of logits, probs"),
        (lambda: imported(temperature=0), "temperature must be above 0 and finite, and it is 0"),
        (lambda: imported(softmax(LOGITS, axis=1), kind="probs", temperature=2.0), "only logits have one"),
        (lambda: imported(LOGITS[:, :2]), "the array has 2 classes and the dataset's column label has 3"),
        (
            lambda: imported(LOGITS, classes=[0, 1]),
            "classes has 2 entries for 3 columns, and the dataset has 3 classes",
        ),
        (
            lambda: imported(LOGITS, classes=["nucleus", "cytoplasm", "golgi"]),
            "no class 'golgi'; it has nucleus, cyto",
        ),
        (lambda: imported(LOGITS, classes=[0, 1, 3]), "the dataset has no class 3"),
    ],
)
def test_what_does_not_belong_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
