"""What arXiv 2601.01484 leaves open: a teacher's bias, its errors in common, Adam, and networks without PL.

Linear softmax students that can be exact, trained at once, and two-layer ones of several widths.

    python recipes/theory_bias.py --output_dir runs/theory_bias          five minutes on one core
"""

from dataclasses import dataclass, field

from theory_claims.adam_floors import adam_claim, adam_exact_claim
from theory_claims.bias_floors import bias_claim, bias_lambda_claim
from theory_claims.common_floors import fresh_claim, kept_claim, stored_claim
from theory_claims.sgd_linear import Linear
from theory_claims.width_noise import width_claim

from hf_bkd.reports.claims import Claim, ClaimArguments, main

NOTE = (
    "What arXiv 2601.01484 leaves open, predicted by formulas that are derived here, on tasks whose class "
    "probabilities p(y|x) are known: linear softmax students that can be exact (6 inputs, 4 classes), and two-layer "
    "ones. The tolerance of 10 % was set before anything was measured. C is the covariance of one example's gradient, "
    "H the Hessian of the risk, α the step, B the batch."
)


@dataclass
class BiasArguments(ClaimArguments):
    replicates: int = field(default=32, metadata={"help": "Linear students of each kind of supervision."})
    teachers: int = field(default=96, metadata={"help": "Students, and teachers, where a draw is stored or kept."})
    steps: int = field(default=5000, metadata={"help": "Of SGD and of Adam, for each linear student."})
    networks: int = field(default=10, metadata={"help": "Two-layer students of each width and supervision."})
    network_steps: int = field(default=12_000, metadata={"help": "Of SGD, for each of those."})


def claims(options: BiasArguments) -> list[Claim]:
    world = Linear(options.replicates, options.steps, options.seed)
    many = Linear(options.teachers, options.steps, options.seed)
    stored_steps = options.steps * 2 // 3
    return [
        bias_claim(world, options.steps),
        bias_lambda_claim(world, options.steps),
        fresh_claim(world, options.steps),
        kept_claim(many, stored_steps),
        stored_claim(many, stored_steps),
        adam_claim(world, options.steps),
        adam_exact_claim(world, options.steps),
        width_claim(options.networks, options.network_steps, options.seed),
    ]


if __name__ == "__main__":
    main("theory_bias", NOTE, claims, BiasArguments)
