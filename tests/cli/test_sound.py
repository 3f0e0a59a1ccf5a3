"""A folder of wav files through the five lines and the four commands, without torchcodec."""

import datasets
import numpy as np
import pytest
from scipy.io import wavfile
from transformers import (
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    pipeline,
    set_seed,
)

from hf_bkd import (
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    UserError,
    add_soft_labels,
    join_soft_labels,
    load_splits,
    only_soft_labels,
)
from hf_bkd.data.loading import load_stream
from hf_bkd.data.sounds import Sound, torchcodec_works
from tests.cli.fitting_helpers import run

SHORT = {"num_train_epochs": 1, "disable_tqdm": 1, "use_cpu": 1}
RATE, LENGTH = 8000, 800


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Sixteen clips for training, eight to validate and eight to test on, and an encoder, which reads another rate."""
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for split, number in (("train", 8), ("validation", 4), ("test", 4)):
        for name, frequency in (("low", 200), ("high", 1500)):
            folder = home / "sounds" / split / name
            folder.mkdir(parents=True)
            for clip in range(number):
                samples = np.sin(2 * np.pi * frequency * np.arange(LENGTH) / RATE + rng.uniform(0, 6))
                wavfile.write(folder / f"{clip}.wav", RATE, (samples * 10_000).astype(np.int16))
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    sizes |= {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    config = Wav2Vec2Config(**sizes, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    set_seed(0)
    Wav2Vec2Model(config).save_pretrained(home / "encoder")
    Wav2Vec2FeatureExtractor().save_pretrained(home / "encoder")
    return home


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    torchcodec_works.cache_clear()
    yield
    torchcodec_works.cache_clear()


def test_the_four_commands(home, tmp_path, capsys):
    sounds, encoder = home / "sounds", home / "encoder"
    teacher, labels, student = (tmp_path / name for name in ("teacher", "labels", "student"))
    run("teacher", "fit", method="laplace", model=encoder, dataset=sounds, output_dir=teacher, **SHORT)
    run("label", teacher=teacher, dataset=sounds, output_dir=labels)
    evaluated = {"eval_dataset": sounds, "eval_split": "test"}
    run("distill", student=encoder, dataset=labels, output_dir=student, **evaluated, **SHORT)
    distilled = capsys.readouterr().out.splitlines()[-1]
    run("evaluate", student, dataset=sounds, split="test")
    assert capsys.readouterr().out.splitlines()[1] == distilled.partition("on 8 examples: ")[2]
    (clip,) = (sounds / "test" / "low").glob("0.wav")
    sound = {"raw": Sound({"path": str(clip), "bytes": None}, 16_000)["array"], "sampling_rate": 16_000}
    answers = pipeline("audio-classification", str(student))(sound)
    assert {answer["label"] for answer in answers} == {"low", "high"}


def test_the_five_lines(home, tmp_path):
    clips, encoder = load_splits(str(home / "sounds")), str(home / "encoder")
    names = dict(enumerate(clips["train"].features["label"].names))
    networks = [AutoModelForAudioClassification.from_pretrained(encoder, id2label=names) for _ in range(2)]
    teacher = LaplaceTeacher.fit(networks[0], clips["train"], clips["validation"])
    labeled = add_soft_labels(clips["train"], teacher)
    args = DistillationTrainingArguments(str(tmp_path), kd_lambda=0.9, max_steps=2, use_cpu=True, report_to="none")
    trainer = DistillationTrainer(networks[1], args, train_dataset=labeled, eval_dataset=clips["test"])
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    labeled.save_to_disk(tmp_path / "labels")  # where the files are in the dataset itself
    labels = only_soft_labels(datasets.load_from_disk(tmp_path / "labels"))
    joined = join_soft_labels(clips["train"].select(range(16)[::-1]), labels)
    assert joined["teacher_probs"][:] == labeled["teacher_probs"][::-1]


def test_a_file_that_is_no_sound_is_named_and_can_be_left_out(home, tmp_path, capsys):
    folder = tmp_path / "sounds" / "train"
    for name in ("low", "high"):
        (folder / name).mkdir(parents=True)
        for clip in (home / "sounds" / "train" / name).iterdir():
            (folder / name / clip.name).write_bytes(clip.read_bytes())
    (folder / "low" / "3.wav").write_bytes(b"RIFF, it says")
    names = {0: "high", 1: "low"}
    network = AutoModelForAudioClassification.from_pretrained(str(home / "encoder"), id2label=names)
    network.save_pretrained(tmp_path / "network")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "network")
    words = {"teacher": tmp_path / "network", "dataset": tmp_path / "sounds"}
    with pytest.raises(SystemExit):
        run("label", **words, output_dir=tmp_path / "out")
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds no sound that can be read" in said and "3.wav" in said
    run("label", **words, output_dir=tmp_path / "others", on_error="skip")
    assert "15 examples labeled and 1 left out" in capsys.readouterr().out


def test_a_stream_of_files_needs_torchcodec_and_says_so(home):
    with pytest.raises(UserError, match="which datasets streams with torchcodec alone: load it without streaming"):
        load_stream(str(home / "sounds"), "train")
