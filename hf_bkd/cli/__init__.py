"""`hf-bkd`: what can be done without writing Python, one file a command."""

import argparse
import importlib
import sys

from ..utils.environment import version_of
from ..utils.errors import told_in_a_sentence

# command -> the module whose main(argv, prog) runs it, imported when it is needed, and what `--help` says of it
COMMANDS = {
    "teacher fit": ("teacher", "from a trained network or an architecture to a saved teacher"),
    "teacher evaluate": ("evaluate", "accuracy, NLL, ECE and Brier score of a teacher or a student"),
    "label": ("label", "add a teacher's soft labels to a dataset"),
    "answer": ("answer", "sample a language model's answers, which students are taught"),
    "distill": ("distill", "train a student towards soft labels, or towards a teacher"),
    "evaluate": ("evaluate", "accuracy, NLL, ECE and Brier score of a teacher or a student"),
    "report": ("report", "write a run's report anew from its results.json"),
}
PACKAGES = ("hf_bkd", "torch", "transformers", "datasets", "timm")  # of `--version`
OF_THE_TRAINER = ("teacher fit", "distill")  # whose arguments `--help-all` shows too
GROUPS = {"teacher": "fit or evaluate a teacher"}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the arguments, the process' own if not given, name; a mistake ends in one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        print(", ".join(f"{name} {version_of(name)}" for name in PACKAGES))
        return
    with told_in_a_sentence():
        for command, (module, _) in COMMANDS.items():
            words = command.split()
            if argv[: len(words)] == words:
                _run(command, module, argv[len(words) :])
                return
        _overview().parse_args(argv)  # says which commands there are


def _run(command: str, module: str, argv: list[str]) -> None:
    """Run a command, or show its help without importing what only the command needs."""
    from .options import PARSERS

    prog = f"hf-bkd {command}"
    everything = bool({"--help-all", "--help_all"} & set(argv))
    asked = {"-h", "--help"} & set(argv) or (everything and command not in OF_THE_TRAINER)
    if asked and not any(word.startswith("--method") for word in argv):
        print(PARSERS[command](prog).format_help(everything), end="")
        sys.exit(0)
    importlib.import_module(f".{module}", __name__).main(argv, prog)


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-bkd", description="Bayesian knowledge distillation.")
    parser.add_argument("--version", action="store_true", help="show the versions of the libraries")
    groups = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for command, (_, text) in COMMANDS.items():
        group, _, name = command.rpartition(" ")
        if group not in groups:
            inner = groups[""].add_parser(group, help=GROUPS[group])
            groups[group] = inner.add_subparsers(required=True, metavar="COMMAND")
        groups[group].add_parser(name, help=text)
    return parser
