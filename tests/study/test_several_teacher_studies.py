"""Studies whose arms combine several teachers: stored labels, and networks of several families."""

import datasets
import pytest
import torch

from hf_bkd import LangevinTeacher, Teacher, import_soft_labels
from hf_bkd.metrics import classification_metrics, nll
from hf_bkd.models.perceptron import Perceptron
from hf_bkd.soft_labels import read
from hf_bkd.study import (
    DETERMINISTIC,
    LABEL_SMOOTHING,
    ONE_HOT,
    Arm,
    Deterministic,
    Laplace,
    Splits,
    Stored,
    Study,
    Vectors,
    combined,
)
from hf_bkd.targets import entropy_weights, mix_teachers
from tests.pictures import drawn
from tests.study.study_helpers import blobs, plain, run, status

pytestmark = pytest.mark.usefixtures("blank_pictures")

A, B = (Arm(name, Stored(), strengths=(1.0, 8.0)) for name in ("Model A", "model-b"))
CHAINS = {"prior_precision": (0.1, 100.0), "chains": 2, "steps": 100, "burn_in": 50, "thinning": 5}


def logits(rows: datasets.Dataset, scale: float) -> torch.Tensor:
    center = torch.tensor(rows["features"][:]).mean(dim=1, keepdim=True)
    return -scale * (center - torch.arange(3)).square()


def labeled(options, seed) -> Splits:
    train, validation, test = blobs(120, 1), blobs(60, 2), blobs(90, 3)
    for arm, scale in ((A, 1.0), (B, 3.0)):
        about = {"id_column": "name", "name": arm.label_name, "storage": "float32"}
        train, test = (import_soft_labels(r, logits(r, scale), r["name"][:], **about) for r in (train, test))
    return Splits(train, validation, test, Vectors(), ood=blobs(40, 4))


STORED = Study(
    name="stored",
    arms=(
        ONE_HOT,
        LABEL_SMOOTHING,
        A,
        B,
        *(arm for arm in combined((A, B), (1.0, 8.0)) if "inverse" not in arm.name),
    ),
    conditions={"": labeled},
    reference=ONE_HOT.name,
    measure="nll",
    posterior=CHAINS,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    with drawn():
        results = run(STORED, folder)
    return folder, {record["arm"]: record for record in results["arms"]}


def test_arms_of_several_say_how_they_combine(finished):
    _, records = finished
    assert list(records) == [arm.name for arm in STORED.arms]
    assert {name: (r["teacher_weights"], r["combine"]) for name, r in records.items()} == {
        **dict.fromkeys(("one-hot", "label smoothing", "Model A", "model-b"), (None, None)),
        "average": ("equal", "average"),
        "average, entropy weights": ("entropy", "average"),
        "mixture": ("equal", "mixture"),
        "mixture, entropy weights": ("entropy", "mixture"),
    }
    for name, record in records.items():
        if record["teacher"] != "none":
            assert record["prior_strength"] in (1, 8), name
            assert record["kd_lambda"] == pytest.approx(record["prior_strength"] / (1 + record["prior_strength"]))
    assert len({record["metrics"]["nll"] for record in records.values()}) == 8


def test_the_strength_is_the_best_one_on_the_validation_split(finished, tmp_path):
    _, records = finished
    chosen = records["average"]
    alone = []
    for strength in (1.0, 8.0):
        study = Study("alone", combined((A, B), (strength,))[:1], {"": labeled}, measure="nll")
        alone += run(study, tmp_path / str(strength))["arms"]
    best = min(alone, key=lambda record: record["validation_metrics"]["nll"])
    assert best["prior_strength"] == chosen["prior_strength"]
    assert best["metrics"] == chosen["metrics"]


def test_the_teachers_numbers_are_those_of_their_weighted_mean(finished):
    _, records = finished
    test = blobs(90, 3)
    probs = torch.stack([logits(test, scale).double().softmax(dim=-1) for scale in (1.0, 3.0)], dim=-2)
    labels = torch.tensor(test["label"][:])
    equal, entropic = probs.mean(dim=1), mix_teachers(probs, entropy_weights(probs))
    expected = {"Model A": probs[:, 0], "model-b": probs[:, 1], "average": equal, "mixture": equal}
    expected |= {"average, entropy weights": entropic, "mixture, entropy weights": entropic}
    for name, mean in expected.items():
        for metric, value in classification_metrics(mean.float(), labels).items():
            assert records[name]["teacher_metrics"][metric] == pytest.approx(value, rel=1e-4), (name, metric)


def test_every_student_has_a_posterior_that_was_measured_and_saved(finished):
    folder, records = finished
    test = blobs(90, 3)
    features, labels = torch.tensor(test["features"][:]), torch.tensor(test["label"][:])
    for name, record in records.items():
        report = record["uncertainty"]
        facts = {"prior precision", "rhat max", "ess min", "mixed", "apart", "rungs", "width", "acceptance", "moved"}
        assert report["chains"].keys() == facts and report["chains"]["prior precision"] in (0.1, 100)
        assert report["map"]["nll"] == pytest.approx(record["metrics"]["nll"], rel=1e-4)
        assert [each["level"] for each in report["credible_sets"]] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
        assert set(report["auroc"]) == {"mean_deviance", "entropy", "epistemic"}, name
    student = folder / "students" / "all" / "seed-0" / "mixture"
    network = Perceptron.from_pretrained(student)
    posterior = Teacher.from_pretrained(student / "posterior", network=Perceptron.from_pretrained(student))
    assert posterior.record["teachers"] == 2
    assert posterior.record["prior strength"] == records["mixture"]["prior_strength"]
    assert posterior.record["teacher weight"] == pytest.approx(records["mixture"]["prior_strength"])
    with torch.no_grad():
        mode = network.eval()(features).double().softmax(dim=-1)
    assert nll(mode, labels) == pytest.approx(records["mixture"]["metrics"]["nll"], rel=1e-5)
    drawn = posterior.predict(features, 5, torch.Generator().manual_seed(0)).mean.double()
    assert nll(drawn, labels) == pytest.approx(records["mixture"]["uncertainty"]["posterior_mean"]["nll"], rel=1e-4)
    assert "Perceptron.from_pretrained" in (student / "README.md").read_text()


def test_the_page_compares_in_nll_with_the_arm_that_the_study_names(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    assert "| vs one-hot (nats, [95 % CI, Holm]) |" in page and "In NLL: Undecided" in page
    assert "## What the students do not know" in page and "| 90 % sets: coverage |" in page
    assert "](credible_sets.png)" in page and (folder / "credible_sets.png").stat().st_size > 10_000
    assert "| prior strength | teachers' weights | combined by |" in page and "nan" not in page


def test_a_finished_study_goes_on_from_its_records(finished):
    folder, records = finished
    with drawn():
        assert run(STORED, folder)["arms"] == list(records.values())


WIDE = Arm("wide", Laplace(link="mc"), "mlp-32")
DEEP = Arm("deep", Laplace(link="mc"), "mlp-8-8", {"dropout": 0.1})


def test_networks_of_several_families_are_fitted_once_and_label_under_their_names(tmp_path):
    average, _, variance, *_ = combined((WIDE, DEEP))
    study = Study("families", (ONE_HOT, WIDE, DEEP, average, variance), {"": plain})
    records = {record["arm"]: record for record in run(study, tmp_path)["arms"]}
    names = ["mlp-32", "mlp-8-8-dropout-0-1"]
    fitted = {path.name for path in (tmp_path / "teachers" / "all" / "seed-0").iterdir()}
    assert fitted == {f"{name}-{kind}" for name in names for kind in ("deterministic-0", "laplace-link-mc")}
    probs = []
    for name in names:
        folder = tmp_path / "labels" / "all" / "seed-0" / f"{name}-laplace-link-mc-T1" / "test"
        labels = read(datasets.load_from_disk(folder))
        probs.append(labels.probs.double())
        assert labels.variance is not None
    labels = torch.tensor(blobs(90, 3)["label"][:])
    expected = nll(torch.stack(probs).mean(dim=0), labels)
    assert records["average"]["teacher_metrics"]["nll"] == pytest.approx(expected, rel=1e-5)
    assert records["average"]["teacher_metrics"] != records["average, inverse variance"]["teacher_metrics"]
    assert records["average"]["relative_time"] is None  # of which teacher?


def test_students_are_taught_on_a_transfer_set_for_as_many_steps(tmp_path):
    def transferred(options, seed):
        splits = plain(options, seed)
        splits.transfer = blobs(480, 5)
        return splits

    study = Study("transferred", (ONE_HOT, DETERMINISTIC), {"": transferred})
    one_hot, taught = run(study, tmp_path, per_device_train_batch_size=20, num_train_epochs=2)["arms"]
    assert taught["history"]["epoch"] == pytest.approx(one_hot["history"]["epoch"]) == [1, 2]
    assert taught["history"]["accuracy"][-1] == pytest.approx(taught["metrics"]["accuracy"])
    labels = datasets.load_from_disk(tmp_path / "labels" / "all" / "seed-0" / "deterministic-T1" / "train")
    assert len(labels) == 480
    folded = Study("folded", (Arm("folded", Deterministic(), folds=2),), {"": transferred})
    assert status(tmp_path / "folded", folded) == 2


def test_labels_that_the_data_does_not_have(tmp_path, capsys):
    study = Study("missing", (Arm("C", Stored()),), {"": labeled})
    assert status(tmp_path, study) == 2
    assert "the data has no labels of 'c', only of ['model_a', 'model_b']" in capsys.readouterr().err


def test_the_prior_precision_is_the_best_one_on_the_validation_split(finished):
    folder, records = finished
    student = folder / "students" / "all" / "seed-0" / "average"
    network, train = Perceptron.from_pretrained(student), blobs(120, 1)
    data, held_out = (
        [(torch.tensor(rows["features"][:]), torch.tensor(rows["label"][:]))] for rows in (train, blobs(60, 2))
    )
    probs = torch.stack([logits(train, scale).softmax(dim=-1) for scale in (1.0, 3.0)]).mean(dim=0)
    options = CHAINS | {"targets": probs, "teacher_weight": records["average"]["prior_strength"], "seed": 0}
    tried = {
        precision: LangevinTeacher.fit(network, data, held_out, **options | {"prior_precision": precision}).record
        for precision in CHAINS["prior_precision"]
    }
    best = min(tried, key=lambda precision: tried[precision]["validation"]["nll"])
    saved = Teacher.from_pretrained(student / "posterior", network=network).record
    assert saved["prior precision"] == best
    assert saved["validation"]["nll"] == pytest.approx(tried[best]["validation"]["nll"], rel=1e-2)


LAPLACE_ARM = Arm("laplace", Laplace(), strengths=(1.0,))


def unnamed(options, seed) -> Splits:
    """Rows of features alone, with labels whose ids are of more."""
    splits = labeled(options, seed)
    bare = (part.remove_columns("name") for part in (splits.train, splits.validation, splits.test))
    return Splits(*bare, Vectors())


@pytest.mark.parametrize("members", [(A, LAPLACE_ARM), (LAPLACE_ARM, A)], ids=["imported first", "imported last"])
@pytest.mark.parametrize("data", [labeled, unnamed])
def test_imported_and_own_labels_of_the_same_rows_are_combined(tmp_path, members, data):
    """Their ids are of different columns: the imported ones' of all, the others' of the features."""
    study = Study("mixed", (*members, *combined(members, (1.0,))[:1]), {"": data})
    records = {record["arm"]: record for record in run(study, tmp_path)["arms"]}
    probs = logits(blobs(90, 3), 1.0).double().softmax(dim=-1)
    assert records["Model A"]["teacher_metrics"]["nll"] == pytest.approx(
        classification_metrics(probs.float(), torch.tensor(blobs(90, 3)["label"][:]))["nll"], rel=1e-4
    )
    assert len({record["teacher_metrics"]["nll"] for record in records.values()}) == 3


def test_labels_that_the_data_brings_are_not_those_of_an_arms_own_teacher(tmp_path):
    """They once were learned from beside the teacher's, without a word."""
    results = [run(Study("own", (LAPLACE_ARM,), {"": data}), tmp_path / data.__name__) for data in (plain, labeled)]
    metrics = [[result["arms"][0][name] for name in ("metrics", "teacher_metrics")] for result in results]
    assert metrics[0] == metrics[1]
