"""The four commands: from texts or messages to labels, to a student with an adapter, and to its measures."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from hf_bkd.cli import main
from hf_bkd.language import tokenized

from .language_helpers import CHATS, learned, llama, texts, tokenizer

TRAINED = ["--num_train_epochs", "1", "--learning_rate", "0.001", "--report_to", "none", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    for name, network in (("teacher", learned(llama(), tokenized(texts(8), tokenizer()))), ("small", llama(1))):
        network.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    DatasetDict(train=texts(8), test=texts(3)).save_to_disk(folder / "texts")
    Dataset.from_dict({"messages": CHATS * 4}).to_json(folder / "chats.jsonl")
    return folder


def run(*words: str | Path) -> None:
    main([str(word) for word in words])


def test_four_commands_lead_from_messages_to_a_measured_student(folder, capsys):
    data = ["--dataset", folder / "chats.jsonl"]
    run("label", "--teacher", folder / "teacher", *data, "--output_dir", folder / "labeled", "--max_length", "40")
    labeled = load_from_disk(folder / "labeled")
    assert labeled.features["teacher_tokens"].feature.length == 16
    student = ["--student", folder / "small", "--lora_rank", "2", "--output_dir", folder / "student"]
    evaluated = ["--eval_dataset", folder / "chats.jsonl", "--eval_split", "train"]
    run("distill", *student, "--dataset", folder / "labeled", *evaluated, *TRAINED)
    assert (folder / "student" / "adapter_model.safetensors").is_file()
    card = (folder / "student" / "README.md").read_text()
    assert "text-generation" in card and "AutoModelForCausalLM" in card and "LORA, rank 2, alpha 4, of" in card
    assert re.search(r"NLL \d\.\d{4} and ECE 0\.\d{4} of each next token", card) and "base_model" not in card
    assert "| tokens | 97 |" in card and "| learning rate | 0.001 |" in card
    for model in ("teacher", "student"):
        run("evaluate", folder / model, *data, "--split", "train")
        assert "nll" in capsys.readouterr().out


def test_an_adapter_finds_its_base_model_from_elsewhere_and_is_not_pushed_without(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = ["--student", "small", "--lora_rank", "2", "--kd_lambda", "0", "--dataset", "texts"]
    words += ["--output_dir", "adapter"]
    run("distill", *words, "--max_steps", "1", "--use_cpu", "true")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((folder / "small").resolve())
    assert "| learning rate | 0.0002 |" in (folder / "adapter" / "README.md").read_text()
    with pytest.raises(SystemExit):
        run("distill", *words[:-1], "pushed", "--push_to_hub", "me/adapter")
    assert "which nobody else has" in capsys.readouterr().err


def test_texts_are_labeled_online_and_the_whole_student_is_saved(folder, capsys):
    data = ["--dataset", folder / "texts", "--max_length", "20"]
    run("distill", "--student", folder / "small", "--teacher", folder / "teacher", *data,
        "--output_dir", folder / "online", *TRAINED)  # fmt: skip
    assert "on 3 examples: " in capsys.readouterr().out
    run("evaluate", folder / "online", "--dataset", folder / "texts")
    assert (folder / "online" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label", "--views", "2"], "--views is not for language models"),
        (["label", "--label_column", "text"], "omit --label_column"),
        (["label", "--input_column", "words"], "has no column 'words'"),
        (["label", "--top_k", "200"], "vocabulary has 97 tokens"),
    ],
)
def test_options_of_other_networks_are_refused(folder, tmp_path, capsys, words, message):
    command, *others = words
    rows = ["--dataset", folder / "texts", "--teacher", folder / "teacher", "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit):
        run(command, *rows, *others)
    assert message in capsys.readouterr().err
