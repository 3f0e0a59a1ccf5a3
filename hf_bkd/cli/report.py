"""`hf-bkd report`: a run's report, written anew from its results."""

import json
from pathlib import Path
from typing import Any

from ..reports.claims.page import print_claims, write_page
from ..reports.report import print_summary, write_report
from ..reports.results import kind_of
from ..utils.errors import UserError
from .options import report as parser


def main(argv: list[str], prog: str) -> None:
    """Write the report of a folder's ``results.json`` beside it and print its summary."""
    folder = Path(parser(prog).read(argv).output_dir)
    results = _read(folder / "results.json")
    if kind_of(results) == "claims":
        written = write_page(results, folder)
        print_claims(results)
    else:
        written = write_report(results, folder)
        print_summary(results)
    print(f"report: {written}")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested without end
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
