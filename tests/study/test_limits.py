"""Studies of what students know of their limits: records, folders and the report."""

import dataclasses

import datasets
import pytest

from hf_bkd import UserError
from hf_bkd.data.columns import LOG_PROBS
from hf_bkd.models.problem_types import is_dirichlet
from hf_bkd.reports.limits_page import limits_sentences, ood_cells, set_cells
from hf_bkd.soft_labels import read
from hf_bkd.study import ENSEMBLE, ONE_HOT, Arm, Ensemble, ExactBayes, Splits, Study, Vectors
from hf_bkd.study.settings import check_same_data
from hf_bkd.teachers.loading import load_teacher
from tests.study.study_helpers import blobs, run

pytestmark = pytest.mark.usefixtures("blank_pictures")

DIRICHLET = Arm("Dirichlet", Ensemble(), distance="dirichlet", mean_log_probs=True)
BY_VARIANCE = Arm("by variance", Ensemble(), distance="dirichlet")


def with_ood(options, seed) -> Splits:
    return Splits(
        blobs(120, 1), blobs(60, 2), blobs(90, 3), Vectors(), ood={"near": blobs(40, 4), "far": blobs(40, 5)}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    arms = (ONE_HOT, ENSEMBLE, DIRICHLET, BY_VARIANCE)
    study = Study("limits", arms, {"": with_ood}, reference="ensemble", limits=True)
    return folder, run(study, folder)


def test_students_and_teachers_are_measured(finished):
    _, results = finished
    one_hot, plain, dirichlet, by_variance = (each["limits"] for each in results["arms"])
    assert one_hot["ood_auroc"].keys() == {"near", "far"}
    assert one_hot["ood_auroc"]["near"].keys() == {"entropy"}
    of_teacher = {"teacher entropy", "teacher epistemic"}
    assert plain["ood_auroc"]["near"].keys() == {"entropy"} | of_teacher
    for each in (dirichlet, by_variance):
        assert each["ood_auroc"]["far"].keys() == {"entropy", "epistemic"} | of_teacher
        assert each["entropy"]["epistemic"] > 0
        assert each["entropy"]["total"] == pytest.approx(each["entropy"]["aleatoric"] + each["entropy"]["epistemic"])
    assert plain["sets"].keys() == {"lac", "aps", "credible"}
    assert [each["distance"] for each in results["arms"]] == [None, None, "dirichlet", "dirichlet"]


def test_their_labels_and_folders_say_what_they_are(finished):
    folder, _ = finished
    labels = [read(datasets.load_from_disk(each)) for each in sorted(folder.glob("labels/*/*/*/train"))]
    assert [LOG_PROBS in each.beside for each in labels] == [False, True]
    names = ("one-hot", "ensemble", "dirichlet", "by-variance")
    students = [load_teacher(str(next(folder.glob(f"students/*/*/{name}"))))[0] for name in names]
    assert [is_dirichlet(each.network) for each in students] == [False, False, True, True]


def test_the_report_shows_them(finished):
    folder, results = finished
    page = (folder / "report.md").read_text()
    assert "## What the students know of their limits" in page
    rows = {(row[0], row[1]): row[2:] for row in ood_cells(results, "")}
    dirichlet = results["arms"][2]["limits"]["ood_auroc"]["near"]
    names = ("entropy", "epistemic", "teacher entropy", "teacher epistemic")
    assert rows["Dirichlet", "near"][:4] == [f"{dirichlet[name]:.3f}" for name in names]
    assert rows["one-hot", "far"][1:] == ["–", "–", "–", "–"]
    assert len(set_cells(results, "")) == 5
    assert "Dirichlet: undecided (" in limits_sentences(results, "")  # of one seed


@pytest.mark.parametrize(
    ("students", "verdict"),
    [
        ((0.900, 0.902, 0.898), "as good (+0.000 [-0.005, +0.005])"),
        ((0.800, 0.802, 0.798), "lower (-0.100 [-0.105, -0.095])"),
        ((0.905, 0.880, 0.900), "undecided (-0.005 [-0.038, +0.028])"),
    ],
)
def test_a_student_is_as_good_as_its_teacher_where_the_whole_interval_is(students, verdict):
    """Within 0.01; the intervals are t = 4.303 times s / sqrt(3) with s = 0.002 and 0.01323."""
    aurocs = [{"ood": {"epistemic": value, "teacher epistemic": 0.9}} for value in students]
    runs = [
        {"arm": "a", "seed": seed, "metrics": {"accuracy": 0.5}, "limits": {"ood_auroc": each}}
        for seed, each in enumerate(aurocs)
    ]
    assert f"a: {verdict} on ood; accuracy 50.00 %." in limits_sentences({"kind": "study", "arms": runs}, "")


def test_a_run_on_other_examples_is_refused(tmp_path):
    splits = with_ood(None, 0)
    check_same_data(tmp_path / "digests.json", splits, True)
    other = dataclasses.replace(splits, ood={"near": blobs(40, 4), "far": blobs(40, 6)})
    with pytest.raises(UserError, match="ood far"):
        check_same_data(tmp_path / "digests.json", other, True)


def test_conditions_may_take_fewer_seeds(tmp_path):
    study = Study("few", (ONE_HOT,), {"a": with_ood, "b": with_ood}, num_seeds={"b": 1}, reference="one-hot")
    results = run(study, tmp_path, seeds="0,1")
    assert [(each["condition"], each["seed"]) for each in results["arms"]] == [("a", 0), ("a", 1), ("b", 0)]
    assert "missing" not in (tmp_path / "report.md").read_text()


def test_draws_need_a_teacher():
    with pytest.raises(UserError, match="needs a teacher that draws"):
        Arm("exact", ExactBayes(), mean_log_probs=True)
