"""The versions and the hardware of a run."""

import platform
from importlib.metadata import version

import torch


def environment(device: torch.device, num_processes: int = 1) -> dict[str, str]:
    """Return versions and hardware, as strings."""
    packages = ("hf_bkd", "torch", "transformers", "datasets", "accelerate", "timm", "laplace-torch")
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    versions = {name: version(name) for name in packages}
    return {"python": platform.python_version(), **versions, "hardware": hardware, "processes": str(num_processes)}
