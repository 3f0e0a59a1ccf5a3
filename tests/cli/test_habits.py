"""What somebody else does: names with spaces and umlauts, the home folder, other files, places and pictures."""

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_bkd import Teacher
from hf_bkd.cli import main
from tests.cli.fitting_helpers import CLASSES, cnn, run

QUICK = {"use_cpu": 1, "disable_tqdm": 1, "num_train_epochs": 1}
KINDS = ["2", "10", "eins ä"]


def table(number: int) -> datasets.Dataset:
    values = np.random.default_rng(0).normal(size=(number, 2)).round(3)
    columns = {"Länge (cm)": values[:, 0], "y": values[:, 1], "kind": [KINDS[row % 3] for row in range(number)]}
    return datasets.Dataset.from_dict(columns)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a table in three splits, from which another folder is the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "meine Tabellen ü"
    folder.mkdir()
    for split, number in (("train", 36), ("validation", 12), ("test", 12)):
        table(number).to_csv(str(folder / f"{split}.csv"), index=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def refused(capsys, *words, **options) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*words, **options)
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in said, said
    return said


def test_the_chain_in_the_home_folder_with_spaces_and_umlauts(home, capsys):
    tables, common = "--dataset=~/meine Tabellen ü", ["--label_column=kind"]
    quick = [f"--{name}={value}" for name, value in QUICK.items()]
    main(["teacher", "fit", "--method=deterministic", "--model=mlp-4", tables, "--output_dir=~/t ö", *common, *quick])
    main(["label", "--teacher=~/t ö", tables, "--output_dir=../labels ß", *common])
    settings = ["--dataset=../labels ß", "--eval_dataset=~/meine Tabellen ü", "--eval_split=test", *common, *quick]
    (home / "settings.yaml").write_text("output_dir: ~/student é\n")
    main(["distill", "--student=mlp-4", "--config=../settings.yaml", *settings])
    distilled = capsys.readouterr().out.splitlines()[-1]
    main(["evaluate", "~/student é", tables, *common])
    assert capsys.readouterr().out.splitlines()[1] == distilled.partition("on 12 examples: ")[2]
    assert {path.name for path in home.iterdir()} >= {"t ö", "labels ß", "student é"}
    assert not list((home / "elsewhere").iterdir())
    assert Teacher.from_pretrained("~/t ö").class_names == ["10", "2", "eins ä"]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_single_files(home, capsys, ending):
    save = {"parquet": "to_parquet", "jsonl": "to_json", "csv": "to_csv"}[ending]
    getattr(table(40), save)(str(home / f"table.{ending}"))
    given = {"dataset": home / f"table.{ending}", "output_dir": home / "t", "label_column": "kind"}
    run("teacher", "fit", method="deterministic", model="mlp-4", **given, **QUICK)
    assert Teacher.from_pretrained(home / "t").network.feature_names == ["Länge (cm)", "y"]


def test_several_files_are_a_folder(home, capsys):
    folder = home / "meine Tabellen ü"
    common = {"method": "deterministic", "model": "mlp-4", "output_dir": home / "t", "label_column": "kind"}
    said = refused(capsys, "teacher", "fit", **common, dataset=folder / "*.csv", **QUICK)
    assert "*.csv is a pattern: pass the folder, whose files are read together" in said
    words = ["--dataset", str(folder / "train.csv"), str(folder / "test.csv")]
    assert "of several files pass their folder" in refused(capsys, "teacher", "fit", *words, **common)
    run("teacher", "fit", dataset=folder, **common, **QUICK)


def test_a_picture_of_16_bits_is_named_and_one_with_an_alpha_channel_is_read(home, capsys):
    rng, folder = np.random.default_rng(0), home / "pictures"
    for row in range(12):
        (folder / "train" / CLASSES[row % 3]).mkdir(parents=True, exist_ok=True)
        mode = "RGBA" if row == 5 else "RGB"
        picture = Image.fromarray(rng.integers(256, size=(20, 24, len(mode)), dtype=np.uint8))
        picture.save(folder / "train" / CLASSES[row % 3] / f"{row}.png")
    common = {"method": "deterministic", "model": "test_resnet", "validation_size": 3, **QUICK}
    run("teacher", "fit", dataset=folder, output_dir=home / "t", **common)
    deep = Image.fromarray(rng.integers(2**16, size=(20, 24), dtype=np.uint16))
    deep.save(folder / "train" / CLASSES[0] / "deep.png")
    said = refused(capsys, "teacher", "fit", dataset=folder, output_dir=home / "other", **common)
    assert "deep.png): images of mode I;16 have more than 8 bits a channel" in said


def test_names_with_weights_or_with_the_prefixes_of_timm(home, capsys):
    given = {"dataset": home / "x", "output_dir": home / "t", **QUICK}
    said = refused(capsys, "distill", student="resnet18.a1_in1k", **given)
    assert "pass timm/resnet18.a1_in1k, where the Hub has them, or resnet18 to begin with random ones" in said
    cnn().save_pretrained(home / "network")
    assert "there is no folder /nowhere" in refused(
        capsys, "evaluate", f"local-dir:{home}/network", dataset="/nowhere"
    )
