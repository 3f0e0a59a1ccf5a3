"""A forest on the command line: fitted on a table with words and missing values, measured, and asked for labels."""

import re

import datasets
import numpy as np
import pytest

from hf_bkd import Teacher
from hf_bkd.cli import main
from hf_bkd.soft_labels import read


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """CSV files whose class is told by a word and a number, some of which are missing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    for split, number in (("train", 90), ("test", 30)):
        labels = rng.permutation(np.arange(number) % 3)
        colors = np.array(["red", "green", "blue"])[np.minimum(labels, 1)]
        lines = [f"{color},{y + rng.normal() / 9:.3f},{y + 3}" for color, y in zip(colors, labels, strict=True)]
        lines[1] = "," + lines[1].partition(",")[2]
        lines[2] = f"{colors[2]},,{labels[2] + 3}"
        folder = tmp_path / "flowers"
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.csv").write_text("\n".join(["color,length,label", *lines]) + "\n")


def test_a_forest_from_the_table_to_its_labels(flowers, capsys):
    pytest.importorskip("skops")
    words = ["teacher", "fit", "--method", "forest", "--trees", "29", "--dataset", "flowers", "--output_dir", "forest"]
    main([*words, "--use_cpu", "1"])
    teacher = Teacher.from_pretrained("forest")
    assert teacher.num_draws(1) == 29 and teacher.num_classes == 6  # numbers of classes, as everywhere: 0 to 5
    main(["teacher", "evaluate", "forest", "--dataset", "flowers"])
    assert re.search(r"accuracy (0\.9|1\.0)", capsys.readouterr().out)
    main(["label", "--teacher", "forest", "--dataset", "flowers", "--split", "test", "--output_dir", "labeled"])
    labeled = datasets.load_from_disk("labeled")
    labels = read(labeled)
    assert labels.record.teacher.method == "sklearn" and set(labels.record.dataset.identity["columns"]) == {
        "color",
        "length",
    }
    answers = labels.probs.argmax(dim=1).numpy()
    assert (answers == np.array(labeled["label"])).mean() > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "mlp-8", "--dataset", "flowers"], "omit --model"),
        ([], "pass --dataset"),
        (["--dataset", "flowers", "--trees", "0"], "trees"),
        (["--dataset", "flowers", "--trees", "2"], "an answer out of bag needs 2"),
    ],
)
def test_what_a_forest_does_not_take_is_refused(flowers, capsys, words, message):
    with pytest.raises(SystemExit):
        main(["teacher", "fit", "--method", "forest", "--output_dir", "forest", *words])
    assert message in capsys.readouterr().err


def test_training_rows_are_answered_out_of_bag_unless_somebody_says_otherwise(flowers):
    pytest.importorskip("skops")
    for folder, words in (("out", ["--trees", "29"]), ("all", ["--trees", "2", "--out_of_bag", "0"])):
        main(["teacher", "fit", "--method", "forest", "--dataset", "flowers", "--output_dir", folder, *words])
        assert ("out_of_bag" in Teacher.from_pretrained(folder).describe()) == (folder == "out")
