"""The command line of a recipe of theory."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...utils.command_line import parse_dataclasses
from ...utils.environment import environment
from ...utils.errors import told_in_a_sentence
from ...utils.files import writable_folder, write_json
from ...utils.locks import sole_user
from .claim import Claim, as_json
from .page import print_claims, write_page


@dataclass
class ClaimArguments:
    """What every recipe of theory can be asked for; a recipe adds its own by a subclass."""

    output_dir: str = field(default="", metadata={"help": "Folder for results.json, report.md and the figures."})
    seed: int = field(default=0, metadata={"help": "Of all random numbers."})


def main(
    name: str,
    note: str,
    claims: Callable[[Any], Sequence[Claim]],
    kind: type[ClaimArguments] = ClaimArguments,
    argv: list[str] | None = None,
) -> None:
    """Run a recipe of theory: parse, check, write ``results.json`` and ``report.md``, print every check.

    Args:
        name: of the recipe; it writes into ``runs/NAME`` unless told otherwise.
        note: what a reader of the report has to know of all claims.
        claims: makes the claims, from the options.
        kind: of the options.
        argv: arguments; the process' own if not given.
    """
    with told_in_a_sentence():
        defaults = {"output_dir": f"runs/{name}"}
        (options,) = parse_dataclasses((kind,), defaults, sys.argv[1:] if argv is None else argv)
        folder = writable_folder(options.output_dir)
        torch.set_num_threads(1)  # many small products: several threads take twice the time
        with sole_user(folder):
            results = {"recipe": name, "kind": "claims", "note": note, "environment": environment(torch.device("cpu"))}
            results |= as_json(claims(options))
            write_json(folder / "results.json", results)
            report = write_page(results, folder)
        print_claims(results)
        print(f"report: {report}")
