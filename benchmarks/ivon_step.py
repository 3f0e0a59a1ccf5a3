"""The cost of a whole-network posterior by IVON beside training with AdamW, in the optimizer and in all, without bars.

python benchmarks/ivon_step.py
"""

from collections.abc import Iterator

import torch
from harness import Bench, Claim, main
from subjects import NUM_CLASSES, classifier, images, labels
from torch import Tensor, nn

from hf_bkd import IVON

ARCHITECTURE = "resnet18_cifar"


def claims(bench: Bench) -> Iterator[Claim]:
    ours, theirs = (classifier(ARCHITECTURE, bench.device).train() for _ in range(2))
    ivon = IVON(ours.parameters(), lr=0.01, ess=50_000)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
    size = 128 if bench.on_gpu else 32
    batch = images(size, bench.device), labels(size, bench.device)

    def draw_and_step() -> None:
        ivon.perturb()
        ivon.step()

    def train_with_ivon() -> None:
        with ivon.draw():
            backward(ours, batch)
        ivon.step()

    def train_with_adamw() -> None:
        backward(theirs, batch)
        adamw.step()

    text = f"Training step with IVON / with AdamW ({ARCHITECTURE}, {NUM_CLASSES} classes, batch {size})"
    yield bench.slowdown(text, train_with_ivon, train_with_adamw, bar=None)
    # both use the gradients of the last training step
    text = f"IVON's draw and step / AdamW's step ({ARCHITECTURE}, {NUM_CLASSES} classes)"
    yield bench.slowdown(text, draw_and_step, adamw.step, bar=None)


def backward(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    network.zero_grad()
    nn.functional.cross_entropy(network(batch[0]), batch[1]).backward()


if __name__ == "__main__":
    main(claims)
