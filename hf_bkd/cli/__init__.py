"""`hf-bkd`: what can be done without writing Python."""

import argparse
import json
import sys
from pathlib import Path

from ..utils.errors import UserError, told_in_a_sentence
from .arguments import add_dataset


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    with told_in_a_sentence():
        if argv[:2] == ["teacher", "fit"]:  # its arguments are those of transformers' Trainer too
            from .fitting import fit

            fit(argv[2:])
        elif argv[:1] == ["label"]:  # its choices are those of the library, which takes its time to load
            from .label import label

            label(argv[1:])
        else:
            arguments = _parser().parse_args(argv)
            arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-bkd", description="Bayesian knowledge distillation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    teacher = commands.add_parser("teacher", help="fit or evaluate a teacher").add_subparsers(
        required=True, metavar="COMMAND"
    )
    teacher.add_parser("fit", help="from a trained network or an architecture to a saved teacher")
    _add_evaluate(teacher)

    commands.add_parser("label", help="add a teacher's soft labels to a dataset of images or texts")
    _add_evaluate(commands)

    report = commands.add_parser("report", help="write a run's report anew from its results.json")
    report.add_argument("output_dir", help="folder of a recipe's run")
    report.set_defaults(run=_report)
    return parser


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="accuracy, NLL, ECE and Brier score of a teacher or a student")
    evaluate.add_argument("model", help="folder or name on the Hub of a saved teacher or classifier")
    add_dataset(evaluate, "test")
    evaluate.add_argument("--ood", metavar="DATASET", help="of other classes: how well does entropy tell it apart?")
    evaluate.add_argument("--ood_split", help="of that dataset; the same as --split if not given")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from .evaluate import evaluate

    for line in evaluate(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.num_samples,
        ood=arguments.ood,
        ood_split=arguments.ood_split or arguments.split,
        input_column=arguments.input_column,
        label_column=arguments.label_column,
    ):
        print(line, flush=True)


def _report(arguments: argparse.Namespace) -> None:
    from ..reports.results import kind_of

    file = Path(arguments.output_dir, "results.json")
    try:
        results = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested without end
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    if kind_of(results) == "claims":
        from ..reports.claims.page import print_claims as print_summary
        from ..reports.claims.page import write_page as write_report
    else:
        from ..reports.report import print_summary, write_report
    report = write_report(results, arguments.output_dir)
    print_summary(results)
    print(f"report: {report}")


if __name__ == "__main__":
    main()
