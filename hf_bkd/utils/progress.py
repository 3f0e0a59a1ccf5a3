"""Progress bars, all of one look."""

from collections.abc import Iterable, Sequence

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bar(disable: bool = False, rate: str | None = None) -> Progress:
    """Make a bar with count, elapsed and remaining time; one line in a log that is no terminal.

    Args:
        disable: whether to show nothing.
        rate: name of what is counted, to show how many are done in a second.
    """
    speed = (_Rate(rate),) if rate else ()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *speed,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=disable,
    )


class _Rate(ProgressColumn):
    def __init__(self, what: str):
        super().__init__()
        self.what = what

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self.what}/s")


def track(items: Sequence, description: str | None) -> Iterable:
    """Iterate with a bar called ``description``; without one if that is ``None``."""
    if description is None:
        yield from items
        return
    with progress_bar() as bar:
        yield from bar.track(items, total=len(items), description=description)
