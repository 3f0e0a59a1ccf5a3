"""Advice about students that learn what a teacher's draws disagree about, and about sets that are calibrated."""

import datasets
import numpy as np
import torch
from torch.distributions import Dirichlet

from hf_bkd import DeterministicTeacher, EnsembleTeacher
from hf_bkd.cli.evaluate import main as evaluate

from ..cli.fitting_helpers import cnn, images
from .following import advises, code, follow, refused
from .things import X, labeled, linear, logged, points, same, trainer

SEEDS = (1, 2, 3)
ASKED = r"add_soft_labels\(\.\.\., (\w+=\w+)\)"


def ensemble():
    return EnsembleTeacher([DeterministicTeacher(linear(seed)) for seed in SEEDS])


def draws():
    """The members' probabilities, [M, N, C]."""
    with torch.no_grad():
        return torch.stack([torch.softmax(linear(seed)(torch.from_numpy(X)), -1) for seed in SEEDS])


def label(teacher, **settings):
    return labeled(points(), teacher, **settings)


def loss_by_hand(student):
    concentrations = student(torch.from_numpy(X)).exp().detach()
    return float(-Dirichlet(concentrations).log_prob(draws()).mean())


@advises("learns how much a teacher's draws disagree", "averages over a teacher's draws, and it answers with a single")
def test_a_dirichlet_student_learns_from_a_teacher_that_draws(tmp_path):
    student, named = linear(), {"distance": "dirichlet"}
    alone = DeterministicTeacher(linear(1))
    message = refused(lambda: trainer(tmp_path, student, label(alone), **named).train())
    asked = follow(f"dict({code(message, ASKED)})")
    message = refused(lambda: label(alone, **asked))
    taken = label(follow(code(message, r"an (ensemble)\)"), ensemble=ensemble()), **asked)
    expected = loss_by_hand(student)
    same(logged(trainer(tmp_path / "taken", student, taken, **named)), expected)


@advises("holds no mean logarithms of class probabilities")
def test_logarithms_that_are_none_are_made_again(tmp_path):
    def spoiled(rows):
        return rows.map(lambda row: {"teacher_mean_log_probs": [0.5, -1.0, -1.0]}, features=rows.features)

    teacher, student = ensemble(), linear()
    rows = label(teacher, mean_log_probs=True)
    message = refused(lambda: trainer(tmp_path, student, spoiled(rows), distance="dirichlet").train())
    again = label(teacher, **follow(f"dict({code(message, r'label again with (.+)$')})"))
    expected = loss_by_hand(student)
    same(logged(trainer(tmp_path / "again", student, again, distance="dirichlet")), expected)


@advises("distance='dirichlet' is the likelihood of the teacher's draws, and student_temperature")
def test_draws_may_be_at_a_temperature(tmp_path):
    message = refused(lambda: trainer(tmp_path, linear(), points(), distance="dirichlet", student_temperature=2.0))
    assert "leave it at 1" in message
    tempered = ensemble()
    tempered.temperature = 2.0
    tempered.tempering = follow(code(message, r"(tempering='\w+')").partition("=")[2])
    column = np.asarray(label(tempered, mean_log_probs=True)["teacher_mean_log_probs"][:])
    with torch.no_grad():
        of_draws = torch.stack([torch.log_softmax(linear(seed)(torch.from_numpy(X)) / 2, -1) for seed in SEEDS])
    same(column, of_draws.mean(0))


@advises("--conformal is calibrated on the split validation")
def test_conformal_sets_are_calibrated_beside_what_is_measured(tmp_path, capsys):
    DeterministicTeacher(cnn()).save_pretrained(tmp_path / "teacher")
    datasets.DatasetDict(test=images(12, 0)).save_to_disk(tmp_path / "bare")
    datasets.DatasetDict(test=images(12, 0), validation=images(12, 1)).save_to_disk(tmp_path / "both")

    def measure(data, *words):
        evaluate(
            [str(tmp_path / "teacher"), "--dataset", str(tmp_path / data), "--conformal", "0.5", *words], "hf-bkd"
        )

    assert "has none" in refused(lambda: measure("bare"))
    message = refused(lambda: measure("both", "--split", "validation"))
    measure("both", code(message, r"another (--\w+)"), "test")
    assert "calibrated on 12 validation examples" in capsys.readouterr().out
