"""The same command goes on from every moment, also when all is written, and two of them never work in one folder."""

import datasets
import pytest

from hf_bkd import DeterministicTeacher, UserError
from hf_bkd.cli import main
from hf_bkd.cli.finished import MARKER
from tests.cli.fitting_helpers import cnn, images
from tests.reliability.real_processes import used_by_another

WORK = {"label": "out.shards", "fit": "out.training"}
PUSHES = {"label": "hf_bkd.cli.label.push_soft_labels", "fit": "hf_bkd.cli.teacher.push_folder"}


@pytest.fixture
def command(tmp_path):
    rows = images(30, 0)
    datasets.DatasetDict(train=rows, validation=rows.select(range(12))).save_to_disk(tmp_path / "data")
    cnn().save_pretrained(tmp_path / "network")

    def command(name: str, *more: str) -> int:
        common = [f"--dataset={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}", *more]
        if name == "label":
            argv = ["label", f"--teacher={tmp_path / 'network'}", *common]
        else:
            argv = [
                "teacher",
                "fit",
                "--method=deterministic",
                f"--model={tmp_path / 'network'}",
                "--use_cpu",
                *common,
            ]
        try:
            main(argv)
        except SystemExit as stop:
            return stop.code
        return 0

    return command


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("data", "network", "log"))


@pytest.mark.parametrize("name", ["label", "fit"])
def test_a_finished_command_is_recognized_and_what_it_left_is_tidied(command, tmp_path, capsys, monkeypatch, name):
    assert command(name) == 0 and left(tmp_path) == ["out"]
    monkeypatch.setattr("hf_bkd.cli.label._labeled", lambda *a: pytest.fail("labeled again"))
    monkeypatch.setattr("hf_bkd.cli.teacher._fitted", lambda *a: pytest.fail("fitted again"))
    (tmp_path / WORK[name]).mkdir()  # as after a death between the last rename and the tidying
    (tmp_path / WORK[name] / "shard").touch()
    (tmp_path / ".out.unfinished.abc").mkdir()
    (tmp_path / ".out.of_mine").mkdir()
    assert command(name) == 0 and left(tmp_path) == [".out.of_mine", "out"]
    assert "is finished already, by the same command" in capsys.readouterr().out
    assert command(name, "--num_samples=3") == 2
    said = capsys.readouterr().err
    assert "holds a result with num_samples 10, and this one has 3: pass a new --output_dir" in said
    images(30, 5).save_to_disk(tmp_path / "data" / "train")
    assert command(name) == 2 and "content" in capsys.readouterr().err
    (tmp_path / "out" / MARKER).unlink()
    assert command(name) == 2 and "is there already: pass a new --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["label", "fit"])
def test_a_failed_push_is_repeated(command, monkeypatch, capsys, name):
    pushed = []

    def push(*args, **options):
        pushed.append(args)
        if len(pushed) == 1:
            raise UserError("could not push")

    monkeypatch.setattr(PUSHES[name], push)
    more = ["--push_to_hub=me/labels"] if name == "label" else ["--push_to_hub", "--hub_model_id=me/teacher"]
    assert command(name, *more) == 2 and "could not push" in capsys.readouterr().err
    assert command(name, *more) == 0 and len(pushed) == 2 and "pushed: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["label", "fit"])
def test_a_second_start_names_the_first(command, tmp_path, capsys, name):
    with used_by_another(tmp_path / WORK[name], tmp_path / "log") as process:
        assert command(name) == 2
    said = capsys.readouterr().err.strip()
    assert f"{WORK[name]} is in use by process {process} on " in said and "\n" not in said
    assert command(name) == 0 and left(tmp_path) == ["out"]


def test_a_local_network_never_asks_for_one_elsewhere(tmp_path):
    for number, (old, new, words) in enumerate(
        (
            ('"cnn6_small"', '"hf-hub:somebody/network"', "asks for the architecture 'hf-hub:somebody/network'"),
            ('"in_chans": 1', '"in_chans": 1, "pretrained": true', "asks for weights from elsewhere"),
        )
    ):
        folder = tmp_path / str(number)
        DeterministicTeacher(cnn()).save_pretrained(folder)
        (file,) = folder.rglob("config.json")
        changed = file.read_text().replace(old, new)
        assert changed != file.read_text()
        file.write_text(changed)
        with pytest.raises(UserError, match=words):
            DeterministicTeacher.from_pretrained(folder)
