"""Which weight should the teacher have? A grid of fixed lambdas beside the one that each example's draws suggest.

Data: scikit-learn's digits, with 30 % of the labels replaced at random and with 10 clean images per class, as in
`digits.py`. Teachers whose draws differ: Laplace, and an ensemble whose members did not see what they label.

    python recipes/adaptive_lambda.py          ten minutes on two cores
"""

from dataclasses import replace

import digits

from hf_bkd.study import CROSS_FITTED, DETERMINISTIC, LAPLACE, ONE_HOT, main

GRID = (0.25, 0.5, 0.75, 0.9, 1.0)
DRAWN = replace(LAPLACE, how={"link": "mc"})


def swept(arm):
    fixed = [replace(arm, name=f"{arm.name}, λ = {kd_lambda:g}", kd_lambda=kd_lambda) for kd_lambda in GRID]
    return (*fixed, replace(arm, name=f"{arm.name}, adaptive λ", lambda_schedule="adaptive"))


STUDY = replace(
    digits.STUDY,
    name="adaptive_lambda",
    arms=(ONE_HOT, DETERMINISTIC, *swept(DRAWN), *swept(replace(CROSS_FITTED, name="cross-fitted"))),
    note=digits.STUDY.note + " Adaptive λ weighs teacher and label by the variance between the teacher's draws.",
)
DEFAULTS = digits.DEFAULTS | {"output_dir": "runs/adaptive_lambda", "num_samples": 10, "seeds": "0,1,2,3,4"}

if __name__ == "__main__":
    main(STUDY, DEFAULTS)
