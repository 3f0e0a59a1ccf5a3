"""Which weight should the teacher have? A grid of fixed lambdas beside those that are set example by example.

Data: scikit-learn's digits, with 30 % of the labels replaced at random and with 10 clean images per class, as in
`digits.py`. The teacher is an ensemble whose members did not see what they label. Controls: the labels alone, and a
deterministic teacher as it is and with the temperature that calibrates it.

    python recipes/adaptive_lambda.py          twenty minutes on two idle cores
"""

from dataclasses import replace

from common.digits import DEFAULTS as DIGITS
from common.digits import digits_study

from hf_bkd.study import CROSS_FITTED, DETERMINISTIC, ONE_HOT, SCALED, Study, StudyArguments, main

GRID = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25)
BY_EXAMPLE = {"adaptive": "adaptive", "bias-aware": "bias_aware"}
TEACHER = replace(CROSS_FITTED, name="cross-fitted")
FIXED = [replace(TEACHER, name=f"{TEACHER.name}, λ = {kd_lambda:g}", kd_lambda=kd_lambda) for kd_lambda in GRID]
SET = [replace(TEACHER, name=f"{TEACHER.name}, {name} λ", lambda_schedule=BY_EXAMPLE[name]) for name in BY_EXAMPLE]
DEFAULTS = DIGITS | {"output_dir": "runs/adaptive_lambda", "seeds": "0,1,2,3,4"}
NOTE = (
    " Adaptive λ weighs teacher and label by the variance between the teacher's draws; bias-aware λ by what the "
    "teacher gets wrong where it has not seen the label."
)


def study(options: StudyArguments) -> Study:
    return digits_study("adaptive_lambda", (ONE_HOT, DETERMINISTIC, SCALED, *FIXED, *SET), NOTE)


if __name__ == "__main__":
    main(study, DEFAULTS)
