"""Help texts, names and versions: what a command says before anything heavy is imported."""

import subprocess
import sys

import pytest

from hf_bkd.cli import COMMANDS, main, options
from hf_bkd.cli.distill import parse_distill
from hf_bkd.cli.teacher import parse_fit
from hf_bkd.losses import TEMPERATURE_SCALES
from hf_bkd.soft_labels.options import PRECISIONS, VARIANCES
from hf_bkd.soft_labels.storage import STORAGES
from hf_bkd.soft_labels.unreadable_rows import ON_ERROR
from hf_bkd.teachers import SPECIFICATIONS

FIT = ["--method=laplace", "--model=m", "--dataset=d", "--output_dir=o"]
SCREEN = 30  # lines


def helped(capsys, *words: str) -> list[str]:
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_one_screen(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "110")
    lines = helped(capsys, *command.split(), "--help")
    assert lines[0].startswith(f"usage: hf-bkd {command}") and max(map(len, lines)) <= 110
    assert len(lines) <= SCREEN, lines
    parser, lines = options.PARSERS[command]("p"), helped(capsys, *command.split(), "--help-all")
    for action in parser._actions:
        for choice in action.choices or ():
            assert any(str(choice) in line for line in lines), choice


def test_all_arguments_of_the_trainer_are_behind_help_all(capsys):
    short = helped(capsys, "teacher", "fit", "--help")
    for spelling in ("--help-all", "--help_all"):
        whole = helped(capsys, "teacher", "fit", spelling)
        assert set(short) <= set(whole)
        assert any("--gradient_accumulation_steps" in line for line in whole) and len(whole) > 5 * len(short)
    assert not any("--gradient_accumulation_steps" in line for line in short)


def test_a_method_is_asked_for_its_options(capsys):
    assert not any("--prior_precision" in line for line in helped(capsys, "teacher", "fit", "--help"))
    lines = helped(capsys, "teacher", "fit", "--method", "laplace", "-h")
    assert any("--prior_precision" in line for line in lines) and not any("--members" in line for line in lines)


def test_what_is_seldom_needed_is_behind_help_all(capsys):
    for command in COMMANDS:
        short, whole = (helped(capsys, *command.split(), word) for word in ("--help", "--help-all"))
        actions = [action for action in options.PARSERS[command]("p")._actions if action.option_strings]
        names = [name for action in actions for name in action.option_strings if name.startswith("--")]
        assert all(any(f" {name}" in line for line in whole) for name in names), command
        assert all(any(f" {action.option_strings[0]}" in line for line in short) != action.rare for action in actions)


def test_choices_are_those_of_the_library():
    assert sorted(SPECIFICATIONS) == list(options.METHODS)
    assert options.ON_ERROR == ON_ERROR and options.STORAGES == STORAGES and options.VARIANCES == VARIANCES
    assert options.TEMPERATURE_SCALES == TEMPERATURE_SCALES
    assert set(options.PRECISIONS) == set(filter(None, PRECISIONS))


def test_a_help_text_imports_no_library_that_takes_long():
    code = (
        "import sys, types; package = types.ModuleType('hf_bkd'); package.__path__ = [sys.argv.pop()]\n"
        "sys.modules['hf_bkd'] = package  # not what the package itself imports\n"
        "from hf_bkd.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'timm', 'numpy', 'accelerate'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    import hf_bkd

    for command in (*COMMANDS, "", "--version"):
        words = [*command.split(), *([] if command == "--version" else ["--help"]), *hf_bkd.__path__]
        subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


def test_version(capsys):
    main(["--version"])
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in ("hf_bkd", "torch", "transformers", "datasets", "timm"))


@pytest.mark.parametrize("command", ["label", "evaluate", "teacher fit", "distill"])
def test_hyphens_and_underscores_are_alike_for_every_argument(command):
    parser = options.PARSERS[command]("p")
    names = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    assert parser.spelled([name.replace("_", "-") for name in names]) == names
    assert parser.spelled(["--output-dir=a-b", "x-y", "--", "-h"]) == ["--output_dir=a-b", "x-y", "--", "-h"]


def test_names_of_transformers_examples_are_understood(tmp_path):
    words = ["--model-name-or-path", "m", "--dataset_name=d", "--text_column_name", "a", "b", "--method", "laplace"]
    fit, args = parse_fit([*words, "--output-dir", "o", "--per-device-eval-batch-size", "7"], "p")
    assert (fit.model, fit.dataset, fit.input_column) == (["m"], "d", ["a", "b"])
    assert args.per_device_eval_batch_size == 7
    (tmp_path / "c.yaml").write_text("model_name_or_path: s\ndataset-name: d\nvalidation_file: v\n")
    arguments, args = parse_distill(["--config", str(tmp_path / "c.yaml"), "--output_dir", "o"], "p")
    assert (arguments.student, arguments.dataset, arguments.eval_dataset) == ("s", "d", "v")
    for name in ("--model", "--model_name_or_path"):
        assert options.evaluate("p").read([name, "m", "--dataset_name", "d"]).model == "m"


def test_defaults_suit_what_is_trained():
    new, args = parse_fit(["--method=deterministic", "--model=resnet18", *FIT[2:]], "p")
    assert (args.num_train_epochs, args.learning_rate, args.per_device_train_batch_size) == (50, 1e-3, 64)
    assert parse_fit(["--method=deterministic", "--model=mlp-8", *FIT[2:]], "p")[0].from_scratch
    for parsed in (parse_fit(FIT, "p"), parse_distill(["--student=m", *FIT[2:]], "p")):
        args = parsed[1]
        assert (args.num_train_epochs, args.learning_rate, args.per_device_train_batch_size) == (3, 5e-5, 32)
    assert parse_fit(FIT, "p")[1].kd_lambda == 0 and args.kd_lambda == 1


def test_repositories_may_be_named_where_they_are_pushed_to():
    from hf_bkd.cli.arguments import repository

    for words, name in (
        ([], None),
        (["--push_to_hub"], "o"),
        (["--push-to-hub=me/mine"], "me/mine"),
        (["--push_to_hub", "--hub_model_id", "me/other"], "me/other"),
        (["--push_to_hub", "false"], None),
    ):
        assert repository(parse_fit([*FIT, *words], "p")[1]) == name
