"""The protein recipes on made-up proteins: the study on both kinds of features, and what the encoder may not see."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch

from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import stratified_split
from hf_bkd.metrics import classification_metrics, nll
from hf_bkd.study import main
from tests.recipes.recipe_helpers import load, words

pytestmark = pytest.mark.usefixtures("blank_pictures")

PLACES = ["Cytoplasm", "Nucleus", "Membrane"]
CARD = """---
configs:
- config_name: single_label
  default: true
  data_files:
  - split: train
    path: single_label/train.parquet
  - split: test
    path: single_label/test.parquet
- config_name: multi_label
  data_files:
  - split: test
    path: multi_label/test.parquet
---
"""
OPTIONS = {
    "seeds": 0, "num_train_epochs": 2, "validation_size": 20, "num_samples": 20, "workers": 1,
    "arms": "no-teacher,esm-2-650m,esm-2-650m-scaled,average-inverse-variance,mixture-entropy-weights",
}  # fmt: skip


def proteins(size: int, seed: int) -> datasets.Dataset:
    rng, residues = np.random.default_rng(seed), np.array(list(load("common/proteins").RESIDUES + "X"))
    labels = np.arange(size) % 3
    lengths = rng.integers(40, 700, size)
    texts = ["".join(rng.choice(residues, length)) for length in lengths]
    logits = [(2 * np.eye(3)[labels] + rng.normal(size=(size, 3))).astype(np.float32) for _ in range(2)]
    rows = {"accession": [f"P{seed}{i:04d}" for i in range(size)], "sequence": texts, "label": labels.tolist()}
    rows |= {"teacher_logits_esm_650m": logits[0].tolist(), "teacher_logits_t5": logits[1].tolist()}
    return datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=PLACES))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data in two configurations, and an encoder with random weights."""
    folder = tmp_path_factory.mktemp("proteins")
    (folder / "data").mkdir()
    (folder / "data" / "README.md").write_text(CARD)
    for seed, (name, size) in enumerate(
        (("single_label/train", 90), ("single_label/test", 60), ("multi_label/test", 30))
    ):
        rows = proteins(size, seed)
        rows = rows.remove_columns("label") if "multi" in name else rows
        rows.to_parquet(folder / "data" / f"{name}.parquet")
    torch.manual_seed(0)
    load("protein_encoder").ProteinEncoder(4, width=16, features=12).save_pretrained(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory):
    folder, recipe = tmp_path_factory.mktemp("run"), load("proteins_multi_teacher")
    chains = {"prior_precision": (10.0,), "chains": 2, "steps": 40, "burn_in": 20, "thinning": 2}
    options = OPTIONS | {"dataset": home / "data", "pretrained": home / "encoder"}

    def study(given):
        whole = recipe.study(given)
        arms = tuple(replace(arm, strengths=arm.strengths[:1]) for arm in whole.arms)  # a third of the trainings
        return replace(whole, arms=arms, posterior=chains)

    main(study, recipe.DEFAULTS, words(folder, options))
    return folder, json.loads((folder / "results.json").read_text())


def test_configurations_are_told_apart(home):
    assert set(load_splits(str(home / "data"))) == {"train", "test"}
    assert len(load_splits(str(home / "data"), ("test",), "multi_label")["test"]) == 30


def test_students_of_both_kinds_of_features_are_measured(finished):
    folder, results = finished
    assert len(results["arms"]) == 2 * 5 and results["reference"] == "no teacher" and results["measure"] == "nll"
    for record in results["arms"]:
        assert 0 < record["metrics"]["nll"] < 20 and record["uncertainty"]["auroc"].keys() >= {"mean_deviance"}
    page = (folder / "report.md").read_text()
    assert "### composition" in page and "### encoder" in page and "| vs no teacher (nats, [95 % CI, Holm]) |" in page


def test_a_teachers_labels_are_around_its_own_logits(finished, home):
    """The posterior is over maps around identity: its mean is near the softmax of what was given."""
    _, results = finished
    test = load_splits(str(home / "data"))["test"]
    given = torch.tensor(test["teacher_logits_esm_650m"][:]).softmax(dim=-1)
    expected = classification_metrics(given, torch.tensor(test["label"][:]))
    records = [record for record in results["arms"] if record["arm"] == "ESM-2 650M"]
    assert records[0]["teacher_metrics"] == records[1]["teacher_metrics"]
    assert records[0]["teacher_metrics"]["accuracy"] == pytest.approx(expected["accuracy"], abs=0.1)
    assert records[0]["teacher_metrics"]["nll"] == pytest.approx(expected["nll"], abs=0.15)


def test_the_calibrated_control_is_a_teachers_logits_over_the_temperature_of_the_held_out_proteins(finished, home):
    _, results = finished
    splits = load_splits(str(home / "data"))
    validation, _ = stratified_split(splits["train"], OPTIONS["validation_size"], seed=0)

    def measured(rows, temperatures, measure):
        logits, labels = torch.tensor(rows["teacher_logits_esm_650m"][:]).double(), torch.tensor(rows["label"][:])
        return [measure((logits / temperature).softmax(dim=-1), labels) for temperature in temperatures]

    def best(scaled):
        """The temperature of least negative log-likelihood of the held-out proteins, with the prior's of T."""
        grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2000))
        return grid[
            np.argmin(len(validation) * np.array(measured(validation, scaled * grid, nll)) + np.log(grid) ** 2 / 2)
        ]

    record = next(record for record in results["arms"] if record["arm"] == "ESM-2 650M, scaled")
    first = best(1)
    again = best(first)  # which would be 1 but for the prior
    assert abs(first - 1) > 0.05 > abs(again - 1)  # so that the comparison below is of something
    for source, temperature in {"teacher_metrics": first, "teacher_scaled_metrics": first * again}.items():
        for name, value in measured(splits["test"], [temperature], classification_metrics)[0].items():
            assert record[source][name] == pytest.approx(value, abs=2e-3), (source, name)
    assert record["teacher_scaled_metrics"]["temperature"] == pytest.approx(again, abs=0.01)


def test_composition_counts_residues_and_pairs():
    composed = load("proteins_multi_teacher").composed("AAC" + "D" * 60 + "X")
    assert composed.shape == (460,) and composed.dtype == np.float32
    whole, first, last, pairs = np.split(composed, [20, 40, 60])
    np.testing.assert_allclose(whole[:3], [2 / 63, 1 / 63, 60 / 63])
    np.testing.assert_allclose(first[:3], [2 / 50, 1 / 50, 47 / 50])
    np.testing.assert_allclose(last[2], 1)
    pairs = pairs.reshape(20, 20)
    np.testing.assert_allclose([pairs[0, 0], pairs[0, 1], pairs[1, 2], pairs[2, 2]], np.array([1, 1, 1, 59]) / 62)


def test_residues_are_numbers_and_long_proteins_lose_their_middle():
    recipe = load("common/proteins")
    long = "A" * 350 + "C" * 100 + "D" * 150
    short, cut = recipe.encoded(["ACYX", long])
    assert short[:5].tolist() == [1, 2, 20, 21, 0] and short.shape == (500,)
    assert cut.tolist() == [1] * 350 + [3] * 150


def test_what_stands_behind_a_protein_is_of_no_effect():
    recipe = load("common/proteins")
    torch.manual_seed(0)
    network = recipe.ProteinEncoder(4, width=16, features=12).eval()
    sequences = proteins(6, 9)["sequence"][:]
    together = network.features_of(sequences)
    for sequence, expected in zip(sequences, together, strict=True):
        residues = recipe.encoded([sequence])
        length = -(-min(len(sequence), 500) // 3) * 3
        with torch.no_grad():
            alone = network.features(residues[:, :length])[0].numpy()
        np.testing.assert_allclose(alone, expected, atol=1e-5)
    assert np.ptp(together, axis=0).min() > 0


def test_no_held_protein_is_left_in_the_pool():
    recipe, held = load("protein_encoder"), proteins(4, 5).select_columns(["accession", "sequence"])
    first, second, third, _ = held["sequence"][:]
    other = proteins(3, 6)["sequence"][:]
    pool = {
        "P50000": other[0],  # the accession alone
        "Q1": second,
        "Q2": third[: len(third) // 2] + other[1],  # half of it
        "Q3": other[1],
        "Q4": first[:12] + other[2],  # too little to be alike
    }
    rows = datasets.Dataset.from_dict({"accession": list(pool), "sequence": list(pool.values())})
    rest, dropped = recipe.without(rows, held)
    assert dropped == {"accession": 1, "sequence": 1, "likeness": 1}
    assert rest["accession"][:] == ["Q3", "Q4"]
