"""The versions and the hardware of a run."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def environment(device: "torch.device", num_processes: int = 1) -> dict[str, str]:
    """Return versions and hardware, as strings."""
    import torch  # which takes a second that a version alone doesn't need

    packages = ("hf_bkd", "torch", "transformers", "datasets", "accelerate", "timm", "laplace-torch")
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "python": platform.python_version(),
        **{name: version_of(name) for name in packages},
        "hardware": hardware,
        "processes": str(num_processes),
    }


def version_of(package: str) -> str:
    """Version of a package; of one that is run from a checkout, as hf_bkd may be, that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
