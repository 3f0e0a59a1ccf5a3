"""The column of mean logarithms: stored, read, resumed, folded, joined and imported as the others, and refused."""

import math

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from hf_bkd import DeterministicTeacher, EnsembleTeacher, UserError, add_soft_labels, join_soft_labels
from hf_bkd.data.columns import LOG_PROBS
from hf_bkd.dirichlet import LEAST
from hf_bkd.soft_labels import attach, import_soft_labels, only_soft_labels, read
from tests.soft_labels.label_helpers import Teacher

N, D, C, M = 21, 3, 4, 3
COLUMN = "teacher_mean_log_probs"


class Network(nn.Module):
    num_classes = C

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(D, C)
        nn.init.normal_(self.fc.weight, std=4)

    def forward(self, x):
        return self.fc(x)


def teacher(**how):
    return EnsembleTeacher([DeterministicTeacher(Network(seed)) for seed in range(M)], **how)


def preprocess(rows):
    return {"x": torch.tensor(rows["x"])}


@pytest.fixture(scope="module")
def rows():
    x = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    return datasets.Dataset.from_dict({"x": x.tolist(), "label": np.arange(N) % C})


def labeled(rows, asked=None, **how):
    options = {"preprocessor": preprocess, "progress": False, "mean_log_probs": True} | how
    return add_soft_labels(rows, asked or teacher(), **options)


def expected(rows, temperature=1.0):
    x = preprocess(rows[:])["x"]
    with torch.no_grad():
        draws = torch.stack([Network(seed)(x) / temperature for seed in range(M)]).softmax(dim=-1)
    return draws.clamp_min(LEAST).log().mean(dim=0)


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_it_is_the_average_of_the_draws_logarithms(rows, storage):
    labels = read(labeled(rows, storage=storage))
    stored, exact = labels.beside[LOG_PROBS][:, 0].float(), expected(rows)
    assert exact.min() < -10  # some draws exclude a class
    bound = 1e-5 if storage == "float32" else 2**-11 * exact.abs() + 2**-25 + 1e-5
    assert ((stored - exact).abs() <= bound).all()
    assert labels.record.least_probability == LEAST


def test_of_draws_that_are_tempered_one_by_one(rows):
    labels = read(labeled(rows, teacher(temperature=4.0, tempering="per_sample"), storage="float32"))
    assert labels.beside[LOG_PROBS][:, 0] == pytest.approx(expected(rows, 4.0), abs=1e-5)


def test_it_is_left_out_unless_it_is_asked_for(rows):
    plain = labeled(rows, mean_log_probs=False)
    assert COLUMN not in plain.column_names
    assert read(plain).record.least_probability is None
    assert COLUMN not in labeled(labeled(rows), mean_log_probs=False).column_names  # an older one's goes


def test_what_was_killed_goes_on_to_the_same_bytes(rows, tmp_path):
    whole = labeled(rows, shard_rows=5)
    first = labeled(rows, shard_rows=5, folder=tmp_path / "labels")
    for shard in list((tmp_path / "labels").glob("*.arrow"))[1:]:
        shard.unlink()
    again = labeled(rows, shard_rows=5, folder=tmp_path / "labels")
    assert whole[COLUMN][:] == first[COLUMN][:] == again[COLUMN][:]
    with pytest.raises(UserError, match="another mean log probs"):
        labeled(rows, shard_rows=5, folder=tmp_path / "labels", mean_log_probs=False)


def test_cross_fitted_shared_and_joined(rows):
    folded = add_soft_labels(
        rows, folds=3, fit=lambda rest, fold: teacher(), preprocessor=preprocess, progress=False, mean_log_probs=True
    )
    joined = join_soft_labels(rows.shuffle(seed=1), only_soft_labels(folded))
    back = {tuple(row["x"]): row[COLUMN] for row in joined}
    assert [back[tuple(row["x"])] for row in rows] == folded[COLUMN][:] == labeled(rows)[COLUMN][:]


def test_of_tokens_it_stands_where_they_do():
    """Of three rows of one to three tokens, which a fourth pads: [T, C] row after row, zeros where there is none."""
    probs = torch.rand(6, C, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    logs = (probs.log() - 0.1 * torch.rand(6, 1)).numpy()
    record = {"format": 1, "temperature": 1.0, "tempering": "post_average", "positions": "tokens"}
    rows = datasets.Dataset.from_dict({"input_ids": [[1], [2, 3], [4, 5, 6]]})
    made = attach(rows, probs.numpy(), record, storage="float32", lengths=np.array([1, 2, 3]), log_probs=logs)
    labels = read(made)
    assert labels.beside[LOG_PROBS][:, 0] == pytest.approx(torch.from_numpy(logs))
    placed = labels.at(torch.tensor([0, 2]), 0, torch.tensor([[1, 0, 0], [1, 1, 1]]))[COLUMN]
    assert placed[1] == pytest.approx(torch.from_numpy(logs[3:]))
    assert placed[0, 0] == pytest.approx(torch.from_numpy(logs[0])) and not placed[0, 1:].any()


def test_imported_draws(rows):
    draws = torch.stack([torch.randn(N, C) for _ in range(5)])
    numbered = rows.add_column("id", list(range(N)))
    made = import_soft_labels(numbered, draws, range(N), "id", storage="float32", mean_log_probs=True)
    assert read(made).beside[LOG_PROBS][:, 0] == pytest.approx(draws.log_softmax(-1).mean(dim=0), abs=1e-5)
    with pytest.raises(UserError, match="are of one: pass values"):
        import_soft_labels(numbered, draws[0], range(N), "id", mean_log_probs=True)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"storage": "top_k"}, "omits classes"),
        ({"asked": DeterministicTeacher(Network(0))}, "answers with a single distribution"),
        ({"asked": teacher(temperature=2.0)}, "tempers their average"),
        ({"asked": Teacher(C, D)}, "no argument return_samples"),
    ],
)
def test_what_has_no_such_column_is_refused(rows, how, match):
    with pytest.raises(UserError, match=match):
        labeled(rows, **how)


def test_other_kinds_are_refused(rows):
    members = [DeterministicTeacher(Network(seed), likelihood="multi_label_classification") for seed in range(2)]
    with pytest.raises(UserError, match="problem_type is 'multi_label_classification'"):
        labeled(rows.remove_columns("label"), EnsembleTeacher(members))


def test_a_damaged_column_is_refused(rows):
    good = labeled(rows, storage="float32")
    values = good[COLUMN][:]
    values[3] = [math.log(0.9)] * C
    bad = good.remove_columns(COLUMN).add_column(COLUMN, values, feature=good.features[COLUMN])
    with pytest.raises(UserError, match=f"row 3 of column {COLUMN} holds no mean logarithms"):
        read(bad)
