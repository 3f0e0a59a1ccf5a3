"""The cost of a variational teacher's draws: close to none over the last layer, a pass each over the whole network.

python benchmarks/variational_teacher.py
"""

from collections.abc import Iterator

from harness import Bench, Claim, main
from subjects import NUM_CLASSES, classifier, forward, images

from hf_bkd import VariationalTeacher, make_variational

ARCHITECTURE = "resnet18_cifar"
DRAWS = 10


def claims(bench: Bench) -> Iterator[Claim]:
    size = 512 if bench.on_gpu else 32
    yield predict(bench, "of the last layer", {"posterior": "head"}, size, bar=1.10)
    yield predict(bench, "of the last layer, rank 4", {"posterior": "head", "rank": 4}, size, bar=1.10)
    yield predict(bench, "of the whole network", {"posterior": "full"}, size, bar=10)


def predict(bench: Bench, what: str, posterior: dict[str, str | int], size: int, bar: float) -> Claim:
    network = classifier(ARCHITECTURE, bench.device)
    variational = make_variational(classifier(ARCHITECTURE, bench.device), **posterior)
    teacher = VariationalTeacher(variational)
    inputs = images(size, bench.device)
    return bench.slowdown(
        f"Variational predict with {DRAWS} draws {what} / one forward pass ({ARCHITECTURE}, {NUM_CLASSES} classes, "
        f"batch {size})",
        lambda: teacher.predict(inputs, DRAWS),
        lambda: forward(network, inputs),
        bar,
    )


if __name__ == "__main__":
    main(claims)
