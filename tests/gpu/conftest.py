"""The device under test: a card, or what HF_BKD_GPU_DEVICE names, such as ``cpu`` for a walk through the tests."""

import os
from contextlib import suppress

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the card is first used

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    asked = os.environ.get("HF_BKD_GPU_DEVICE", "cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    device = torch.device(asked)
    if device.type == "cuda":
        exact_arithmetic()
    return device


def exact_arithmetic() -> None:
    """Float32 that is float32, and the same order of sums every time; a test before this one may have changed both."""
    with suppress(RuntimeError):  # torch refuses to mix its two ways to say so, in one order only
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.fp32_precision = "ieee"
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
