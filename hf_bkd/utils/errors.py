"""Errors that a user can cause and mend, and the sentences that the command line makes of them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """One sentence on what is wrong with what the user passed, and what to do; the command line prints it bare."""


RESUMABLE = "what was finished is kept: the same command goes on from there"
# safetensors and torch raise errors of their own, with these words, where a file could not be written
UNWRITTEN = ("I/O error", "No space left on device", "inline_container", "iostream error", "cannot be opened")


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """End the process with one sentence, not a traceback, on a :class:`UserError`, a file's trouble or Ctrl-C.

    Exit status 2 for an error, 130 for an interruption.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
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
    if any(words in str(error) for words in UNWRITTEN):
        return f"error: a file could not be written, most likely because the disk is full; {RESUMABLE}"
    return None
