"""`hf-bkd report`: a run's report, written anew from its results."""

from pathlib import Path

from ..reports.claims.page import print_claims, write_page
from ..reports.report import print_summary, write_report
from ..reports.results import kind_of
from ..utils.files import read_json
from .options import report as parser


def main(argv: list[str], prog: str) -> None:
    """Write the report of a folder's ``results.json`` beside it and print its summary."""
    folder = Path(parser(prog).read(argv).output_dir)
    results = read_json(folder / "results.json", object)
    if kind_of(results) == "claims":
        written = write_page(results, folder)
        print_claims(results)
    else:
        written = write_report(results, folder)
        print_summary(results)
    print(f"report: {written}")
