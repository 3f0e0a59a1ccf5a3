"""What a user can cause and mend, and how the command line says it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """One sentence on what is wrong with what the user passed, and what to do; the command line prints it bare."""


# what safetensors and torch call a file that could not be written, in errors of their own
UNWRITTEN = ("I/O error", "No space left on device", "inline_container", "iostream error")


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """End the process with one sentence, not a traceback, on a :class:`UserError`, a file's trouble or Ctrl-C.

    Exit status 2 for an error, 130 for an interruption.
    """
    kept = "what was finished is kept: the same command goes on from there"
    try:
        yield
    except UserError as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _end(f"error: {error.strerror or error}{where}; {kept}", 2)
    except KeyboardInterrupt:
        _end(f"interrupted; {kept}", 130)
    except Exception as error:
        if not any(words in str(error) for words in UNWRITTEN):
            raise
        _end(f"error: a file could not be written, most likely because the disk is full; {kept}", 2)


def _end(sentence: str, status: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(status)
