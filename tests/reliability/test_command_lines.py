"""Malformed command lines and YAML files of every command, each with the sentence that it ends in."""

from dataclasses import dataclass

import pytest

from hf_bkd.cli import main as hf_bkd
from hf_bkd.reports.claims import ClaimArguments
from hf_bkd.reports.claims import main as theory
from hf_bkd.study.arguments import parse
from hf_bkd.utils.errors import UserError, told_in_a_sentence
from tests.study.study_helpers import DEFAULTS, STUDY, status

HELP = " (--help lists all arguments)"
COUNT = "must be a whole number of at least 1, and it is"
INT, FLOAT = "invalid int value:", "invalid float value:"


@dataclass
class Numbers(ClaimArguments):
    rate: float = 0.5
    steps: int = 3


def study(argv: list[str]) -> None:
    with told_in_a_sentence():
        options, _ = parse(DEFAULTS | {"output_dir": "x"}, argv)
        options.chosen(STUDY.arms)


def claims(argv: list[str]) -> None:
    theory("none", "", lambda options: pytest.fail("it ran"), Numbers, argv)


COMMANDS = {
    "study": study,
    "theory": claims,
    "fit": lambda argv: hf_bkd(["teacher", "fit", "--method=laplace", "--model=m", "--dataset=d", *argv]),
    "label": lambda argv: hf_bkd(["label", "--teacher=t", "--dataset=d", *argv]),
    "evaluate": lambda argv: hf_bkd(["evaluate", "m", "--dataset=d", *argv]),
    "report": lambda argv: hf_bkd(["report", *argv]),
}
LINES = [
    ("study", "--seeds 0,0", "seeds has 0 more than once: each seed is run once"),
    ("study", "--seeds -1", "seeds must be between 0 and 4,000,000, and one is -1"),
    ("study", "--seeds 0,4000001", "seeds must be between 0 and 4,000,000, and one is 4000001"),
    ("study", "--seeds 0,,1", "seeds must be whole numbers with commas between them, and they are '0,,1'"),
    ("study", "--seeds 1.5", "seeds must be whole numbers with commas between them, and they are '1.5'"),
    ("study", "--seeds=", "--seeds is empty: pass a value, or leave it out"),
    ("study", "--arms=", "--arms is empty: pass a value, or leave it out"),
    ("study", "--teacher=", "--teacher is empty: pass a value, or leave it out"),
    ("study", "--output_dir=", "--output_dir is empty: pass a value, or leave it out"),
    ("study", "--student_model=", "--student_model is empty: pass a value, or leave it out"),
    ("study", "--num_samples 2.5", f"argument --num_samples/--num-samples: {INT} '2.5'{HELP}"),
    ("study", "--num_samples inf", f"argument --num_samples/--num-samples: {INT} 'inf'{HELP}"),
    ("study", "--num_samples -3", f"num_samples {COUNT} -3"),
    ("study", "--workers 0", f"workers {COUNT} 0"),
    ("study", "--ensemble_size 0", f"ensemble_size {COUNT} 0"),
    ("study", "--validation_size 0", f"validation_size {COUNT} 0"),
    ("study", "--max_train_samples 0", f"max_train_samples {COUNT} 0"),
    ("study", "--views -1", "views must be a whole number of at least 0, and it is -1"),
    ("study", "--learning_rate nan", "--learning_rate must be finite, and it is nan"),
    ("study", "--learning_rate=inf", "--learning_rate must be finite, and it is inf"),
    ("study", "--learning-rate -1", "learning_rate must be at least 0 and finite, and it is -1"),
    ("study", "--weight_decay -1", "weight_decay must be at least 0 and finite, and it is -1"),
    ("study", "--max_grad_norm -1", "max_grad_norm must be at least 0 and finite, and it is -1"),
    ("study", "--seed -1", "seed must be at least 0 and finite, and it is -1"),
    ("study", "--teacher_epochs nan", "--teacher_epochs must be finite, and it is nan"),
    ("study", "--num_train_epochs inf", "--num_train_epochs must be finite, and it is inf"),
    ("study", "--kd_lambda nan", "--kd_lambda must be finite, and it is nan"),
    ("study", "--kd_lambda 3", "kd_lambda must be between 0 and 2, and it is 3"),
    ("study", "--per_device_train_batch_size 0", f"per_device_train_batch_size {COUNT} 0"),
    ("study", "--gradient_accumulation_steps 0", f"gradient_accumulation_steps {COUNT} 0"),
    ("study", "--dataloader_num_workers -1", "dataloader_num_workers must be at least 0 and finite, and it is -1"),
    ("study", "--deepspeed x", "argument --deepspeed: No package metadata was found for The 'deepspeed>=0 ..."),
    ("study", '--use_cpu --deepspeed {"a":1}', "argument --deepspeed: No package ..."),
    ("study", "--lr_scheduler_kwargs {a:1}", "argument --lr_scheduler_kwargs: Expecting property name ..."),
    ("study", "--lr_scheduler_kwargs a=1", "--lr_scheduler_kwargs must be a JSON object such as ..."),
    ("study", "--bf16 --fp16", "arguments --bf16, --fp16: At most one of fp16 and bf16 can be True, but not both ..."),
    ("study", "--nothing 1", f"unrecognized arguments: --nothing 1{HELP}"),
    ("study", "word", f"unrecognized arguments: word{HELP}"),
    ("study", "--config", f"argument --config: expected one argument{HELP}"),
    ("study", "--config=", "--config is empty: pass the path of a YAML file"),
    ("study", "--config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
    ("study", "--config /", "cannot read --config /: Is a directory"),
    ("study", "--config=FILE --config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
    ("theory", "--config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
    ("theory", "--rate nan", "--rate must be finite, and it is nan"),
    ("theory", "--steps 1.5", f"argument --steps: {INT} '1.5'{HELP}"),
    ("theory", "--output_dir=", "the name of the output folder is empty: pass --output_dir"),
    ("fit", "--config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
    ("fit", "--dataset=", "--dataset is empty: pass a value, or leave it out"),
    ("fit", "--dataset=d", "pass --output_dir, a new folder for the teacher"),
    ("fit", "--output_dir=o --learning_rate nan", "--learning_rate must be finite, and it is nan"),
    ("fit", "--output_dir=o --num_samples 0", f"num_samples {COUNT} 0"),
    ("fit", "--output_dir=o --train_split=", "--train_split is empty: pass a value, or leave it out"),
    ("label", "", f"the following arguments are required: --output_dir{HELP}"),
    ("label", "--output_dir=", "--output_dir is empty: pass a value, or leave it out"),
    ("label", "--output_dir=o --dataset=", "--dataset is empty: pass a value, or leave it out"),
    ("label", "--output_dir=o --teacher=", "--teacher is empty: pass a value, or leave it out"),
    ("label", "--output_dir=o --temperature nan", "--temperature must be finite, and it is nan"),
    ("label", "--output_dir=o --temperature inf", "--temperature must be finite, and it is inf"),
    ("label", "--output_dir=o --temperature 0", "--temperature must be above 0, and it is 0"),
    ("label", "--output_dir=o --num_samples 0", f"num_samples {COUNT} 0"),
    ("label", "--output_dir=o --top_k 0", f"top_k {COUNT} 0"),
    ("label", "--output_dir=o --views 0", f"num_views {COUNT} 0"),
    ("label", "--output_dir=o --batch_size 0", f"batch_size {COUNT} 0"),
    ("label", "--output_dir=o --seed -1", "seed must be a whole number from 0 to 4294967295, and it is -1"),
    ("label", "--output_dir=o --storage int3", "argument --storage: invalid choice: 'int3' (choose from ..."),
    ("label", "--output_dir=o --config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
    ("evaluate", "--num_samples 0", f"num_samples {COUNT} 0"),
    ("evaluate", "--dataset=", "--dataset is empty: pass a value, or leave it out"),
    ("evaluate", "--ood=", "--ood is empty: pass a value, or leave it out"),
    ("evaluate", "--num_samples x", f"argument --num_samples: {INT} 'x'{HELP}"),
    ("evaluate", "a b", f"unrecognized arguments: a b{HELP}"),
    ("evaluate", "--config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
    ("report", "", f"the following arguments are required: output_dir{HELP}"),
    ("report", "/nowhere --config=/nowhere", "cannot read --config /nowhere: No such file or directory"),
]
FILES = [  # the content of --config=FILE, and what is said after its name
    ("", " must hold one 'argument: value' per line, which is empty"),
    ("# nothing\n", " must hold one 'argument: value' per line, which is empty"),
    ("- seeds\n- 3\n", " must hold one 'argument: value' per line, and line 1 begins something else"),
    ("just text", " must hold one 'argument: value' per line, and line 1 begins something else"),
    (b"seeds: '3'\narms: \xff", ": line 2 is not UTF-8"),
    ("seeds: [", ": line 1: expected the node content, but found '<stream end>'"),
    ("seeds: 1\narms: *all", ": line 2: found undefined alias 'all'"),
    ("a: 1\n---\na: 2\n", ": line 2: but found another document"),
    ("[" * 2000, ": it is nested too deep"),
    ("\0", ": special characters are not allowed"),
    ("1: 2\nseeds: 3", " names an unknown argument in line 1: 1"),
    ("seeds: 3\nconfig: x", " names an unknown argument in line 2: config"),
    ("help: 1", " names an unknown argument in line 1: help"),
    ("? [a]\n: 3", ", line 1: a list or a mapping is no argument's name"),
    ("num_samples: 3\nnum-samples: 4", ", line 2 has num_samples a second time: leave one of the two out"),
    ("num_samples: 2.5", f", line 1: {INT} '2.5' for num_samples"),
    ("\nnum_samples: two", f", line 2: {INT} 'two' for num_samples"),
    ("learning_rate: .nan", f", line 1: {FLOAT} '.nan' for learning_rate"),
    ("learning_rate: yes", f", line 1: {FLOAT} 'yes' for learning_rate"),
    ("num_samples:", ", line 1: there is no value for num_samples"),
    ("num_samples: [1, 2]", ", line 1: there is a list, and a single value is needed for num_samples"),
    ("dataset: {a: b}", ", line 1: there is a mapping, and a single value is needed for dataset"),
    ("seeds: [0, [1]]", ", line 1: the list must hold values alone, one or more for seeds"),
    ("seeds: []", ", line 1: the list must hold values alone, one or more for seeds"),
    ("lr_scheduler_type: up", ", line 1: invalid choice: 'up' (choose from"),
]


def said(capsys, command: str, argv: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command](argv)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(("command", "line", "sentence"), LINES)
def test_a_malformed_command_line_ends_in_a_sentence(tmp_path, monkeypatch, capsys, command, line, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("seed: 3")
    words = said(capsys, command, line.split())
    beginning = sentence.removesuffix(" ...")
    assert words == sentence or (beginning != sentence and words.startswith(beginning)), words
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.parametrize(("content", "sentence"), FILES)
def test_a_file_of_arguments_is_refused_with_its_line(tmp_path, monkeypatch, capsys, content, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_bytes(content if isinstance(content, bytes) else content.encode())
    words = said(capsys, "study", ["--config=FILE"])
    assert words.partition("--config FILE")[2].startswith(sentence), words


@pytest.mark.parametrize("spelling", [["--config=FILE"], ["--config", "FILE"]])
@pytest.mark.parametrize(
    ("content", "seeds"),
    [("seeds: 3", "3"), ("seeds: [0, 1]", "0,1"), ("seeds:\n- 4\n- 5", "4,5"), ("\ufeffseeds: '07'", "07")],
)
def test_every_spelling_of_a_file_and_of_its_values_is_read(tmp_path, monkeypatch, spelling, content, seeds):
    monkeypatch.chdir(tmp_path)
    lines = [content, "num-samples: 6", "eval_on_start: on", "lr_scheduler_kwargs: {a: 1}", "views: ~", "workers: 8"]
    (tmp_path / "FILE").write_text("\n".join(lines))
    options, args = parse({"output_dir": "x", "num_samples": 7}, [*spelling, "--workers", "2"])
    assert (options.seeds, options.num_samples, options.workers, options.views) == (seeds, 6, 2, None)
    assert args.eval_on_start and args.lr_scheduler_kwargs == {"a": 1}


def test_other_commands_read_such_a_file_too(tmp_path, capsys):
    (tmp_path / "FILE").write_text("output_dir: x\nnum_samples: 0\n")
    for command in ("label", "fit"):
        assert said(capsys, command, [f"--config={tmp_path / 'FILE'}"]) == f"num_samples {COUNT} 0"


def test_the_last_file_wins_over_those_before(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).write_text(f"num_samples: {number}")
    options, _ = parse({"output_dir": "x"}, [f"--config={tmp_path / '1'}", f"--config={tmp_path / '2'}"])
    assert options.num_samples == 2


def test_no_name_is_the_working_directory(tmp_path, monkeypatch):
    from hf_bkd.data.loading import load_splits, load_stream
    from hf_bkd.hub.transfer import local_folder

    monkeypatch.chdir(tmp_path)
    for load in (load_splits, lambda name: load_stream(name, "train"), local_folder):
        with pytest.raises(UserError, match="is empty"):
            load(" ")


def test_status_of_a_study(tmp_path):
    assert status(tmp_path / "run", config="/nowhere") == 2 and not (tmp_path / "run").exists()
