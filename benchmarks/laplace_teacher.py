"""The cost of a last-layer Laplace teacher beside that of its network: to predict, in memory and to fit.

python benchmarks/laplace_teacher.py
"""

from collections.abc import Iterator

import torch
from harness import Bench, Claim, claim_of, main, size_of
from subjects import NUM_CLASSES, classifier, forward, images, labels, laplace_of
from torch import Tensor

from hf_bkd import LaplaceTeacher

DRAWS = 10


def claims(bench: Bench) -> Iterator[Claim]:
    yield from predict(bench)
    for architecture, examples in {"resnet50_cifar": 64, "wrn_16_2_cifar": 1024}.items():
        yield fit(bench, architecture, 32 * examples if bench.on_gpu else examples)


def predict(bench: Bench) -> Iterator[Claim]:
    """Measure time, and memory: the weights, the posterior and the most that a call holds beside them."""
    network = classifier("resnet50_cifar", bench.device)
    inputs = images(512 if bench.on_gpu else 32, bench.device)
    teacher = laplace_of(network, bench.device)
    sides = (lambda: teacher.predict(inputs, DRAWS)), (lambda: forward(network, inputs))
    text = f"Laplace predict with {DRAWS} draws, mc link / one forward pass"
    setting = f"resnet50_cifar, {NUM_CLASSES} classes, batch {len(inputs)}"
    yield bench.slowdown(f"{text} ({setting})", *sides, bar=1.10)

    weights = size_of([*network.parameters(), *network.buffers()])
    stored = weights + size_of(teacher.curvature.tensors().values()), weights
    pairs = [
        [(own + bench.working_memory(side)) / 2**20 for own, side in zip(stored, sides, strict=True)] for _ in range(3)
    ]
    yield claim_of(f"{text}: peak memory ({setting})", pairs, 1.2, unit="MiB")


def fit(bench: Bench, architecture: str, examples: int) -> Claim:
    """Measure a fit against a pass over the same batches and the eigendecompositions of the same two matrices."""
    network = classifier(architecture, bench.device)
    size = 512 if bench.on_gpu else 32 if network.num_features > 1000 else 128
    inputs, targets = images(examples, bench.device), labels(examples, bench.device)
    batches = list(zip(inputs.split(size), targets.split(size), strict=True))
    factors = kronecker_factors(LaplaceTeacher.fit(network, batches, prior_precision=1.0))

    def infer_and_decompose() -> None:
        for batch, _ in batches:
            forward(network, batch)
        for factor in factors:
            torch.linalg.eigh(factor)

    return bench.slowdown(
        f"Laplace fit / one inference pass and the eigendecompositions ({architecture}, {NUM_CLASSES} classes, "
        f"{examples} images)",
        lambda: LaplaceTeacher.fit(network, batches, prior_precision=1.0),
        infer_and_decompose,
        bar=1.5,
    )


def kronecker_factors(teacher: LaplaceTeacher) -> list[Tensor]:
    curvature = teacher.curvature
    classes = curvature.class_vectors, curvature.class_values
    pairs = classes, (curvature.feature_vectors, curvature.feature_values)
    return [vectors * values @ vectors.T for vectors, values in pairs]


if __name__ == "__main__":
    main(claims)
