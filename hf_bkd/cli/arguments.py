"""What several commands share: arguments, and the text of measures."""

import argparse


def add_dataset(command: argparse.ArgumentParser, split: str) -> None:
    """Add the arguments that say which examples of a dataset a teacher is asked about."""
    command.add_argument("--dataset", required=True, help="folder or name on the Hub")
    command.add_argument("--split", default=split, help="default: %(default)s")
    command.add_argument("--input_column", help="of images or texts, if there are several")
    command.add_argument("--label_column", help="if it is not called label, labels or fine_label")
    command.add_argument("--num_samples", type=int, default=10, help="draws from a teacher's posterior")


def metrics_text(metrics: dict[str, float]) -> str:
    """Return measures as they are printed, in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
