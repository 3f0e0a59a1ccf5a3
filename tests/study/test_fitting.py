"""The engine that fits teachers: every kind, from networks that are trained once, and kinds that it never heard of."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hf_bkd import IVON, DeterministicTeacher, Teacher
from hf_bkd.study import (
    DETERMINISTIC,
    ENSEMBLE,
    Arm,
    Deterministic,
    Ensemble,
    IVONVariational,
    Laplace,
    MCDropout,
    Variational,
    fitting,
)
from hf_bkd.study.cell_fitting import CellFitting
from hf_bkd.study.teaching import Teaching
from hf_bkd.teachers import SPECIFICATIONS, SWA, SWAG, EnsembleTeacher, TeacherSpec
from tests.study.study_helpers import STUDY, blobs, cell_of, run, status

pytestmark = pytest.mark.usefixtures("blank_pictures")


class AsSignal(nn.Sequential):
    """Reads features as a signal of one channel."""

    def forward(self, features):
        return super().forward(features.unsqueeze(1))


ARMS = {
    "deterministic": DETERMINISTIC,
    "deterministic, scaled": Arm("scaled", Deterministic(scaled=True)),
    "ensemble": ENSEMBLE,
    "ivon": Arm("IVON", IVONVariational(lr=0.1)),
    "laplace": Arm("Laplace", Laplace(link="mc")),
    "mc_dropout": Arm("MC dropout", MCDropout(), "mlp-16", {"dropout": 0.2}),
    "swa": Arm("SWA", SWA(snapshots=4)),
    "swag": Arm("SWAG", SWAG(snapshots=4, rank=2)),
    "variational": Arm("variational", Variational(posterior="full")),
}


@pytest.fixture
def trainings(monkeypatch):
    """The folders of all trainings."""
    folders, train = [], fitting.train_network

    def counted(*args, **options):
        folders.append(options["folder"].name)
        return train(*args, **options)

    monkeypatch.setattr("hf_bkd.study.cell.train_network", counted)
    return folders


def test_every_kind_is_tried_here():
    assert {arm.teacher.kind for arm in ARMS.values()} == {
        kind for kind, spec in SPECIFICATIONS.items() if not spec.reads_tables
    }


@pytest.mark.parametrize("name", ARMS)
def test_every_kind_is_fitted_once_and_kept(tmp_path, trainings, name):
    arm = ARMS[name]
    cell = cell_of(tmp_path, arm)
    first = Teaching(cell).teacher(arm, 1.0)
    features = torch.tensor(blobs(20, 9)["features"][:])
    probs = first.predict(features, 5, torch.Generator().manual_seed(0)).mean
    assert first.method == arm.method and probs.shape == (20, 3)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(20))
    assert len(trainings) == (2 if name == "ensemble" else 1)
    trainings.clear()
    again = Teaching(cell).teacher(arm, 1.0)
    assert again.fingerprint() == first.fingerprint() and again.temperature == first.temperature and not trainings


def test_arms_share_networks_and_keep_their_own_temperatures(tmp_path, trainings):
    laplace, scaled = ARMS["laplace"], ARMS["deterministic, scaled"]
    teaching = Teaching(cell_of(tmp_path, DETERMINISTIC, ENSEMBLE, laplace, scaled))
    hot, cold = (teaching.teacher(DETERMINISTIC, temperature) for temperature in (4.0, 1.0))
    ensemble = teaching.teacher(ENSEMBLE, 2.0)
    assert (hot.temperature, cold.temperature, ensemble.temperature) == (4, 1, 2)
    assert ensemble.members[0].temperature == 1 and ensemble.members[0].fingerprint() == hot.fingerprint()
    assert teaching.teacher(scaled, 1.0).temperature not in (1.0, 4.0)
    teaching.teacher(laplace, 1.0)
    assert trainings == ["teacher-deterministic-0", "teacher-deterministic-1"]
    folder = tmp_path / "teachers" / "all" / "seed-0"
    assert {path.name for path in folder.iterdir()} == {"deterministic-0", "deterministic-1", "laplace-link-mc"}
    assert Teacher.from_pretrained(folder / "laplace-link-mc", hot.network).method == "laplace"


def test_an_ensemble_of_any_kind_has_members_from_networks_of_their_own(tmp_path, trainings):
    arm = Arm("many", Ensemble(Laplace(link="mc"), members=3))
    teacher = Teaching(cell_of(tmp_path, arm)).teacher(arm, 1.0)
    assert [member.method for member in teacher.members] == 3 * ["laplace"]
    assert len({member.fingerprint() for member in teacher.members}) == len(trainings) == 3


def test_multiswag_and_swa_are_made_of_swag_that_is_trained_once(tmp_path, trainings):
    swag = SWAG(snapshots=4, rank=2)
    one, mean, many = Arm("SWAG", swag), Arm("SWA", SWA(of=swag)), Arm("MultiSWAG", Ensemble(of=swag, members=2))
    teaching = Teaching(cell_of(tmp_path, one, mean, many))
    first, average, ensemble = (teaching.teacher(arm, 1.0) for arm in (one, mean, many))
    assert trainings == ["teacher-swag-snapshots-4-rank-2", "teacher-swag-snapshots-4-rank-2-1"]
    assert [member.method for member in ensemble.members] == ["swag", "swag"]
    assert ensemble.members[0].fingerprint() == first.fingerprint() != ensemble.members[1].fingerprint()
    features = torch.tensor(blobs(20, 9)["features"][:])
    drawn = ensemble.predict(features, 5, torch.Generator().manual_seed(0), return_samples=True)
    assert drawn.samples.shape == (10, 20, 3) and ensemble.num_draws(5) == 2
    halves = drawn.samples.unflatten(0, (2, 5)).mean(dim=1)
    torch.testing.assert_close(drawn.variance, halves.var(dim=0))  # that of the members' means
    torch.testing.assert_close(average.predict(features, 1).mean, first.network(features).softmax(dim=-1))
    ensemble.save_pretrained(tmp_path / "saved")
    network = teaching.cell.network("mlp-16", {}, teaching.cell.train, 0)
    loaded = Teacher.from_pretrained(tmp_path / "saved", network)
    again = loaded.predict(features, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.mean, drawn.mean, rtol=0, atol=0)


def test_dropout_of_filters_is_trained_with_its_masks_and_kept(tmp_path, trainings):
    network = nn.Sequential(nn.Conv1d(1, 6, 2), nn.ReLU(), nn.Conv1d(6, 8, 2), nn.Flatten(), nn.Linear(16, 3))

    class Convolutions(CellFitting):
        def network(self, **settings):
            assert not settings  # the rate is of the channels, not of the architecture's own dropout
            return AsSignal(deepcopy(network))

        def train(self, network, masks=1, **others):
            assert masks == 4
            network.train()
            passes = [network(torch.ones(50, 4)) for _ in range(2)]
            assert not torch.equal(*passes)  # the channels are dropped while it is trained
            return super().train(network, masks=masks, **others)

    spec = MCDropout(0.5, filter_wise=True, masks=4)
    cell = cell_of(tmp_path, Arm("filters", spec))
    teacher = spec.fit(Convolutions(cell, Arm("filters", spec), None))
    assert teacher.filter_rate == 0.5 and spec.kept and len(trainings) == 1
    assert torch.equal(teacher.network.train()(torch.ones(1, 4)), teacher.network(torch.ones(1, 4)))  # no hook is left


def test_what_ivon_is_told(tmp_path, monkeypatch):
    settings_of_ivon = {}

    class Told(IVON):
        def __init__(self, params, **settings):
            settings_of_ivon.update(settings)
            super().__init__(params, **settings)

    monkeypatch.setattr("hf_bkd.teachers.ivon.IVON", Told)
    for spec, lr, hess_init in (
        (IVONVariational(initial_std=0.1), 0.25, 1 / (120 * 0.1**2)),
        (IVONVariational(lr=0.5, hess_init=3.0), 0.5, 3.0),
    ):
        arm = Arm("IVON", spec)
        cell = cell_of(tmp_path, arm, teacher_learning_rate=0.25)
        CellFitting(cell, arm, None).fitted(spec)
        assert (settings_of_ivon["lr"], settings_of_ivon["ess"], settings_of_ivon["seed"]) == (lr, 120, 0)
        assert settings_of_ivon["hess_init"] == pytest.approx(hess_init)


def test_a_supplied_teacher_takes_the_place_of_a_trained_one(tmp_path, trainings):
    cell = cell_of(tmp_path / "a", DETERMINISTIC)
    Teaching(cell).teacher(DETERMINISTIC, 1.0).save_pretrained(tmp_path / "mine")
    network = cell.network("mlp-16", {}, cell.train, 0)
    mine = Teacher.from_pretrained(tmp_path / "mine", network)
    trainings.clear()
    laplace, other = ARMS["laplace"], Arm("other", Deterministic(), "mlp-8")
    cell = cell_of(tmp_path / "b", laplace, other)
    for arm, number in ((DETERMINISTIC, 0), (ARMS["deterministic, scaled"], 0), (laplace, 0), (ENSEMBLE, 1)):
        teacher = CellFitting(cell, arm, mine).fitted(arm.teacher)
        network = teacher.members[0].network if isinstance(teacher, EnsembleTeacher) else teacher.network
        assert DeterministicTeacher(network).fingerprint() == mine.fingerprint() and len(trainings) == number
    CellFitting(cell, other, mine).fitted(other.teacher)  # a network of its own
    CellFitting(cell, DETERMINISTIC, mine, cell.splits.train.select(range(60)), "fold").fitted(Deterministic())
    assert trainings[1:] == ["teacher-mlp-8-deterministic-0", "teacher-fold-deterministic-0"]


def test_a_supplied_teacher_that_no_arm_uses(tmp_path, monkeypatch, capsys):
    arm = ARMS["variational"]
    teacher = Teaching(cell_of(tmp_path / "a", arm)).teacher(arm, 1.0)
    monkeypatch.setattr(Teacher, "from_pretrained", lambda *a, **k: teacher)
    assert status(tmp_path / "b", STUDY, arms="laplace", teacher="mine") == 2
    assert "mine is a variational teacher, and none of the arms" in capsys.readouterr().err


@pytest.fixture
def halved(monkeypatch):
    """A kind of teacher that the library doesn't have: a network whose logits are divided."""
    monkeypatch.setattr("hf_bkd.teachers.specification.SPECIFICATIONS", known := dict(SPECIFICATIONS))

    @dataclass(frozen=True)
    class Divided(TeacherSpec):
        kind, method = "divided", "deterministic"
        by: float = 2.0

        def fit(self, context):
            return DeterministicTeacher(context.trained().network, temperature=self.by)

        @property
        def sets_temperature(self):
            return True

    assert known["divided"] is Divided
    return Divided


def test_a_new_kind_is_one_class(tmp_path, halved):
    study = STUDY.__class__("new", (DETERMINISTIC, Arm("divided", halved(by=4.0))), STUDY.conditions)
    plain, divided = run(study, tmp_path)["arms"]
    assert divided["teacher_temperature"] == 4 and plain["teacher_metrics"]["nll"] != divided["teacher_metrics"]["nll"]
    assert (tmp_path / "labels" / "all" / "seed-0" / "divided-by-4-0").is_dir()
