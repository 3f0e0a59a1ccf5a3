"""What several commands share: checks of arguments, quiet libraries, and the text of measures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging

from ..hub.transfer import push_folder
from ..utils.errors import UserError


def check_seed(seed: int) -> None:
    """Check that a seed is one that numpy and torch can be given."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be a whole number from 0 to {2**32 - 1}, and it is {seed}")


def repository(args: Any) -> str | None:
    """Return the repository that ``--push_to_hub`` asks for, which is called like the output folder if not named."""
    if not args.push_to_hub:
        return None
    named = args.push_to_hub if isinstance(args.push_to_hub, str) else getattr(args, "hub_model_id", None)
    return named or Path(args.output_dir).name


def pushing(args: Any) -> Callable[[], str] | None:
    """Return what pushes the output folder and returns its address; ``None`` if that is not asked for."""
    name = repository(args)
    if name is None:
        return None
    return lambda: push_folder(args.output_dir, name, private=args.hub_private_repo, token=args.hub_token)


def quiet() -> None:
    """Turn off the bars of other libraries, which look otherwise than ours."""
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def metrics_text(metrics: dict[str, float]) -> str:
    """Return measures as they are printed, in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
