"""`hf-bkd`: what can be done without writing Python, one file a command."""

import argparse
import importlib
import sys

from ..utils.errors import told_in_a_sentence

# command -> the module whose main(argv) runs it, imported when it is needed, and what `--help` says of it
COMMANDS = {
    "teacher fit": ("teacher", "from a trained network or an architecture to a saved teacher"),
    "teacher evaluate": ("evaluate", "accuracy, NLL, ECE and Brier score of a teacher or a student"),
    "label": ("label", "add a teacher's soft labels to a dataset of images or texts"),
    "evaluate": ("evaluate", "accuracy, NLL, ECE and Brier score of a teacher or a student"),
    "report": ("report", "write a run's report anew from its results.json"),
}
GROUPS = {"teacher": "fit or evaluate a teacher"}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the arguments, the process' own if not given, name; a mistake ends in one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    with told_in_a_sentence():
        for command, (module, _) in COMMANDS.items():
            words = command.split()
            if argv[: len(words)] == words:
                importlib.import_module(f".{module}", __name__).main(argv[len(words) :], f"hf-bkd {command}")
                return
        _overview().parse_args(argv)  # says which commands there are


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-bkd", description="Bayesian knowledge distillation.")
    groups = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for command, (_, text) in COMMANDS.items():
        group, _, name = command.rpartition(" ")
        if group not in groups:
            inner = groups[""].add_parser(group, help=GROUPS[group])
            groups[group] = inner.add_subparsers(required=True, metavar="COMMAND")
        groups[group].add_parser(name, help=text)
    return parser
