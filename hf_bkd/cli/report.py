"""`hf-bkd report`: a run's report, written anew from its results."""

import argparse
import json
from pathlib import Path

from ..utils.errors import UserError


def main(argv: list[str], prog: str) -> None:
    """Write the report of a folder's ``results.json`` beside it and print its summary."""
    parser = argparse.ArgumentParser(prog=prog, description="Write a run's report anew from its results.json.")
    parser.add_argument("output_dir", help="folder of a recipe's run")
    folder = Path(parser.parse_args(argv).output_dir)
    results = _read(folder / "results.json")
    if "checks" in results:
        from ..reports.claims.report import print_summary, write_report
    else:
        from ..reports.report import print_summary, write_report
    report = write_report(results, folder)
    print_summary(results)
    print(f"report: {report}")


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
