"""`hf-bkd report`: a run's report, written anew from its results."""

from pathlib import Path

from ..reports.claims.page import print_claims, write_page
from ..reports.report import print_summary, write_report
from ..reports.results import kind_of
from ..utils.command_line import Parser
from ..utils.files import read_json


def main(argv: list[str], prog: str) -> None:
    """Write the report of a folder's ``results.json`` beside it and print its summary."""
    parser = Parser(prog=prog, description="Write a run's report anew from its results.json.")
    parser.add_argument("output_dir", help="folder of a recipe's run")
    folder = Path(parser.read(argv).output_dir)
    results = read_json(folder / "results.json", object)
    if kind_of(results) == "claims":
        report = write_page(results, folder)
        print_claims(results)
    else:
        report = write_report(results, folder)
        print_summary(results)
    print(f"report: {report}")
