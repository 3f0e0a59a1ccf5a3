"""Files of sound are decoded to the right samples by what is installed, and known by what is in them."""

import sys
import wave
from io import BytesIO

import datasets
import numpy as np
import pytest
from scipy.io import wavfile

from hf_bkd import UserError
from hf_bkd.data.rows import decoded_rows, read_rows, undecoded
from hf_bkd.data.sounds import Sound, at_rate, torchcodec_works
from hf_bkd.soft_labels.identity import Identity, content_ids

VALUES = [0.0, 0.5, -0.5, 0.25]


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    torchcodec_works.cache_clear()
    yield
    torchcodec_works.cache_clear()


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    file = BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def wav_of_24_bits() -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 3, 16_000, 0, "NONE", ""))
        writer.writeframes(b"".join(int(value * 2**23).to_bytes(3, "little", signed=True) for value in VALUES))
    return file.getvalue()


def decoded(content: bytes, rate: int | None = None) -> list[float]:
    return Sound({"path": None, "bytes": content}, rate)["array"].tolist()


@pytest.mark.parametrize(
    "content",
    [
        wav(np.array([128, 192, 64, 160], np.uint8)),
        wav(np.array([0, 2**14, -(2**14), 2**13], np.int16)),
        wav_of_24_bits(),
        wav(np.array([0, 2**30, -(2**30), 2**29], np.int32)),
        wav(np.array(VALUES, np.float32)),
        wav(np.array(VALUES)),
        wav(np.array([[0, 0], [2**14, 2**14], [-(2**15), 0], [0, 2**14]], np.int16)),
    ],
    ids=["8 bits", "16 bits", "24 bits", "32 bits", "float32", "float64", "stereo"],
)
def test_samples_of_every_wav_file(content):
    assert decoded(content) == VALUES


def test_another_rate():
    def tone(rate):
        return (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype(np.float32)

    samples = np.array(decoded(wav(tone(44_100), 44_100), 16_000))
    assert samples.shape == (8000,) and np.abs(samples - tone(16_000))[200:-200].max() < 0.001
    sound = Sound({"path": None, "bytes": wav(tone(8000), 8000)})
    assert sound["sampling_rate"] == 8000 and at_rate(sound, 16_000)["array"].shape == (8000,)
    assert at_rate({"path": None, "bytes": wav(tone(8000), 8000)}, 4000)["sampling_rate"] == 4000
    assert at_rate(VALUES, 4000) is VALUES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the sound holds no sound that can be read (ValueError: the file is empty)"),
        (b"RIFF1234", "the sound holds no sound that can be read (ValueError: Not a WAV file"),
        (b"fLaC", "the sound is no wav file of plain samples, and nothing is installed that decodes others: pip"),
        (wav(np.zeros(4, np.int16)).replace(b"\x10\0\0\0\1\0", b"\x10\0\0\0\7\0"), "no wav file of plain samples"),
    ],
    ids=["empty", "damaged", "flac", "mu-law"],
)
def test_what_cannot_be_decoded_is_a_sentence(monkeypatch, content, words):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError) as refused:
        decoded(content)
    assert words in str(refused.value)


def test_a_file_that_is_gone_is_named():
    with pytest.raises(UserError, match=r"/nowhere/a.wav holds no sound that can be read \(FileNotFoundError"):
        Sound({"path": "/nowhere/a.wav", "bytes": None})["array"]


def test_soundfile_decodes_the_others_where_it_is_installed(monkeypatch):
    class Soundfile:
        @staticmethod
        def read(file, dtype, always_2d):
            assert (file.read(), dtype, always_2d) == (b"fLaC", "float32", True)
            return np.array([[0.5, 0.0], [1.0, 0.5]], np.float32), 8000

    monkeypatch.setitem(sys.modules, "soundfile", Soundfile)
    assert decoded(b"fLaC") == [0.25, 0.75]


def test_torchcodec_without_its_libraries_is_not_used(monkeypatch):
    def fails(self, value, **_):
        raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", True)
    monkeypatch.setattr(datasets.Audio, "decode_example", fails)
    torchcodec_works.cache_clear()
    assert not torchcodec_works()


def files(folder, paths: bool) -> datasets.Dataset:
    rows = []
    for number, values in enumerate((VALUES, VALUES[::-1])):
        content = wav(np.array(values, np.float32))
        (folder / f"{number}.wav").write_bytes(content)
        rows.append({"path": str(folder / f"{number}.wav"), "bytes": None if paths else content})
    return datasets.Dataset.from_dict({"clip": rows, "label": [0, 1]}).cast_column("clip", datasets.Audio())


def test_a_dataset_of_files_is_read_and_streamed(tmp_path):
    dataset = files(tmp_path, paths=True)
    expected = [VALUES, VALUES[::-1]]
    assert [clip["array"].tolist() for clip in read_rows(dataset, 0, 2)["clip"]] == expected
    stream = dataset.to_iterable_dataset().decode(False)
    rows = undecoded(list(stream), dataset.features)
    assert rows.features == dataset.features
    assert [clip["array"].tolist() for clip in read_rows(rows, 0, 2)["clip"]] == expected
    columns = {name: [row[name] for row in stream] for name in dataset.column_names}
    assert [clip["array"].tolist() for clip in decoded_rows(columns, dataset.features)["clip"]] == expected


def test_a_file_is_known_by_its_content_wherever_it_lies(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    identity = Identity(("clip",))
    ids = identity.of_dataset(files(tmp_path, paths=True))
    assert len(set(ids)) == 2
    assert ids.tolist() == identity.of_dataset(files(tmp_path / "elsewhere", paths=False)).tolist()
    asked = files(tmp_path, paths=True).cast_column("clip", datasets.Audio(decode=False))
    assert ids.tolist() == identity.of_dataset(asked).tolist()
    files(tmp_path, paths=False).save_to_disk(tmp_path / "saved")
    assert ids.tolist() == identity.of_dataset(datasets.load_from_disk(tmp_path / "saved")).tolist()
    assert ids.tolist() == content_ids([(tmp_path / f"{number}.wav").read_bytes() for number in (0, 1)]).tolist()
