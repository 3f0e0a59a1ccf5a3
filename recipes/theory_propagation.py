"""How a teacher's noise reaches its students: the claims of arXiv 2601.18909, on scikit-learn's data sets.

python recipes/theory_propagation.py --output_dir runs/theory_propagation      seven minutes on one core
"""

from dataclasses import dataclass, field

import torch
from theory_claims.propagation_classification import labels_claim, networks_claim
from theory_claims.propagation_regression import Diabetes, amplification_claim, averaging_claim, rules_claim

from hf_bkd.reports.claims import Claim, ClaimArguments, main

NOTE = (
    "No number of the paper's tables could be recovered: what stands beside a measurement is what a formula predicts, "
    "or the direction that the paper claims. Regression is on scikit-learn's diabetes data in place of Boston "
    "housing, which scikit-learn no longer ships; networks, optimizer and numbers of steps are those of the paper's "
    "released code, the sizes of the sets and the numbers of students are ours. Targets of a regression have variance "
    "1, entropies are in nats."
)


@dataclass
class PropagationArguments(ClaimArguments):
    students: int = field(default=4000, metadata={"help": "Linear students."})
    classifiers: int = field(default=60, metadata={"help": "Logistic students of each kind of response."})
    networks: int = field(default=25, metadata={"help": "Networks of each data set, source and kind of response."})


def claims(options: PropagationArguments) -> list[Claim]:
    data, generator = Diabetes(), torch.Generator().manual_seed(options.seed)
    return [
        averaging_claim(data, options.students, generator),
        rules_claim(data, options.students, generator),
        labels_claim(options.classifiers, options.seed),
        networks_claim(options.networks, options.seed),
        amplification_claim(data, options.students, options.networks, options.seed),
    ]


if __name__ == "__main__":
    main("theory_propagation", NOTE, claims, PropagationArguments)
