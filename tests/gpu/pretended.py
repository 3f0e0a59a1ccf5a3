"""A GPU that isn't there: torch's fake tensors know their device and shape, and have no values.

Whoever mixes devices is refused as on a card, and whoever asks for a value, as ``item()`` does, is too: there is none.
What goes between host and device is written down.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hf_bkd.data import preprocessing, resampling
from hf_bkd.teachers import multi
from hf_bkd.utils.random import ExampleGenerator

COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
LOOKUPS = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


class Traffic(TorchDispatchMode):
    """Writes down where the host would wait for the device.

    ``places`` holds ``"FILE:LINE SOURCE"`` of the innermost frame of hf_bkd. A copy that doesn't block is no wait,
    for it begins in pinned memory (which :func:`pretended_gpu` leaves ordinary).
    """

    def __init__(self):
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in READS and args[0].device.type == "cuda":
            self._note()
        if function in LOOKUPS and args[0].device.type == "cpu" and "cuda" in map(_kind, args[1]):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        result = function(*args, **kwargs)
        if function in COPIES:
            source, target = (args[1], args[0]) if len(args) > 1 and isinstance(args[1], Tensor) else (args[0], result)
            if source.device != target.device and not (kwargs.get("non_blocking") or args[2:] == (True,)):
                self._note()
        return result

    def _note(self) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/hf_bkd/" in frame.filename]
        frame = frames[-1] if frames else traceback.extract_stack()[0]
        self.places.append(f"{frame.filename.rpartition('/hf_bkd/')[2]}:{frame.lineno} {frame.line}")


def _kind(value: Any) -> str | None:
    return value.device.type if isinstance(value, Tensor) else None


@contextmanager
def pretended_gpu() -> Iterator[FakeTensorMode]:
    """In the block tensors can be made on ``"cuda"``; whatever tensors there were before stay on the CPU."""
    forked = torch.random.fork_rng
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        mock.patch.object(Tensor, "pin_memory", lambda self: self),
        mock.patch.object(torch.random, "fork_rng", lambda devices=(): forked([])),  # the card has no generator
        mock.patch.object(ExampleGenerator, "host_seed", lambda self: self.initial_seed()),  # and ids no values
        mock.patch.object(multi, "named_generator", lambda generator, name: generator),
    ):
        try:
            yield mode
        finally:  # what was computed once and kept has no values either
            for function in (resampling.log_uniform, resampling.beta, preprocessing._scale_and_shift):
                function.cache_clear()
