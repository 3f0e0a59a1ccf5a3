"""The GPU script from its first line to its last, at toy size on the CPU; what is cut off, fails or is run again."""

import importlib
import json
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOY = ["--toy", "--device", "cpu"]


@pytest.fixture
def scripts(monkeypatch):
    """The benchmarks' modules, importable by name."""
    monkeypatch.setenv("HF_BKD_GPU_DEVICE", "cpu")  # and as it was afterwards, for the script sets it
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return SimpleNamespace(module=importlib.import_module, gpu=importlib.import_module("gpu"))


@pytest.fixture
def part(scripts, tmp_path, monkeypatch):
    """Makes parts of the script out of the body of their ``main(record, options)``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, body: str, share: float = 1.0):
        lines = [
            "import sys, time",
            f"sys.path.insert(0, {str(BENCHMARKS)!r})",
            "from gpu_record import Record, part_arguments",
            "def main(argv=None):",
            "    options = part_arguments(argv)",
            "    record = Record(options.record)",
            *(f"    {line}" for line in body.splitlines()),
            "if __name__ == '__main__':",
            "    sys.exit(main())",
        ]
        (tmp_path / f"gpu_fake_{name}.py").write_text("\n".join(lines))
        monkeypatch.delitem(sys.modules, f"gpu_fake_{name}", raising=False)
        return scripts.gpu.Part(name, f"gpu_fake_{name}", share)

    return make


def read(folder: Path, name: str = "gpu.json"):
    return json.loads((folder / name).read_text())


def test_the_whole_script_and_a_second_start_that_goes_on(scripts, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    command = [*TOY, "--in_process", "--output", str(output)]
    report = scripts.gpu.main(command)
    assert report == read(output) and report["toy"]
    parts = report["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(parts, "finished")
    assert not any(part["failures"] for part in parts.values())
    tests = parts["works"]["results"]
    assert len(tests) == parts["works"]["facts"]["planned"] > 5
    assert all(test["outcome"] == "passed" for test in tests.values())
    ratios = {name: each for name, each in parts["speed"]["results"].items() if "ratio" in each}
    assert {"trainer, channels_last", "stored labels", "torchdistill"} <= ratios.keys()
    assert all(0 < each["ratio"] < 1000 for each in ratios.values())
    assert "Self CPU" in (output / "profile.txt").read_text()
    results = read(output, "results.json")
    assert [arm["arm"] for arm in results["arms"]] == [
        "one-hot", "Laplace", "deterministic, best T", "cross-fitted pair",
    ]  # fmt: skip
    assert results["environment"]["torch"] and "64 of the 50,000 images" in results["note"]
    page = (output / "gpu.md").read_text()
    for words in ("at toy size", f"{len(tests)} passed, 0 failed", "cross-fitted pair", report["commit"]):
        assert words in page
    assert page in capsys.readouterr().out

    # what is finished is not run again, though nothing but the output was kept
    moved = tmp_path / "moved"
    output.rename(moved)
    monkeypatch.setattr(scripts.module("pytest"), "main", lambda *args, **kwargs: 0)
    monkeypatch.setattr(scripts.module("gpu_speed").Speed, "in_turn", None)
    monkeypatch.setattr("hf_bkd.study.cell.Cell.train_network", None)
    again = scripts.gpu.main([*TOY, "--in_process", "--output", str(moved)])
    for name, part in parts.items():
        assert again["parts"][name]["results"] == part["results"]
    assert read(moved, "results.json")["arms"] == results["arms"]


def test_labels_come_back_and_serve_where_there_is_no_teacher(scripts, tmp_path):
    kept = scripts.module("gpu_cells_kept")
    study, output, elsewhere = tmp_path / "study", tmp_path / "out", tmp_path / "elsewhere"
    output.mkdir()
    folders = [study / "labels" / "clean" / "seed-0" / name for name in ("a", "b", "c")]
    for number, folder in enumerate(folders):
        (folder / "train").mkdir(parents=True)
        (folder / "train" / "data.arrow").write_bytes(bytes([number]) * 100)
        (folder / "test").mkdir()
        (folder / "cost.json").write_text("{}")
        kept.keep(study, output)
        kept.keep(study, output)
    archives = kept.archives(output)
    assert [archive.name for archive in archives] == ["labels-1.zip"]
    assert sorted(kept.folders_in(archives[0])) == [f"labels/clean/seed-0/{name}" for name in "abc"]
    kept.restore(output, elsewhere)
    restored = elsewhere / "labels" / "clean" / "seed-0" / "c"
    assert (restored / "train" / "data.arrow").read_bytes() == bytes([2]) * 100 and (restored / "cost.json").is_file()


def test_large_labels_fill_several_archives(scripts, tmp_path, monkeypatch):
    kept = scripts.module("gpu_cells_kept")
    monkeypatch.setattr(kept, "MOST_BYTES", 250)
    for number in range(3):
        folder = tmp_path / "study" / "labels" / "clean" / "seed-0" / str(number)
        (folder / "train").mkdir(parents=True)
        (folder / "train" / "data.arrow").write_bytes(bytes(100))
        (folder / "cost.json").write_text("{}")
    kept.keep(tmp_path / "study", tmp_path)
    assert len(kept.archives(tmp_path)) == 3


def test_a_part_that_raises_does_not_stop_the_others(scripts, part, tmp_path):
    body = "with record.attempt('first'):\n    record.note(x=1)\n    raise ValueError('out of luck')\n"
    parts = (
        part("raises", body + "record.add('second', 'found')\nraise RuntimeError('and gone')"),
        part("leaves", "record.add('third', 'found')\nsys.exit(3)"),
        part("ends", "record.add('fourth', 'found')"),
    )
    report = scripts.gpu.main([*TOY, "--in_process", "--output", str(tmp_path / "out")], parts)
    found = report["parts"]
    assert found["raises"]["status"] == "failed: RuntimeError: and gone"
    assert found["leaves"]["status"] == "failed: exit code 3" and found["ends"]["status"] == "finished"
    assert found["raises"]["results"] == {"second": "found"}
    assert found["raises"]["failures"]["first"][-1] == "ValueError: out of luck"
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "Failed: `first`" in page and "ValueError: out of luck" in page and "exit code 3" in page


def test_a_part_is_cut_off_and_keeps_what_it_finished(scripts, part, tmp_path, monkeypatch):
    """In processes of their own, as on a card; the first one's time is over once it has finished something."""
    record = tmp_path / "out-work" / "slow.json"

    def now() -> float:
        return time.time() + (330 if record.is_file() and "found" in record.read_text() else 0)

    clock = SimpleNamespace(time=now, sleep=time.sleep, strftime=time.strftime)
    monkeypatch.setattr(scripts.gpu, "time", clock)
    monkeypatch.setattr(scripts.gpu, "POLL_SECONDS", 0.1)
    parts = (
        part("slow", "record.add('first', 'found')\ntime.sleep(600)\nrecord.add('second', 'found')", share=0.5),
        part("quick", "record.add('third', 'found')"),
    )
    parts = tuple(scripts.gpu.Part(each.name, str(tmp_path / each.script), each.share) for each in parts)
    report = scripts.gpu.main([*TOY, "--minutes", "10", "--output", str(tmp_path / "out")], parts)
    assert report["parts"]["slow"]["status"] == "cut off"
    assert report["parts"]["slow"]["results"] == {"first": "found"}
    assert report["parts"]["quick"] == read(tmp_path / "out")["parts"]["quick"]
    assert report["parts"]["quick"]["status"] == "finished"


def test_a_process_that_lost_the_card_is_followed_by_another(scripts, part, tmp_path):
    body = "name = f'number {len(record.failures)}'\n"
    body += "with record.attempt(name):\n    raise RuntimeError('CUDA error: device-side assert triggered')"
    lost = part("lost", f"if len(record.failures) == 2:\n    record.add('last', 'found')\n    return\n{body}")
    report = scripts.gpu.main([*TOY, "--in_process", "--output", str(tmp_path / "out")], (lost,))
    assert report["parts"]["lost"]["status"] == "finished"
    assert list(report["parts"]["lost"]["failures"]) == ["number 0", "number 1"]
    stuck = part("stuck", "raise SystemExit(75)")
    report = scripts.gpu.main([*TOY, "--in_process", "--output", str(tmp_path / "out")], (stuck,))
    assert report["parts"]["stuck"]["status"] == "failed: exit code 75"


def test_results_of_another_commit_are_measured_anew(scripts, part, tmp_path, monkeypatch):
    count = part("counts", "if 'x' not in record:\n    record.add('x', time.time())")
    command = [*TOY, "--in_process", "--output", str(tmp_path / "out")]
    first, second = (scripts.gpu.main(command, (count,))["parts"]["counts"]["results"]["x"] for _ in range(2))
    monkeypatch.setattr(scripts.gpu, "commit_of", lambda folder: "another")
    assert first == second < scripts.gpu.main(command, (count,))["parts"]["counts"]["results"]["x"]


def test_what_is_taken_from_other_benchmarks_is_there(scripts):
    for script, function, number in scripts.module("gpu_speed").OTHERS.values():
        assert callable(getattr(scripts.module(script), function)) and number >= 0


def test_a_wait_is_told_by_the_innermost_line_outside_of_torch(scripts):
    waits = scripts.module("gpu_waits")

    def frame(file: str) -> traceback.FrameSummary:
        return traceback.FrameSummary(file, 7, "f", line="x.item()")

    ours, theirs = frame("/there/hf_bkd/training/trainer.py"), frame("/x/site-packages/transformers/trainer.py")
    torchs, shown = frame(f"{waits.TORCH}/_tensor.py"), frame("/usr/lib/python3.12/warnings.py")
    assert waits.place_of([theirs, ours, torchs, shown]) == "hf_bkd/training/trainer.py:7 x.item()"
    assert waits.place_of([ours, theirs]) == "transformers/trainer.py:7 x.item()"
    watch = waits.Waits(1, 2)
    with pytest.warns(UserWarning, match="another"), watch.watching():
        for words in ("called a synchronizing CUDA operation (at x)", "another thing"):
            warnings.warn(words, UserWarning, stacklevel=1)
    assert len(watch.found) == 1 and "test_walk.py" in watch.found[0] and not watch.own


def test_a_kit_is_divided_into_parts(scripts, tmp_path, monkeypatch):
    kit, cells = scripts.module("gpu_kit"), scripts.module("gpu_cells")
    train, test = cells.toy_images()
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "data")
    monkeypatch.setattr(kit, "wheels", lambda folder: (folder / "x-1.0-py3-none-any.whl").write_bytes(b"x"))
    found = kit.main(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "kit")])
    assert list(found) == ["part-1", "part-2", "part-3"]
    again = cells.images(str(tmp_path / "kit"))
    assert again[0]["label"][:] == train["label"][:] and len(again[1]) == len(test)
    (tmp_path / "kit" / "part-3" / "train-00002-of-00003.parquet").unlink()
    assert 0 < len(cells.images(str(tmp_path / "kit"))[0]) < len(train)
    assert kit.first_rows(rows=50_000, size=110, there=25) == 9_090 and kit.first_rows(10, 10, 100) == 0
    monkeypatch.setattr(kit, "MOST_BYTES", 10)
    with pytest.raises(SystemExit, match="a part is larger than"):
        kit.main(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "kit")])
