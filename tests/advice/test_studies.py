"""Advice about studies whose networks predict several labels."""

from dataclasses import replace

import pytest

from hf_bkd.study import DETERMINISTIC, ONE_HOT
from hf_bkd.study.arguments import parse
from hf_bkd.study.run import run as run_study

from ..study.study_helpers import DEFAULTS, run, words
from ..study.test_problems import MULTI, study
from .following import advises, code, follow, refused

ADVICE = r"declare it with (.+)$"


@pytest.mark.usefixtures("blank_pictures")
@advises("posteriors of networks of one class alone: declare", "teachers are compared by their probabilities of one")
def test_studies_of_several_labels_measure_students_alone(tmp_path):
    options = {"student_model": "mlp-8", "teacher_model": "mlp-8"}

    def advice(asked, folder):
        message = refused(lambda: run_study(asked, *parse(DEFAULTS, words(tmp_path / folder, options))))
        return follow(f"dict({code(message, ADVICE)})")

    asked = study("features", MULTI, (ONE_HOT, DETERMINISTIC), students=False)
    asked = replace(asked, **advice(asked, "teachers"), posterior={"prior_precision": (1.0,)})
    asked = replace(asked, **advice(asked, "posteriors"))
    assert len(run(asked, tmp_path / "students", **options)["arms"]) == 2
