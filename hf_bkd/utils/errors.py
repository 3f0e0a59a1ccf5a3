"""Errors that a user can cause and mend, and the sentences that the command line makes of them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """One sentence on what is wrong with what the user passed, and what to do; the command line prints it bare."""


class RowError(UserError):
    """A UserError about one row: its number in the dataset and its column, where they are known."""

    def __init__(self, sentence: str, row: int | None = None, column: str | None = None):
        super().__init__(sentence)
        self.row, self.column = row, column


RESUMABLE = "what was finished is kept: the same command goes on from there"


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """End the process with one sentence, not a traceback, on a :class:`UserError`, a file's trouble or Ctrl-C.

    Exit status 2 for an error, 130 for an interruption. Processes of one run say the same sentence once.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        if _is_first_to_say(sentence):
            print(sentence, file=sys.stderr)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)


def _sentence(error: BaseException) -> str | None:
    """Describe an error that the user can mend; ``None`` for any other."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {RESUMABLE}"
    if isinstance(error, UserError):
        return f"error: {error}"
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"error: {error.strerror or error}{where}; {RESUMABLE}"
    return None


def _is_first_to_say(sentence: str) -> bool:
    """Whether no other process of this run has said it; before they know each other, one on each machine says it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return int(os.environ.get("LOCAL_RANK", "0")) == 0
    try:
        return torch.distributed.distributed_c10d._get_default_store().add(f"hf_bkd: {sentence}", 1) == 1
    except Exception:  # the store has ended with the process that kept it
        return True
