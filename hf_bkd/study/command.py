"""A recipe's command line."""

import dataclasses
import sys
from typing import Any

from accelerate import PartialState

from ..utils.errors import told_in_a_sentence
from .arguments import parse
from .arms import Study
from .run import run


def main(study: Study, defaults: dict[str, Any], argv: list[str] | None = None) -> None:
    """Run a recipe from the command line: parse, run, report; what a user can cause ends in one sentence.

    Args:
        study: what to run.
        defaults: the recipe's own defaults of study and training arguments.
        argv: arguments; the process' own if not given.
    """
    with told_in_a_sentence():
        options, args = parse(defaults, sys.argv[1:] if argv is None else argv)
        run(dataclasses.replace(study, arms=options.chosen(study.arms)), options, args)
        PartialState().destroy_process_group()
