"""Sound files as samples, decoded by torchcodec as `datasets` does, or else by what is there: SciPy and soundfile."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..utils.errors import UserError

WAVE = (b"RIFF", b"RIFX", b"RF64")  # how wav files begin
COMPRESSED = "Unknown wave file format"  # what SciPy says of wav files that hold no plain samples
HALF = 2**7  # of unsigned samples of 8 bits


@functools.cache
def torchcodec_works() -> bool:
    """Say whether `datasets` decodes sound here: torchcodec is installed, and so is FFmpeg, which it needs."""
    if not datasets.config.TORCHCODEC_AVAILABLE:
        return False
    from scipy.io import wavfile

    file, rate = BytesIO(), 8000
    wavfile.write(file, rate, np.zeros(rate // 100, np.int16))
    try:
        return datasets.Audio().decode_example({"path": None, "bytes": file.getvalue()})["sampling_rate"] == rate
    except Exception:  # what torchcodec raises where its libraries can't be loaded
        return False


@contextmanager
def files_without_torchcodec() -> Iterator[None]:
    """Let `datasets` load files of sound where torchcodec is not installed, which it needs to write sound alone."""
    encode = datasets.Audio.encode_example

    def encode_example(self: datasets.Audio, value: Any) -> dict[str, Any]:
        return {"path": value, "bytes": None} if isinstance(value, str) else encode(self, value)

    datasets.Audio.encode_example = encode_example
    try:
        yield
    finally:
        datasets.Audio.encode_example = encode


class Sound:
    """A sound file that is decoded when it is asked: ``sound["array"]`` float32 [T], the mean of its channels.

    ``sound["sampling_rate"]`` is how many samples a second has, and ``sound["path"]`` and ``sound["bytes"]`` are the
    file, as a column of `datasets.Audio` stores it.

    Args:
        encoded: ``path`` and ``bytes``, of which one may be ``None``.
        sampling_rate: that its samples are to have; the file's own if not given.
    """

    def __init__(self, encoded: dict[str, Any], sampling_rate: int | None = None):
        self._hf_encoded = {"path": encoded.get("path"), "bytes": encoded.get("bytes")}
        self._rate = sampling_rate

    def __getitem__(self, name: str) -> Any:
        return self._hf_encoded[name] if name in self._hf_encoded else self._decoded[name]

    @functools.cached_property
    def _decoded(self) -> dict[str, Any]:
        samples, rate = _decode(*self._hf_encoded.values())
        if self._rate not in (None, rate):
            from scipy.signal import resample_poly  # which takes long to import

            common = gcd(self._rate, rate)
            samples, rate = resample_poly(samples, self._rate // common, rate // common), self._rate
        return {"array": samples, "sampling_rate": rate}


def at_rate(value: Any, rate: int) -> Any:
    """Return a sound file, or what `datasets` makes of one, with samples at another rate; all else as it is."""
    encoded = getattr(value, "_hf_encoded", None)
    if isinstance(value, Sound) or (encoded is None and isinstance(value, dict) and set(value) == {"bytes", "path"}):
        return Sound(encoded or value, rate)
    if encoded is None or value["sampling_rate"] == rate:
        return value
    return datasets.Audio(sampling_rate=rate).decode_example(encoded)


def _decode(path: str | None, content: bytes | None) -> tuple[np.ndarray, int]:
    """Return the samples of a file, float32 [T] in [-1, 1], and how many a second has."""
    name = path or "the sound"
    try:
        content = Path(path).read_bytes() if content is None else content
        if not content:
            raise ValueError("the file is empty")
        return _samples_of(content)
    except ImportError:
        raise UserError(
            f"{name} is no wav file of plain samples, and nothing is installed that decodes others: pip install "
            "soundfile, or torchcodec and FFmpeg"
        ) from None
    except (OSError, RuntimeError, ValueError, TypeError, EOFError) as error:
        raise UserError(f"{name} holds no sound that can be read ({type(error).__name__}: {error})") from error


def _samples_of(content: bytes) -> tuple[np.ndarray, int]:
    if content[:4] in WAVE:
        try:
            return _decode_wave(content)
        except ValueError as error:
            if COMPRESSED not in str(error):
                raise
    return _decode_by_soundfile(content)


def _decode_by_soundfile(content: bytes) -> tuple[np.ndarray, int]:
    import soundfile  # which many have for transformers

    samples, rate = soundfile.read(BytesIO(content), dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def _decode_wave(content: bytes) -> tuple[np.ndarray, int]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Chunk .non-data. not understood")
        rate, samples = wavfile.read(BytesIO(content))
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float32) - HALF) / HALF
    elif samples.dtype.kind == "i":
        scaled = samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    else:
        scaled = samples
    return (scaled if scaled.ndim == 1 else scaled.mean(axis=1)).astype(np.float32), rate
