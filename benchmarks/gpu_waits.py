"""Where a program makes the host wait for the GPU: each place stops the stream of work that the device is fed with.

CUDA tells of such calls in its synchronization debug mode (`torch.cuda.set_sync_debug_mode`); whose call it was is
read off the stack.
"""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

MESSAGE = "synchronizing CUDA operation"
TORCH = str(Path(torch.__file__).parent)
PACKAGE = "hf_bkd"


class Waits(TrainerCallback):
    """Watches the steps of a training, from the end of one step to the end of another, both counted from 1.

    ``found`` holds the places as ``"FILE:LINE SOURCE"``, each as often as it waited.
    """

    def __init__(self, first: int, last: int):
        self.first, self.last, self.found = first, last, []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.first:
            torch.cuda.set_sync_debug_mode("warn")
        elif state.global_step == self.last:
            torch.cuda.set_sync_debug_mode("default")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The block's warnings are read, and those of other things left as they are."""
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=f".*{MESSAGE}")
            others, warnings.showwarning = warnings.showwarning, self._note
            self._others = others
            try:
                yield
            finally:
                if torch.cuda.is_available():
                    torch.cuda.set_sync_debug_mode("default")

    @property
    def own(self) -> list[str]:
        """Those that this library's code calls for, and not what it calls."""
        return [place for place in self.found if place.startswith(f"{PACKAGE}/")]

    def _note(self, message: Any, category: Any, filename: str, lineno: int, *args: Any) -> None:
        if MESSAGE not in str(message):
            self._others(message, category, filename, lineno, *args)
            return
        self.found.append(place_of(traceback.extract_stack()[:-1]))


def place_of(stack: list[traceback.FrameSummary]) -> str:
    """The innermost frame outside of torch, its file from its package on."""
    outside = [f for f in stack if not f.filename.startswith(TORCH) and Path(f.filename).name != "warnings.py"]
    frame = outside[-1]
    parts = Path(frame.filename).parts
    packages = [number for number, part in enumerate(parts) if part in (PACKAGE, "site-packages")]
    start = packages[-1] + (parts[packages[-1]] != PACKAGE) if packages else len(parts) - 1
    return f"{'/'.join(parts[start:])}:{frame.lineno} {frame.line}"
