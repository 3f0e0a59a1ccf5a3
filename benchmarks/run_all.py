"""Measure all claims in turn, into benchmarks/results.json (`make bench`); a missed bar is shown, and is no error."""

from pathlib import Path

import ivon_step
import language
import laplace_teacher
import laplace_torch
import soft_labels
import startup
import swag_fit
import variational_teacher
from harness import main

SUBJECTS = laplace_teacher, laplace_torch, variational_teacher, ivon_step, soft_labels, language, startup, swag_fit

if __name__ == "__main__":
    main(*(subject.claims for subject in SUBJECTS), output=Path(__file__).with_name("results.json"))
