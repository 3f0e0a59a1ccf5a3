"""`hf-bkd report`: a run's report, written anew from its results."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..reports.claims.page import print_claims, write_page
from ..reports.report import print_summary, write_report
from ..reports.results import kind_of
from ..utils.errors import UserError


def main(argv: list[str], prog: str) -> None:
    """Write the report of a folder's ``results.json`` beside it and print its summary."""
    parser = argparse.ArgumentParser(prog=prog, description="Write a run's report anew from its results.json.")
    parser.add_argument("output_dir", help="folder of a recipe's run")
    folder = Path(parser.parse_args(argv).output_dir)
    results = _read(folder / "results.json")
    if kind_of(results) == "claims":
        report = write_page(results, folder)
        print_claims(results)
    else:
        report = write_report(results, folder)
        print_summary(results)
    print(f"report: {report}")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested without end
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
