"""What our imports and help texts take in a fresh process, beside the imports that nobody can do without.

python benchmarks/startup.py
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import Bench, Claim, Side, main

ROOT = Path(__file__).parents[1]
# torch takes about two seconds on the machine of results.json, of which 0.3 and 0.5 s are these shares
IMPORT_BAR, HELP_BAR = 1.15, 0.25
HELPS = ("", "teacher fit", "label", "evaluate", "report")


def claims(bench: Bench) -> Iterator[Claim]:
    torch = fresh("import torch")
    yield bench.slowdown("import torch, hf_bkd / import torch", fresh("import torch, hf_bkd"), torch, IMPORT_BAR)
    for command in HELPS:
        words = " ".join(filter(None, ("hf-bkd", command, "--help")))
        yield bench.slowdown(f"{words} / import torch", helped(command), torch, HELP_BAR)
    for name, needed in {
        "add_soft_labels": "import torch, datasets, accelerate",
        "LaplaceTeacher": "import torch, transformers",
        "DistillationTrainer": "from transformers import Trainer",
    }.items():
        ours = fresh(f"from hf_bkd import {name}")
        yield bench.slowdown(f"from hf_bkd import {name} / {needed}", ours, fresh(needed), IMPORT_BAR)


def helped(command: str) -> Side:
    return fresh(f"from hf_bkd.cli import main; main({[*command.split(), '--help']})")


def fresh(code: str) -> Side:
    """Make a side that runs some code in a process of its own."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}

    def run() -> None:
        command = [sys.executable, "-c", code]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


if __name__ == "__main__":
    main(claims)
