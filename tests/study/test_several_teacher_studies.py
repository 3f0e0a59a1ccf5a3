"""Studies whose arms combine several teachers: labels that the data brings, and networks of several families."""

import json

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import LangevinTeacher, Teacher, UserError, import_soft_labels
from hf_bkd.metrics import classification_metrics, nll
from hf_bkd.models.perceptron import Perceptron
from hf_bkd.soft_labels import read
from hf_bkd.study import LABEL_SMOOTHING, ONE_HOT, Arm, Splits, Study, Vectors, combined, main
from hf_bkd.targets import entropy_weights, mix_teachers

NAMES, DIMENSIONS = ["red", "green", "blue"], 4
DEFAULTS = {
    "dataset": "blobs", "student_model": "mlp-8", "teacher_model": "mlp-16", "seeds": "0", "num_train_epochs": 4,
    "learning_rate": 1e-2, "per_device_train_batch_size": 16, "num_samples": 40, "save_strategy": "no",
    "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip
A, B = (Arm(name, teacher="stored", strengths=(1.0, 8.0)) for name in ("Model A", "model-b"))
CHAINS = {"prior_precision": (0.1, 100.0), "chains": 2, "steps": 400, "burn_in": 200, "thinning": 10}


def blobs(size: int, seed: int) -> datasets.Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=size)
    features = labels[:, None] + rng.normal(size=(size, DIMENSIONS))
    kinds = {"features": datasets.List(datasets.Value("float32"), length=DIMENSIONS)}
    kinds |= {"label": datasets.ClassLabel(names=NAMES), "name": datasets.Value("string")}
    rows = {"features": features.tolist(), "label": labels.tolist(), "name": [f"{seed}-{i}" for i in range(size)]}
    return datasets.Dataset.from_dict(rows, datasets.Features(kinds))


def logits(rows: datasets.Dataset, scale: float) -> torch.Tensor:
    center = torch.tensor(rows["features"][:]).mean(dim=1, keepdim=True)
    return -scale * (center - torch.arange(3)).square()


def brought(options, seed) -> Splits:
    train, validation, test = blobs(120, 1), blobs(60, 2), blobs(90, 3)
    for arm, scale in ((A, 1.0), (B, 3.0)):
        how = {"id_column": "name", "name": arm.label_name, "storage": "float32"}
        train, test = (import_soft_labels(r, logits(r, scale), r["name"][:], **how) for r in (train, test))
    return Splits(train, validation, test, Vectors(), ood=blobs(40, 4))


BROUGHT = Study(
    name="brought",
    arms=(
        ONE_HOT,
        LABEL_SMOOTHING,
        A,
        B,
        *(arm for arm in combined((A, B), (1.0, 8.0)) if "inverse" not in arm.name),
    ),
    conditions={"": brought},
    reference=ONE_HOT.name,
    measure="nll",
    posterior=CHAINS,
)


def run(study: Study, folder, **changes) -> dict:
    given = {"--output_dir": folder} | {f"--{name}": value for name, value in changes.items()}
    main(study, DEFAULTS, [str(part) for pair in given.items() for part in pair])
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brought")
    results = run(BROUGHT, folder)
    return folder, {record["arm"]: record for record in results["arms"]}


def test_arms_of_several_say_how_they_combine(finished):
    _, records = finished
    assert list(records) == [arm.name for arm in BROUGHT.arms]
    told = {name: (r["teacher_weights"], r["combine"]) for name, r in records.items()}
    assert told == {
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
        study = Study("alone", combined((A, B), (strength,))[:1], {"": brought}, measure="nll")
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
        facts = {"prior precision", "rhat max", "ess min", "mixed", "width", "acceptance", "moved"}
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
    drawn = posterior.predict(features, 40, torch.Generator().manual_seed(0)).mean.double()
    assert nll(drawn, labels) == pytest.approx(records["mixture"]["uncertainty"]["posterior_mean"]["nll"], rel=1e-4)
    assert "Perceptron.from_pretrained" in (student / "README.md").read_text()


def test_the_page_compares_in_nll_with_the_arm_that_the_study_names(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    assert "| vs one-hot (nats, [95 % CI]) |" in page and "In NLL: Undecided" in page
    assert "## What the students do not know" in page and "| 90 % sets: coverage |" in page
    assert "](credible_sets.png)" in page and (folder / "credible_sets.png").stat().st_size > 10_000
    assert "| prior strength | teachers' weights | combined by |" in page and "nan" not in page


def test_a_finished_study_goes_on_from_its_records(finished):
    folder, records = finished
    before = (folder / "results.json").read_text()
    run(BROUGHT, folder)
    assert json.loads((folder / "results.json").read_text())["arms"] == json.loads(before)["arms"]


def plain(options, seed) -> Splits:
    return Splits(blobs(120, 1), blobs(60, 2), blobs(90, 3), Vectors())


WIDE = Arm("wide", teacher="laplace", architecture="mlp-32", how={"link": "mc"})
DEEP = Arm("deep", teacher="laplace", architecture="mlp-8-8", architecture_args={"dropout": 0.1}, how={"link": "mc"})


def test_networks_of_several_families_are_fitted_once_and_label_under_their_names(tmp_path):
    average, _, variance, *_ = combined((WIDE, DEEP))
    study = Study("families", (ONE_HOT, WIDE, DEEP, average, variance), {"": plain})
    records = {record["arm"]: record for record in run(study, tmp_path)["arms"]}
    names = ["mlp-32", "mlp-8-8-dropout-0-1"]
    fitted = {path.name for path in (tmp_path / "teachers" / "all" / "seed-0").iterdir()}
    assert fitted == {f"{name}-{kind}" for name in names for kind in ("deterministic-0", "laplace-link-mc")}
    probs = []
    for name in names:
        labeled = datasets.load_from_disk(
            tmp_path / "labels" / "all" / "seed-0" / f"{name}-laplace-link-mc-T1" / "test"
        )
        probs.append(read(labeled).probs.double())
        assert read(labeled).variance is not None
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

    study = Study("transferred", (ONE_HOT, Arm("deterministic", teacher="deterministic")), {"": transferred})
    one_hot, taught = run(study, tmp_path, per_device_train_batch_size=20)["arms"]
    assert taught["history"]["epoch"] == pytest.approx(one_hot["history"]["epoch"]) == [1, 2, 3, 4]
    assert taught["history"]["accuracy"][-1] == pytest.approx(taught["metrics"]["accuracy"])
    labels = datasets.load_from_disk(tmp_path / "labels" / "all" / "seed-0" / "deterministic-T1" / "train")
    assert len(labels) == 480
    folded = Study("folded", (Arm("folded", teacher="deterministic", folds=2),), {"": transferred})
    with pytest.raises(SystemExit):
        run(folded, tmp_path / "folded")


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"teacher": "several"}, "has the teacher 'several' and 0 members"),
        ({"teacher": "laplace", "members": (A,)}, "has the teacher 'laplace' and 1 members"),
        ({"teacher": "several", "members": (ONE_HOT,)}, "has a member that is no single teacher"),
        ({"teacher": "stored", "temperatures": (2.0,)}, "stored labels have one already"),
        ({"teacher": "several", "members": (A,), "temperatures": (2.0,)}, "stored labels have one already"),
        ({"teacher": "stored", "online": True}, "is online, which needs a teacher that answers"),
    ],
)
def test_arms_that_cannot_be(arm, words):
    with pytest.raises(UserError, match=words):
        Arm("odd", **arm)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student_model": "resnet18"}, "there is no network 'resnet18' of features: it must be such as mlp-128-64"),
        ({"arms": "model-c"}, "there is no arm 'model-c'"),
    ],
)
def test_what_a_user_can_mistake_ends_in_a_sentence(tmp_path, capsys, changes, words):
    with pytest.raises(SystemExit):
        run(BROUGHT, tmp_path, **changes)
    assert words in capsys.readouterr().err


def test_labels_that_the_data_does_not_bring(tmp_path, capsys):
    study = Study("missing", (Arm("C", teacher="stored"),), {"": brought})
    with pytest.raises(SystemExit):
        run(study, tmp_path)
    assert "the data brings no labels of 'c', only of ['model_a', 'model_b']" in capsys.readouterr().err


def test_the_prior_precision_is_the_best_one_on_the_validation_split(finished):
    folder, records = finished
    student = folder / "students" / "all" / "seed-0" / "average"
    network, train = Perceptron.from_pretrained(student), blobs(120, 1)
    data, held_out = (
        [(torch.tensor(rows["features"][:]), torch.tensor(rows["label"][:]))] for rows in (train, blobs(60, 2))
    )
    probs = torch.stack([logits(train, scale).softmax(dim=-1) for scale in (1.0, 3.0)]).mean(dim=0)
    how = CHAINS | {"targets": probs, "teacher_weight": records["average"]["prior_strength"], "seed": 0}
    found = {
        precision: LangevinTeacher.fit(network, data, held_out, **how | {"prior_precision": precision}).record
        for precision in CHAINS["prior_precision"]
    }
    best = min(found, key=lambda precision: found[precision]["validation"]["nll"])
    saved = Teacher.from_pretrained(student / "posterior", network=network).record
    assert saved["prior precision"] == best
    assert saved["validation"]["nll"] == pytest.approx(found[best]["validation"]["nll"], rel=1e-2)
