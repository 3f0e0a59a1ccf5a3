"""The versions and the hardware of a run."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SECONDS = 20  # that git may take
PACKAGE = Path(__file__).parents[1]


def environment(device: "torch.device", num_processes: int = 1) -> dict[str, str]:
    """Return versions and hardware, as strings; the library's commit where it is known."""
    import torch  # which takes a second that a version alone doesn't need

    packages = ("hf_bkd", "torch", "transformers", "datasets", "accelerate", "timm", "laplace-torch")
    versions = {name: version_of(name) for name in packages}
    source = commit()
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "python": platform.python_version(),
        "hf_bkd": versions.pop("hf_bkd"),
        **({} if source is None else {"hf_bkd commit": source}),
        **versions,
        "hardware": hardware,
        "processes": str(num_processes),
    }


@cache  # of four packages it takes 4 ms, for each record of soft labels
def version_of(package: str) -> str:
    """Version of a package; of one that is run from a checkout, as hf_bkd may be, that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit(package: Path = PACKAGE) -> str | None:
    """Return the commit that a package's code is of, ``None`` where it is not known.

    In a checkout it is the one checked out, and whether tracked files have been changed since; of a package that pip
    installed from a repository the one that pip noted.

    Args:
        package: folder of the package's code.
    """
    if (package.parent / ".git").exists():
        revision = _git(package, "rev-parse", "HEAD")
        if not revision or _git(package, "ls-files", "__init__.py") != "__init__.py":
            return None
        changed = _git(package, "status", "--porcelain", "--untracked-files=no")
        return f"{revision}, changed since" if changed else revision
    try:
        noted = json.loads(distribution(package.name).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    return noted.get("vcs_info", {}).get("commit_id")


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says in a folder, ``None`` if it is not there or refuses."""
    try:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
