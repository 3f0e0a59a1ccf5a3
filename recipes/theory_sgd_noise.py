"""Is it the noise in the supervision? arXiv 2601.01484's mathematics on tasks whose class probabilities are known.

A linear softmax student that can be exact, 64 of each kind trained at once, and the authors' own synthetic protocol.

    python recipes/theory_sgd_noise.py          three minutes on two cores
"""

from dataclasses import dataclass, field

from theory_claims.sgd_floors import FLOOR_CLAIMS
from theory_claims.sgd_linear import Linear
from theory_claims.sgd_protocol import protocol_claim

from hf_bkd.reports.claims import Claim, ClaimArguments, main


@dataclass
class Options(ClaimArguments):
    replicates: int = field(default=64, metadata={"help": "Linear students of each kind of supervision."})
    steps: int = field(default=6000, metadata={"help": "Of SGD, for each of them."})
    protocol_seeds: int = field(default=5, metadata={"help": "Runs of the authors' synthetic protocol."})
    protocol_points: int = field(default=50_000, metadata={"help": "Of data, in each of those."})


def claims(options: Options) -> list[Claim]:
    world = Linear(options.replicates, options.steps, options.seed)
    protocol = protocol_claim(options.protocol_seeds, options.protocol_points, options.seed)
    return [*(claim(world) for claim in FLOOR_CLAIMS), protocol]


if __name__ == "__main__":
    main(
        "theory_sgd_noise",
        "The mathematics of SGD-based knowledge distillation with Bayesian teachers (arXiv 2601.01484) on tasks whose "
        "class probabilities p(y|x) are known. The paper's full text was not at hand: formulas are from public "
        "summaries and the released code, or derived here, which is said beside each.",
        claims,
        Options,
    )
