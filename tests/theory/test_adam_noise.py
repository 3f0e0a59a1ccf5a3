"""Adam's floor: against Lyapunov's equation by scipy, and against torch's Adam on quadratics of two parameters."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov

from hf_bkd.theory import adam_floor

HESSIAN = torch.tensor([[1.0, 0.3], [0.3, 0.2]], dtype=torch.float64)
COVARIANCE = torch.tensor([[4.0, -0.5], [-0.5, 0.09]], dtype=torch.float64)


def test_the_floor_is_that_of_lyapunovs_equation():
    hessian, covariance = HESSIAN.numpy(), COVARIANCE.numpy()
    step = np.diag(1 / np.sqrt(np.diag(covariance)))
    stationary = solve_continuous_lyapunov(step @ hessian, 1e-3 * step @ covariance @ step)
    expected = np.trace(hessian @ stationary) / 2
    assert adam_floor(COVARIANCE.diagonal(), 1e-3) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(1e-3 / 4 * (2 + 0.3))  # by hand: standard deviations 2 and 0.3


def test_it_goes_with_the_root_of_noise_and_batch():
    variances = COVARIANCE.diagonal()
    floor = adam_floor(variances, 1e-3)
    assert adam_floor(variances / 9, 1e-3) == pytest.approx(floor / 3, rel=1e-6)
    assert adam_floor(variances, 1e-3, batch_size=9) == pytest.approx(floor / 3, rel=1e-6)
    assert adam_floor(variances, 2e-3) == pytest.approx(2 * floor)
    assert adam_floor(variances, 1e-3, eps=1e6) == pytest.approx(1e-9 / 4 * (4 + 0.09), rel=1e-4)  # SGD again
    assert adam_floor(torch.zeros(2), 1e-3) == 0


def test_torchs_adam_comes_to_rest_there():
    generator = torch.Generator().manual_seed(0)
    place = torch.zeros(1500, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([place], 0.02)
    root, risks = torch.linalg.cholesky(COVARIANCE), []
    for step in range(2400):
        place.grad = place.detach() @ HESSIAN + torch.randn(1500, 2, dtype=torch.float64, generator=generator) @ root.T
        optimizer.step()
        if step >= 1200:
            risks.append(((place.detach() @ HESSIAN) * place.detach()).sum(dim=1).mean() / 2)
    assert torch.stack(risks).mean().item() == pytest.approx(adam_floor(COVARIANCE.diagonal(), 0.02), rel=0.05)


def test_without_a_floor_of_noise_the_distance_scales_with_the_step():
    """A gradient that vanishes at the minimum, example by example: the same path, twice as far, at twice the step."""
    paths = []
    for scale in (1, 2):
        generator = torch.Generator().manual_seed(0)
        place = torch.full((3, 2), 0.1 * scale, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([place], 0.01 * scale, eps=1e-30)
        for _ in range(200):
            x = torch.randn(3, 2, dtype=torch.float64, generator=generator)
            place.grad = x * (x * place.detach()).sum(dim=1, keepdim=True)
            optimizer.step()
        paths.append(place.detach() / scale)
    torch.testing.assert_close(*paths)
    assert paths[0].abs().max() > 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": 0.1, "batch_size": 0}, "batch_size must be a whole number"),
        ({"learning_rate": 0.1, "eps": 0.0}, "eps must be above 0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        adam_floor(torch.ones(2), **options)
    with pytest.raises(ValueError, match="variances must be at least 0"):
        adam_floor(-torch.ones(2), 0.1)
