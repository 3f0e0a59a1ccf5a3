"""A study of teachers themselves: what it measures, how it goes on, and the page that it leaves."""

import json
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from hf_bkd import Teacher
from hf_bkd.metrics import classification_metrics, entropy
from hf_bkd.models.perceptron import Perceptron
from hf_bkd.study import (
    DETERMINISTIC,
    ENSEMBLE,
    LAPLACE,
    SWAG,
    WHOLE_NETWORK,
    Arm,
    IVONVariational,
    Laplace,
    MCDropout,
    Splits,
    Study,
)
from tests.study.study_helpers import blobs, plain, run

DROPOUT = Arm("MC dropout", MCDropout(), "mlp-16", {"dropout": 0.2})
ARMS = (DETERMINISTIC, ENSEMBLE, DROPOUT, LAPLACE, WHOLE_NETWORK, Arm("IVON", IVONVariational(lr=0.1)))


def with_outsiders(options, seed) -> Splits:
    splits = plain(options, seed)
    splits.ood = blobs(40, 4)
    return splits


STUDY = Study("teachers", ARMS, {"": with_outsiders}, students=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(STUDY, folder)


def test_every_teacher_is_measured(finished):
    _, results = finished
    assert [record["arm"] for record in results["arms"]] == [arm.name for arm in ARMS]
    for record in results["arms"]:
        measured = [*record["metrics"].values(), *record["scaled_metrics"].values()]
        assert all(map(math.isfinite, measured)), record
        assert record["metrics"]["accuracy"] == pytest.approx(record["scaled_metrics"]["accuracy"])
        assert record["relative_time"] > 0 and record["megabytes"] > 0.001
        assert ("prior_precision" in record) == (record["teacher"] == "laplace")


def test_a_record_has_the_seed_of_its_run_also_where_the_teacher_has_one_of_its_own(tmp_path):
    study = Study("seeds", (DETERMINISTIC, Arm("SWAG", SWAG(snapshots=4, rank=2))), {"": plain}, students=False)
    records = run(study, tmp_path, seeds="3,5")["arms"]
    assert [(record["arm"], record["seed"]) for record in records] == [
        ("deterministic", 3), ("deterministic", 5), ("SWAG", 3), ("SWAG", 5),
    ]  # fmt: skip


def test_the_numbers_are_those_of_the_saved_teacher(finished):
    folder, results = finished
    network = Perceptron(4, 3, [16])
    teacher = Teacher.from_pretrained(folder / "teachers" / "all" / "seed-0" / "deterministic-0", network)
    test, ood = blobs(90, 3), blobs(40, 4)
    probs, outside = (teacher.predict(torch.tensor(rows["features"][:])).mean for rows in (test, ood))
    measured = results["arms"][0]["metrics"]
    for name, value in classification_metrics(probs, torch.tensor(test["label"][:])).items():
        assert measured[name] == pytest.approx(value, rel=1e-4), name
    expected = roc_auc_score([0] * 90 + [1] * 40, torch.cat([entropy(probs), entropy(outside)]))
    assert measured["ood_auroc"] == pytest.approx(expected, abs=1e-6)


def test_a_finished_study_goes_on_from_its_records(finished, monkeypatch):
    folder, results = finished
    monkeypatch.setattr("hf_bkd.study.cell.Cell.train_network", lambda *a, **k: pytest.fail("trained again"))
    assert run(STUDY, folder)["arms"] == json.loads(json.dumps(results["arms"]))


def test_the_page_shows_teachers_plain_and_scaled(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    for text in ("scaled NLL", "AUROC, out-of-distribution", "MB", "the network is mlp-16"):
        assert text in page
    assert "onvergence noise" not in page
    for picture in ("teachers.png", "reliability.png"):
        assert f"]({picture})" in page and (folder / picture).stat().st_size > 10_000
    assert not (folder / "comparison.png").exists()


def test_an_online_teacher_draws_for_features_beside_texts_what_it_would_store(tmp_path):
    settings = {"teacher": Laplace(link="mc", prior_precision=0.01), "storage": "float32"}
    study = Study("both", (Arm("stored", **settings), Arm("online", **settings, online=True)), {"": plain})
    assert "name" in plain(None, 0).train.features  # by which rows without features would be known
    first, second = run(study, tmp_path)["arms"]
    assert second["metrics"]["nll"] == pytest.approx(first["metrics"]["nll"], rel=1e-6)
