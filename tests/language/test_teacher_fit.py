"""`hf-bkd teacher fit` of language models: one adapter, several, IVON, dropout; then labels and measures of them."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, load_from_disk

from hf_bkd import MCDropoutTeacher, VariationalTeacher
from hf_bkd.cli import main
from hf_bkd.language import tokenized
from hf_bkd.teachers.loading import load_teacher

from .language_helpers import learned, llama, texts, tokenizer

FAST = ["--num_train_epochs", "2", "--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true"]
FAST += ["--per_device_train_batch_size", "4", "--num_samples", "3", "--max_length", "20"]


def run(*words: str | Path | int) -> None:
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    learned(llama(), tokenized(texts(8), tokenizer()), 20).save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    llama(1, attention_dropout=0.5).save_pretrained(folder / "dropping")
    tokenizer().save_pretrained(folder / "dropping")
    DatasetDict(train=texts(12), test=texts(3)).save_to_disk(folder / "texts")
    return folder


def fit(folder: Path, name: str, *words: str | int, model: str = "llm") -> Path:
    data = ["--dataset", folder / "texts", "--model", folder / model, "--output_dir", folder / name]
    run("teacher", "fit", *data, *FAST, *words)
    return folder / name


def labeled(folder: Path, name: str) -> Dataset:
    data = ["--dataset", folder / "texts", "--output_dir", folder / f"{name} labels", "--max_length", "20"]
    run("label", "--teacher", folder / name, *data, "--num_samples", 3)
    return load_from_disk(folder / f"{name} labels")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one adapter", ["--method", "deterministic", "--lora_rank", 2, "--learning_rate", 0.01]),
        ("adapters", ["--method", "ensemble", "--lora_rank", 2, "--members", 2, "--learning_rate", 0.05]),
        ("ivon", ["--method", "ivon", "--lora_rank", 2, "--hess_init", 0.1]),
        ("dropout", ["--method", "mc_dropout", "--lora_rank", 2, "--drop_rate", 0.5, "--learning_rate", 0.05]),
    ],
)
def test_each_kind_is_fitted_saved_small_measured_and_labels(folder, capsys, name, words):
    fit(folder, name, *words)
    assert "on 1 validation examples: accuracy" in capsys.readouterr().out
    teacher, _ = load_teacher(str(folder / name))
    assert not list((folder / name).rglob("model.safetensors"))
    adapters = list((folder / name).rglob("adapter_model.safetensors"))
    assert len(adapters) == (2 if name == "adapters" else 1)
    labels = labeled(folder, name)
    drawn = teacher.num_draws(3) > 1
    assert ("teacher_variance" in labels.column_names) == drawn == (name != "one adapter")
    assert not drawn or labels["teacher_variance"][0][0] > 0
    run("evaluate", folder / name, "--dataset", folder / "texts", "--num_samples", 3)
    assert "nll" in capsys.readouterr().out


def test_members_differ_and_the_posterior_is_over_the_adapters_alone(folder):
    fit(folder, "two", "--method", "ensemble", "--lora_rank", 2, "--members", 2, "--learning_rate", 0.05)
    one, other = (
        [value for name, value in member.network.state_dict().items() if "lora_A" in name]
        for member in load_teacher(str(folder / "two"))[0].members
    )
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    fit(folder, "posterior", "--method", "ivon", "--lora_rank", 2, "--hess_init", 0.1)
    teacher, _ = load_teacher(str(folder / "posterior"))
    assert isinstance(teacher, VariationalTeacher)
    assert teacher.std and all("lora_" in name for name in teacher.std)
    assert len(teacher.std) == sum("lora_" in name for name, _ in teacher.network.named_parameters())
    fit(folder, "further", "--method", "ivon", "--hess_init", 0.1, model="posterior")
    further, _ = load_teacher(str(folder / "further"))
    assert further.std.keys() == teacher.std.keys() and further.fingerprint() != teacher.fingerprint()
    assert "| base model | llm |" in (folder / "further" / "README.md").read_text()


def test_a_language_model_as_it_is_has_a_temperature_and_its_own_dropout(folder):
    fit(folder, "scaled", "--method", "deterministic")
    assert load_teacher(str(folder / "scaled"))[0].record["temperature chosen by"] == "validation NLL"
    fit(folder, "own dropout", "--method", "mc_dropout", model="dropping")
    teacher, _ = load_teacher(str(folder / "own dropout"))
    assert isinstance(teacher, MCDropoutTeacher) and labeled(folder, "own dropout")["teacher_variance"][0][0] > 0


def test_adapters_that_were_distilled_are_the_members_of_an_ensemble(folder, capsys):
    data = ["--dataset", folder / "texts", "--kd_lambda", 0]
    for seed in range(2):
        student = ["--student", folder / "llm", "--lora_rank", 2, "--output_dir", folder / f"student {seed}"]
        run("distill", *student, *data, "--seed", seed, "--learning_rate", 0.05, *FAST[:-4], "--max_length", 20)
    models = ["--model", folder / "student 0", folder / "student 1", "--dataset", folder / "texts"]
    run("teacher", "fit", "--method", "ensemble", *models, "--output_dir", folder / "both", *FAST)
    teacher, _ = load_teacher(str(folder / "both"))
    one, other = (member.network.get_base_model().get_input_embeddings().weight for member in teacher.members)
    assert one is other and labeled(folder, "both")["teacher_variance"][0][0] > 0
    online = ["--student", folder / "llm", "--teacher", folder / "both", "--output_dir", folder / "online"]
    run("distill", *online, "--dataset", folder / "texts", *FAST[:-4], "--max_length", 20)
    assert "on 3 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "swag", "--lora_rank", 2], "is a language model: pass --method deterministic, ensemble, ivon"),
        (["--method", "ensemble"], "pass --lora_rank 4 to train adapters over it"),
        (["--method", "ivon"], "IVON trains a language model's adapters, and the model has none"),
        (["--method", "mc_dropout", "--lora_rank", 2], "has no dropout"),
        (["--method", "mc_dropout"], "has no dropout"),
        (["--method", "mc_dropout", "--drop_rate", 0.1], "pass --lora_rank 4 too"),
        (["--method", "ensemble", "--lora_rank", 0], "lora_rank must be"),
        (["--method", "deterministic", "--augment"], "--augment is for images"),
    ],
)
def test_what_language_models_have_not_is_refused(folder, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        fit(folder, str(tmp_path / "out"), *words)
    assert message in capsys.readouterr().err
