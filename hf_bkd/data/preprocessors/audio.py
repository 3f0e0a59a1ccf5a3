"""Sound as a network's own feature extractor makes it of samples at its sampling rate."""

import inspect
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.calling import argument_names
from ...utils.errors import UserError
from ..rows import check_present
from ..sounds import at_rate
from .base import Preprocessor


def audio_preprocessor(network: nn.Module, columns: tuple[str, ...], extractor: Any) -> Preprocessor:
    """Make the preprocessor of a column of sound.

    Files of ``datasets.Audio`` are decoded at the extractor's sampling rate, by torchcodec where it works, or else wav
    files by SciPy and others by soundfile. Lists of samples are taken to have that rate. Where clips of several
    lengths are padded the network needs an attention mask, or its answer would depend on the other clips of the batch;
    one that normalizes groups of channels over time (wav2vec2-base) reads the padding all the same.

    Args:
        network: reads the sound.
        columns: one column, of ``datasets.Audio``, of structs with ``array`` and ``sampling_rate``, or of lists.
        extractor: a feature extractor of transformers.

    Raises:
        UserError: no extractor; when rows are read: files that can't be decoded here, samples of another rate, or
            clips of several lengths whose padding is not masked or is read all the same.
    """
    if extractor is None:
        raise UserError(
            f"nothing says how sound becomes the inputs of {type(network).__name__}: pass processing_class=, its "
            "feature extractor"
        )
    (column,) = columns
    over_time = getattr(getattr(network, "config", None), "feat_extract_norm", None) == "group"
    pads_none = inspect.signature(type(extractor).__call__).parameters.get("padding")
    padding = {"padding": True} if pads_none is not None and pads_none.default is False else {}
    settings = json.loads(json.dumps(extractor.to_dict(), default=str))
    prepare = AudioPreparation(column, extractor, tuple(argument_names(network)), padding, over_time)
    return Preprocessor("audio", columns, prepare, settings, processor=extractor)


@dataclass(frozen=True)
class AudioPreparation:
    """A preparation of clips, which worker processes can have.

    Args:
        column: of sound.
        extractor: of transformers.
        taken: names of what the network takes.
        padding: of each call of the extractor.
        over_time: whether the network normalizes over time.
    """

    column: str
    extractor: Any
    taken: tuple[str, ...]
    padding: dict[str, bool]
    over_time: bool = False

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Turn rows into what the extractor makes of their clips."""
        column, rate = self.column, self.extractor.sampling_rate
        check_present(rows, (column,))
        clips = [_samples(value, rate, column) for value in rows[column]]
        batch = self.extractor(clips, sampling_rate=rate, return_tensors="pt", **self.padding)
        several = self.padding and len({len(clip) for clip in clips}) > 1
        if several and self.over_time:
            raise UserError(
                f"the clips of column {column} have several lengths, and the network normalizes over time, padding "
                "included, so that a clip's label would depend on its neighbors: bring the clips to one length, or "
                "read one at a time (batch_size=1; in a training per_device_train_batch_size=1 and "
                "per_device_eval_batch_size=1)"
            )
        if several and "attention_mask" not in batch:
            raise UserError(
                f"the clips of column {column} have several lengths, and the feature extractor pads them without a "
                "mask, so that a clip's label would depend on its neighbors: set its return_attention_mask = True "
                "(in its preprocessor_config.json too), or bring the clips to one length"
            )
        return {name: torch.as_tensor(value) for name, value in batch.items() if name in self.taken}


def _samples(value: Any, rate: int, column: str) -> np.ndarray:
    """Return the samples of a clip, float32 [T], the mean of its channels."""
    value = at_rate(value, rate)
    if hasattr(value, "_hf_encoded") or isinstance(value, dict):
        if value["sampling_rate"] != rate:
            raise UserError(
                f"column {column} holds sound of {value['sampling_rate']} samples a second, and the network reads "
                f"{rate}: use dataset.cast_column({column!r}, datasets.Audio(sampling_rate={rate}))"
            )
        value = value["array"]
    samples = np.asarray(value, dtype=np.float32)
    return samples if samples.ndim == 1 else samples.mean(axis=0)
