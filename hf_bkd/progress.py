"""One look for all progress bars."""

from collections.abc import Iterable, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(disable: bool = False) -> Progress:
    """A bar with count, elapsed and remaining time; one line in a log that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=disable,
    )


def track(items: Sequence, description: str | None) -> Iterable:
    """Iterate with a bar called ``description``; without one if that is ``None``."""
    if description is None:
        yield from items
        return
    with progress_bar() as bar:
        yield from bar.track(items, total=len(items), description=description)
