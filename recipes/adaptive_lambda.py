"""Which weight should the teacher have? A grid of fixed lambdas beside the one that each example's draws suggest.

Data: scikit-learn's digits, with 30 % of the labels replaced at random and with 10 clean images per class, as in
`digits.py`. Teachers whose draws differ: Laplace, and an ensemble whose members did not see what they label.

    python recipes/adaptive_lambda.py          ten minutes on two cores
"""

from dataclasses import replace

from common.digits import DEFAULTS as DIGITS
from common.digits import digits_study

from hf_bkd.study import CROSS_FITTED, DETERMINISTIC, LAPLACE, ONE_HOT, Arm, Laplace, Study, StudyArguments, main

GRID = (0.25, 0.5, 0.75, 0.9, 1.0)
TEACHERS = (replace(LAPLACE, teacher=Laplace(link="mc")), replace(CROSS_FITTED, name="cross-fitted"))
DEFAULTS = DIGITS | {"output_dir": "runs/adaptive_lambda", "seeds": "0,1,2,3,4"}


def swept(arm: Arm) -> tuple[Arm, ...]:
    fixed = [replace(arm, name=f"{arm.name}, λ = {kd_lambda:g}", kd_lambda=kd_lambda) for kd_lambda in GRID]
    return (*fixed, replace(arm, name=f"{arm.name}, adaptive λ", lambda_schedule="adaptive"))


def study(options: StudyArguments) -> Study:
    arms = (ONE_HOT, DETERMINISTIC, *(each for arm in TEACHERS for each in swept(arm)))
    note = " Adaptive λ weighs teacher and label by the variance between the teacher's draws."
    return digits_study("adaptive_lambda", arms, note)


if __name__ == "__main__":
    main(study, DEFAULTS)
