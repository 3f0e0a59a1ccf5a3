"""What rank, bias and variance does a student's head pay on real features, and how sharp is its teacher?

The distillation divergence of arXiv 2605.13143 between last-layer Laplace posteriors, for scikit-learn's handwritten
digits; and the sharpness of the teacher's loss. The formulas are checked by `theory_divergence.py`.

    python recipes/theory_heads.py --output_dir runs/theory_heads          under half a minute
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from hf_bkd import LaplaceTeacher
from hf_bkd.losses import kl_to_target
from hf_bkd.reports.claims import Check, Claim, ClaimArguments, Figure, Panel, Series, main
from hf_bkd.theory.divergence import best_student, distillation_divergence
from hf_bkd.training.sharpness import sharpness

FEATURES, CLASSES, PRECISION, TRAIN = 16, 10, 1.0, 1_200
PAPER = "arXiv 2605.13143"
NOTE = (
    "The distillation divergence of arXiv 2605.13143 where it is of use: between the head of a teacher and those of "
    "students on the same features, each with its last-layer Laplace posterior. Data: scikit-learn's digits, features "
    "of a small network."
)


@dataclass
class Arguments(ClaimArguments):
    steps: int = field(default=1_000, metadata={"help": "Training steps of the teacher and of the students."})
    num_samples: int = field(default=200, metadata={"help": "Random vectors for the trace of the Hessian."})


class Digits(NamedTuple):
    """A trained network, its training batches, and what its head sees of them and of test images: a one comes last."""

    network: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    seen: Tensor
    test_seen: Tensor

    def posterior(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """The Laplace posterior of a head [C, d+1] on these features."""
        linear = nn.Linear(FEATURES, CLASSES).double()
        with torch.no_grad():
            linear.weight.copy_(head[:, :-1])
            linear.bias.copy_(head[:, -1])
        data = [(self.seen[:, :-1], torch.cat([labels for _, labels in self.batches]))]
        return LaplaceTeacher.fit(linear, data, prior_precision=PRECISION).head_posterior()


def train(options: Arguments) -> Digits:
    data = load_digits()
    order = torch.randperm(len(data.target))
    pixels, labels = torch.tensor(data.data / 16)[order], torch.tensor(data.target)[order]
    network = nn.Sequential(nn.Linear(64, FEATURES), nn.Tanh(), nn.Linear(FEATURES, CLASSES)).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(options.steps):
        optimizer.zero_grad()
        prior = PRECISION / (2 * TRAIN) * sum(parameter.square().sum() for parameter in network.parameters())
        (F.cross_entropy(network(pixels[:TRAIN]), labels[:TRAIN]) + prior).backward()
        optimizer.step()
    with torch.no_grad():
        seen = F.pad(network[:2](pixels), (0, 1), value=1.0)
    batches = list(zip(pixels[:TRAIN].split(500), labels[:TRAIN].split(500), strict=True))
    return Digits(network, batches, seen[:TRAIN], seen[TRAIN:])


def distilled_heads(digits: Digits, teacher: Tensor, options: Arguments) -> Tensor:
    """Heads [C-1, C, d+1] of rank 1 to C-1, trained at once towards the teacher's class probabilities."""
    most = CLASSES - 1
    target = (digits.seen @ teacher.T).softmax(dim=-1)
    columns = torch.ones(most, most, dtype=torch.float64).tril()[:, None]  # student r has the first r columns
    left = 0.3 * torch.randn(most, CLASSES, most, dtype=torch.float64)
    right = 0.3 * torch.randn(most, most, FEATURES + 1, dtype=torch.float64)
    optimizer = torch.optim.Adam([left.requires_grad_(), right.requires_grad_()], lr=0.03)
    for _ in range(options.steps):
        optimizer.zero_grad()
        heads = (left * columns) @ right
        losses = -(target * (digits.seen @ heads.mT).log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1)
        (losses.sum() + PRECISION / (2 * TRAIN) * heads.square().sum()).backward()
        optimizer.step()
    return ((left * columns) @ right).detach()


def costs(digits: Digits, options: Arguments) -> Claim:
    teacher = LaplaceTeacher.fit(digits.network, digits.batches, prior_precision=PRECISION).head_posterior()
    taught = (digits.test_seen @ teacher[0].T).softmax(dim=-1)

    def distance(head: Tensor) -> float:
        return kl_to_target(taught, digits.test_seen @ head.T).mean().item()

    heads = dict(enumerate(distilled_heads(digits, teacher[0], options), start=1))
    posteriors = {rank: digits.posterior(head) for rank, head in heads.items()}
    measured = {rank: distillation_divergence(*teacher, *student, rank) for rank, student in posteriors.items()}
    best = {rank: best_student(*teacher, rank) for rank in heads}
    ideal = [distillation_divergence(*teacher, best[rank], teacher[1], rank) for rank in heads]
    dense = [
        MultivariateNormal(mean.flatten(), torch.kron(torch.eye(CLASSES, dtype=torch.float64), covariance))
        for mean, covariance in (posteriors[3], teacher)
    ]
    exact = torch.distributions.kl_divergence(*dense).item()
    own = min(each.bias + each.cross for each in measured.values())
    names = [str(rank) for rank in measured]
    bars = [
        Series(part, names, [getattr(each, part) for each in measured.values()], style="stacked", color=i + 1)
        for i, part in enumerate(("rank", "bias", "variance", "cross"))
    ]
    curves = [
        Series("distilled students", list(heads), [distance(head) for head in heads.values()], color=0),
        Series("best mean of the rank", list(best), [distance(head) for head in best.values()], style="dashed"),
    ]
    return Claim(
        "What a student's head pays on real features",
        f"The teacher's head has {FEATURES} features, a bias and {CLASSES} classes. Students of rank 1 to "
        f"{CLASSES - 1} are trained towards its class probabilities on the same features; each gets its own Laplace "
        "posterior, and the divergence between the two heads is split. No student avoids what its rank costs, next to "
        f"nothing at rank {CLASSES - 1}, since what all logits share changes no probability. Low ranks pay much in "
        "bias, too: distillation brings their *predictions* near, with other weights than the best mean of the rank, "
        "which is nearer in weights and further in predictions (right).",
        f"{PAPER}, linear Gaussian case; derived here, with last-layer Laplace posteriors as teacher and student",
        [
            Check("rank 3: sum of parts, dense Gaussians", exact, measured[3].total, 1e-8),
            Check("least of bias + cross, all ranks", 0, own, 1e-8, "at least"),
            Check("bias of the best means", 0, max(each.bias for each in ideal), 1e-8, "absolute"),
            Check("cross of the best means", 0, max(abs(each.cross) for each in ideal), 1e-8, "absolute"),
            Check(
                f"rank cost of {CLASSES - 1} over that of 1",
                0.01,
                measured[CLASSES - 1].rank / measured[1].rank,
                0,
                "at most",
            ),
        ],
        [
            Figure(
                "heads_costs",
                "Left, bars: the parts of the divergence, the negative cross term below zero; points: the whole. "
                "Right: divergence of predictions for test images from the teacher's.",
                [
                    Panel(
                        "Divergence of heads",
                        "rank of the student",
                        "nats",
                        [*bars, Series("total", names, [each.total for each in measured.values()], color=0)],
                    ),
                    Panel("Divergence of predictions", "rank of the student", "nats an image", curves),
                ],
            )
        ],
        "The posteriors are Laplace approximations, reduced to one covariance that all classes share: the mean of the "
        "classes' own. A student without a covariance has an infinite divergence.",
    )


def curvature(digits: Digits, options: Arguments) -> Claim:
    network, (pixels, labels) = digits.network, map(torch.cat, zip(*digits.batches, strict=True))
    measured = sharpness(network, digits.batches, num_samples=options.num_samples, seed=options.seed)
    shapes = {name: value.shape for name, value in network.named_parameters()}
    start = nn.utils.parameters_to_vector(network.parameters()).detach()

    def loss(weights: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in shapes.values()])
        given = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(network, given, (pixels,)), labels)

    hessian = torch.autograd.functional.hessian(loss, start)
    largest = torch.linalg.eigvalsh(hessian)[-1]
    return Claim(
        "How sharp the teacher's loss is",
        f"Largest eigenvalue and trace of the Hessian of the mean cross-entropy over {TRAIN:,} images in all "
        f"{len(start):,} weights, by Lanczos' and Hutchinson's methods, which only multiply vectors by it, beside the "
        "dense Hessian, which large networks don't allow.",
        f"{PAPER} (sharpness-aware bound); methods of Lanczos 1950 and Hutchinson 1989",
        [
            Check("largest eigenvalue", largest, measured.largest_eigenvalue, 1e-4),
            Check("trace", hessian.trace(), measured.trace, 4 * measured.trace_error, "absolute"),
        ],
        caveat=f"The trace is estimated with {options.num_samples} random vectors; four standard errors are allowed.",
    )


def claims(options: Arguments) -> list[Claim]:
    torch.manual_seed(options.seed)
    digits = train(options)
    return [costs(digits, options), curvature(digits, options)]


if __name__ == "__main__":
    main("theory_heads", NOTE, claims, Arguments)
