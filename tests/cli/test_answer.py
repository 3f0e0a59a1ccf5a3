"""`hf-bkd answer`: answers in rows that `hf-bkd distill` takes, going on, and what it refuses."""

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from hf_bkd import aggregate_responses, generate_responses, sentence_encoder
from hf_bkd.cli.answer import main as answer
from hf_bkd.responses import read_responses_record, speaking
from hf_bkd.soft_labels import read_record
from hf_bkd.soft_labels.shards import Shards
from tests.cli.fitting_helpers import run
from tests.language.language_helpers import TEXTS, llama, tokenizer
from tests.responses.response_helpers import bert


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, network in (("teacher", llama()), ("student", llama(1)), ("encoder", bert())):
        network.save_pretrained(name)
        tokenizer().save_pretrained(name)
    rows = Dataset.from_dict({"question": TEXTS[:3]})
    DatasetDict(train=rows, test=rows.select([2])).save_to_disk("questions")
    return tmp_path


def answered(output: str, *words: str) -> Dataset:
    given = ["--teacher", "teacher", "--dataset", "questions", "--max_new_tokens", "5", "--output_dir", output]
    answer([*given, *words])
    return load_from_disk(output)


def expected(k: int, **settings) -> Dataset:
    rows = Dataset.from_dict({"question": TEXTS[:3]})
    return generate_responses(rows, "teacher", k, max_new_tokens=5, progress=False, **settings)


def test_rows_are_those_of_python(home, capsys):
    assert (
        answered("none", "--k", "3", "--aggregate", "none", "--top_k", "9").to_dict() == expected(3, top_k=9).to_dict()
    )
    whole = answered("all", "--k", "3", "--template", "{question}?", "--temperature", "0.5")
    own = expected(3, template="{question}?", temperature=0.5)
    assert whole.to_dict() == aggregate_responses(own, "all").to_dict()
    cut = read_responses_record(own).cut_off
    assert f"9 answers to 3 prompts, {cut} cut off: 9 rows in all" in capsys.readouterr().out
    chosen = answered("mean", "--k", "3", "--aggregate", "mean", "--encoder", "encoder", "--batch_size", "2")
    assert (
        chosen.to_dict() == aggregate_responses(expected(3), "mean", sentence_encoder(bert(), tokenizer())).to_dict()
    )
    assert len(answered("test", "--split", "test")) == 1


def test_students_learn_the_answers_or_their_labels(home, capsys):
    answered("answers", "--k", "2", "--token_labels")
    assert read_record(load_from_disk("answers").features).storage == "sampled"
    quick = {"max_steps": 1, "use_cpu": 1, "disable_tqdm": 1, "student": "student"}
    for number, settings in enumerate(({}, {"kd_lambda": 0})):
        run("distill", dataset="answers", output_dir=f"student-{number}", **quick | settings)
    answered("texts", "--k", "2")
    with pytest.raises(SystemExit):
        run("distill", dataset="texts", output_dir="student-2", **quick)
    assert "(--kd_lambda 0 learns what the dataset says itself)" in capsys.readouterr().err
    run("distill", dataset="texts", output_dir="student-2", kd_lambda=0, **quick)


def test_an_interrupted_command_goes_on(home, capsys, monkeypatch):
    write = Shards.write

    def killed(self, name, table):
        write(self, name, table)
        raise KeyboardInterrupt

    monkeypatch.setattr(Shards, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        answered("out", "--k", "2")
    monkeypatch.undo()
    monkeypatch.chdir(home)
    monkeypatch.setattr(speaking, "sampled_answers", None)
    made = answered("out", "--k", "2", "--batch_size", "1")
    monkeypatch.undo()
    monkeypatch.chdir(home)
    assert made.to_dict() == aggregate_responses(expected(2), "all").to_dict()
    answered("out", "--k", "2")
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("answer", teacher="teacher", dataset="questions", output_dir="out", k=3, max_new_tokens=5)
    assert "out holds a result with k 2, and this one has 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"aggregate": "mean"}, "chooses by embeddings: pass --encoder"),
        ({"encoder": "encoder"}, "chooses by embeddings: omit it"),
        ({"teacher": "encoder"}, "BertModel answers no prompts"),
        ({"split": "nowhere"}, "nowhere"),
        ({"template": "{answer}"}, "can't be filled in with the columns question"),
    ],
)
def test_what_is_refused(home, capsys, monkeypatch, settings, sentence):
    monkeypatch.setattr(speaking, "sampled_answers", None)
    with pytest.raises(SystemExit) as stop:
        run("answer", **{"teacher": "teacher", "dataset": "questions", "output_dir": "out"} | settings)
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(said) == 1 and sentence in said[0]
    assert not (home / "out").exists() and not (home / "out.shards").exists()
