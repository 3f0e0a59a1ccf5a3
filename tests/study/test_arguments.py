"""What a study can be asked for, what a user can get wrong in it, and that one folder holds one study."""

import re
from dataclasses import replace

import pytest

from hf_bkd import UserError
from hf_bkd.study.arguments import parse
from hf_bkd.study.settings import check_same_study
from tests.study.study_helpers import DEFAULTS, STUDY, status


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kd_lambda": 2.5}, "kd_lambda must be between 0 and 2, and it is 2.5"),
        ({"teacher_temperature": 0}, "teacher_temperature must be above 0"),
        ({"temperature_scale": "both"}, "temperature_scale is 'both'"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1, and it is 0"),
        ({"seeds": "0,a"}, "seeds must be whole numbers"),
        ({"arms": "laplace,oracle"}, "there is no arm 'oracle'; the arms are one-hot"),
        ({"student_model": "resnet18"}, "no network 'resnet18' of features: it must be such as mlp-128-64"),
        ({"learning_rate": "fast"}, "learning-rate: invalid float value: 'fast'"),
        ({"lamda": 1}, "lamda"),
        ({"bf16": True, "fp16": True}, "fp16"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0"),
        ({"teacher_epochs": 0}, "teacher_epochs must be above 0"),
        ({"views": -1}, "views must be a whole number of at least 0"),
        ({"config": "/nowhere.yaml"}, "cannot read --config /nowhere.yaml"),
        ({"teacher": "/nowhere/teacher"}, "there is no folder /nowhere/teacher"),
    ],
)
def test_a_mistake_ends_in_a_sentence(tmp_path, capsys, options, words):
    assert status(tmp_path / "run", **options) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ")
    assert re.search(words, said[0]), said[0]
    assert not list(tmp_path.rglob("results.json"))


def test_a_config_file_gives_way_to_the_command_line(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("kd_lambda: 0.25\nseeds: '4,5'\nnum_samples: 3\n")
    options, args = parse({"output_dir": "x", "num_samples": 7}, ["--config", str(file), "--kd_lambda", "0.5"])
    assert (options.seed_list, options.num_samples, args.kd_lambda) == ([4, 5], 3, 0.5)
    file.write_text("kd_lamda: 0.25\n")
    assert status(tmp_path / "run", config=file) == 2


def test_defaults_may_depend_on_the_options():
    def defaults(options):
        return {"output_dir": "x", "num_train_epochs": 5 if options.workers > 1 else 2}

    epochs = [parse(defaults, argv)[1].num_train_epochs for argv in ([], ["--workers", "2"])]
    assert epochs == [2, 5] and parse(defaults, ["--num_train_epochs", "7"])[1].num_train_epochs == 7


@pytest.mark.parametrize("argv", [["--foreign_dataset", "x"], ["--foreign_dataset=x"]])
def test_an_old_name_works_for_a_release(argv):
    with pytest.warns(DeprecationWarning, match="--foreign_dataset is now called --ood_dataset"):
        assert parse({"output_dir": "x"}, argv)[0].ood_dataset == "x"


def test_a_folder_holds_the_results_of_one_study(tmp_path):
    options, args = parse(DEFAULTS | {"output_dir": str(tmp_path)}, [])
    one_hot, smoothed, *_ = STUDY.arms
    before = replace(STUDY, arms=(smoothed,))
    check_same_study(tmp_path, replace(before, students=False), options, args)  # nothing stands there yet
    (tmp_path / "arms").mkdir()
    check_same_study(tmp_path, replace(before, students=False), options, args)
    (tmp_path / "settings.json").unlink()
    check_same_study(tmp_path, before, options, args)
    check_same_study(tmp_path, replace(before, arms=(one_hot,)), replace(options, seeds="7"), args)
    for study, changed, words in (
        (replace(before, arms=(replace(smoothed, label_smoothing=0.9),)), args, "arm label-smoothing .*0.1.*0.9"),
        (replace(before, students=False), args, "study's students True, and this one has False: pass another"),
        (before, replace(args, learning_rate=0.1), "learning_rate 0.01, and this one has 0.1"),
        (before, replace(args, adam_beta1=0.5), "adam_beta1 0.9, and this one has 0.5"),
    ):
        with pytest.raises(UserError, match=f"holds a run with {words}"):
            check_same_study(tmp_path, study, options, changed)


def test_a_mistake_does_not_lock_the_folder(tmp_path):
    assert status(tmp_path, arms="one-hot", student_model="nothing_like_it") == 2
    assert status(tmp_path, arms="one-hot") == 0
