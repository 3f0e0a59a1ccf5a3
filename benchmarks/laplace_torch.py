"""The Laplace predictive beside the two that laplace-torch has, on cached features of a wide head.

python benchmarks/laplace_torch.py
"""

import warnings
from collections.abc import Iterator

import torch
from harness import Bench, Claim, main
from laplace import Laplace
from laplace.curvature import CurvlinopsGGN
from subjects import EXAMPLES, NUM_CLASSES, features, head_only, labels, laplace_of_head
from torch.utils.data import DataLoader, TensorDataset

WIDTH = 2048  # of a ResNet-50's features
DRAWS = 10


def claims(bench: Bench) -> Iterator[Claim]:
    theirs = fitted_by_laplace_torch(bench.device)
    ours = laplace_of_head(WIDTH, bench.device)
    head = f"{WIDTH} features, {NUM_CLASSES} classes, {DRAWS} draws, mc link"
    few = features(8, WIDTH, bench.device)  # its Jacobians fill 82 MB an example, several times over
    many = features(128, WIDTH, bench.device)

    def laplace_torch(inputs: torch.Tensor, pred_type: str) -> None:
        with torch.no_grad():
            theirs(inputs, pred_type=pred_type, link_approx="mc", n_samples=DRAWS)

    yield bench.speedup(
        f"laplace-torch's glm predictive / Laplace predict ({head}, batch {len(few)})",
        lambda: ours.predict(few, DRAWS),
        lambda: laplace_torch(few, "glm"),
        bar=100,
    )
    yield bench.slowdown(
        f"Laplace predict / laplace-torch's sampled weights, pred_type='nn' ({head}, batch {len(many)})",
        lambda: ours.predict(many, DRAWS),
        lambda: laplace_torch(many, "nn"),
        bar=1.0,
    )


def fitted_by_laplace_torch(device: torch.device) -> Laplace:
    """Fit the posterior of the same head on the same data."""
    data = TensorDataset(features(EXAMPLES, WIDTH, device), labels(EXAMPLES, device))
    part = {"subset_of_weights": "last_layer", "hessian_structure": "kron", "backend": CurvlinopsGGN}
    posterior = Laplace(head_only(WIDTH, device), "classification", prior_precision=1.0, **part)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        posterior.fit(DataLoader(data, batch_size=EXAMPLES))
    return posterior


if __name__ == "__main__":
    main(claims)
