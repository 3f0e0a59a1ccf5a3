"""Log-probabilities that an engine computed: where they are stored, and which are refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_bkd import DeterministicTeacher, add_soft_labels, import_token_log_probs
from hf_bkd.language import tokenized
from hf_bkd.soft_labels import read
from hf_bkd.training.next_token_loss import Positions, TokenLoss
from hf_bkd.utils.errors import UserError

from .language_helpers import V, learned, llama, texts, tokenizer
from .test_training import trainer

LN = np.log
ROWS = {"input_ids": [[5, 7, 9], [7, 5]]}
VLLM = [
    [None, {7: LN(0.5), 3: LN(0.25)}, {9: LN(0.125), 0: LN(0.5), 4: LN(0.25)}],
    [None, {5: LN(0.75)}],
]
SHAPES = {
    "numbers": lambda value: value,
    "objects": lambda value: SimpleNamespace(logprob=value, rank=1, decoded_token="x"),
    "json": lambda value: {"logprob": value, "rank": 1},
}


def imported(rows=ROWS, log_probs=VLLM, *given, **settings) -> Dataset:
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_dict(rows)
    return import_token_log_probs(dataset, log_probs, *given, **({"predicts": "own", "num_tokens": 10} | settings))


def said(dataset: Dataset, row: int) -> list[dict[int, float]]:
    """What is stored at each position of a row, zeros left out."""
    tokens, probs = dataset[row]["teacher_tokens"], dataset[row]["teacher_probs"]
    return [{t: p for t, p in zip(*each, strict=True) if p} for each in zip(tokens, probs, strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_vllms_entry_of_a_token_goes_to_the_place_before_it(shape):
    log_probs = [[each and {t: SHAPES[shape](v) for t, v in each.items()} for each in row] for row in VLLM]
    dataset = imported(log_probs=log_probs)
    assert said(dataset, 0) == [{7: 0.5, 3: 0.25}, {0: 0.5, 4: 0.25, 9: 0.125}, {}]
    assert said(dataset, 1) == [{5: 0.75}, {}]
    record = read(dataset).record
    assert (record.storage, record.positions, record.teacher.num_classes) == ("top_k", "next tokens", 10)
    torch.testing.assert_close(read(dataset).probs[0].sum(), torch.tensor(1.0))


def test_entries_of_the_next_token_stay_where_they_are_and_masked_ones_do_not_count():
    columns = {
        "target_token_ids": [[[7, 3], [0, 4], [1, 2]], [[5, 1], [1, 2]]],
        "target_logprobs": [[[LN(0.5), LN(0.25)], [LN(0.5), -np.inf], [0, 0]], [[LN(0.75), 3.0], [0, 0]]],
        "target_mask": [[[1, 1], [1, 1], [0, 0]], [[1, 0], [0, 0]]],
    }
    dataset = imported(ROWS | columns, "target_logprobs", "target_token_ids", "target_mask", predicts="next")
    assert said(dataset, 0) == [{7: 0.5, 3: 0.25}, {0: 0.5}, {}] and said(dataset, 1) == [{5: 0.75}, {}]
    by_entry = columns | {"target_mask": [[1, 1, 0], [0, 0]], "labels": [[5, 7, 9], [-100, -100]]}
    dataset = imported(ROWS | by_entry, "target_logprobs", "target_token_ids", "target_mask", predicts="next")
    assert said(dataset, 1) == [{}, {}]


def test_what_json_and_arrow_make_of_an_entry_is_read():
    own = json.loads(json.dumps([[each and {t: {"logprob": v} for t, v in each.items()} for each in VLLM[0]]]))
    rows = Dataset.from_dict({"input_ids": [[5, 7, 9]], "prompt_logprobs": own})
    assert said(imported(rows, "prompt_logprobs"), 0) == said(imported(), 0)


def test_nothing_is_stored_where_nothing_is_taught():
    rows = {"input_ids": [[5, 7, 9], [7, 5]], "labels": [[-100, -100, 9], [-100, 5]]}
    assert said(imported(rows), 0) == [{}, {0: 0.5, 4: 0.25, 9: 0.125}, {}]


def test_an_entry_that_is_not_used_belongs_to_the_tail():
    logits = torch.tensor([[1.0, 2.0, 0.5, -1.0, 0.0]], dtype=torch.float64)
    loss = TokenLoss(1.0, is_cut=True)
    at, labels = torch.tensor([0]), torch.tensor([1])
    short = Positions(at, labels, torch.tensor([[0.6]]).double(), torch.tensor([[1]]))
    wide = Positions(at, labels, torch.tensor([[0.6, 0.0, 0.0]]).double(), torch.tensor([[1, 0, 2]]))
    torch.testing.assert_close(loss(logits, wide), loss(logits, short))
    q = logits.softmax(dim=-1)[0, 1]
    expected = 0.6 * (0.6 / q).log() + 0.4 * (0.4 / (1 - q)).log()  # of the token 1, and of all others together
    torch.testing.assert_close(loss(logits, wide)[0], expected, rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def answers():
    """Rows of tokens, a model that knows them, and its log-probabilities as vLLM gives them, 5 and the token's own."""
    rows = tokenized(texts(), tokenizer())
    network = learned(llama(), rows).eval()
    return rows, network, [_as_vllm(network, row["input_ids"]) for row in rows]


def _as_vllm(network, ids: list[int]) -> list:
    with torch.no_grad():
        log_probs = network(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    entries = [
        {t: float(v[t]) for t in {*v.topk(5).indices.tolist(), own}}
        for v, own in zip(log_probs[:-1], ids[1:], strict=True)
    ]
    return [None, *entries]


def test_imported_labels_are_those_that_the_model_gives_and_students_learn_from_them(answers, tmp_path):
    rows, network, log_probs = answers
    dataset = imported(rows, log_probs, processing_class=tokenizer(), num_tokens=None, made_by="vLLM")
    teacher = DeterministicTeacher(network)
    own = add_soft_labels(rows, teacher, processing_class=tokenizer(), storage="top_k", top_k=5, progress=False)
    for row in range(len(rows)):
        for stored, expected in zip(said(dataset, row), said(own, row), strict=True):
            assert {t: stored[t] for t in expected} == pytest.approx(expected, rel=2e-3, abs=1e-6)
    assert read(dataset).record.tokenizer == read(own).record.tokenizer
    assert dataset["example_id"][:] == own["example_id"][:]
    assert np.isfinite(trainer(tmp_path, dataset).train().training_loss)


@pytest.mark.parametrize(("given", "right"), [("next", "own"), ("own", "next")])
def test_a_shift_either_way_is_refused(answers, given, right):
    rows, _, log_probs = answers
    whole = [each[1:] + [each[-1]] if right == "next" else [each[1], *each[1:]] for each in log_probs]
    with pytest.raises(UserError, match=f"shifted by one; pass predicts='{right}'"):
        imported(rows, whole, predicts=given, num_tokens=V)
    assert len(imported(rows, whole, predicts=right, num_tokens=V)) == len(rows)


def test_probabilities_that_were_made_to_sum_to_one_are_warned_of(answers, caplog):
    rows, _, log_probs = answers
    renormalized = []
    for row in log_probs:
        totals = [each and LN(sum(np.exp(list(each.values())))) for each in row]
        scaled = [e and {t: v - total for t, v in e.items()} for e, total in zip(row, totals, strict=True)]
        renormalized.append(scaled)
    imported(rows, log_probs, num_tokens=V)
    assert not caplog.records
    imported(rows, renormalized, num_tokens=V)
    assert "renormalized" in caplog.text


def entry(**changed):
    return [[None, {7: LN(0.5)}, changed.get("last", {9: LN(0.5)})], [None, {5: LN(0.75)}]]


@pytest.mark.parametrize(
    ("rows", "log_probs", "settings", "message"),
    [
        (ROWS, entry(last={10: LN(0.5)}), {}, "row 0 gives the token 10 .* the vocabulary has 10 tokens"),
        (ROWS, entry(last={9: 0.5}), {}, "row 0 gives the token 9 the log-probability 0.5, and none is above 0"),
        (ROWS, entry(last={9: float("nan")}), {}, "which is no number"),
        (ROWS, entry(last={9: LN(0.6), 8: LN(0.5)}), {}, "an entry of row 0 sum to 1.1"),
        (ROWS, entry(last={9: LN(0.2), "9": LN(0.2)}), {}, "names it twice"),
        (ROWS, entry(last={" the": LN(0.2)}), {}, "token ' the', not an id"),
        (ROWS, entry(last=[LN(0.2)]), {}, "^entry 2 of row 0 is a list"),
        (ROWS, entry(last=None), {}, "row 0 teaches its token 2, .* predicts='next'"),
        (ROWS, VLLM, {"predicts": "next"}, "row 0 teaches its token 1, .* predicts='own'"),
        (ROWS, VLLM[:1], {}, "are of 1 rows, and the dataset has 2"),
        (ROWS, [VLLM[0][1:], VLLM[1]], {}, "row 0 has 2 entries of log-probabilities, and 3 input_ids"),
        (ROWS, VLLM, {"predicts": "own", "num_tokens": 9}, "row 0 has the token 9, and the vocabulary 9"),
        (ROWS, VLLM, {"num_tokens": None}, "pass processing_class="),
        (ROWS, VLLM, {"temperature": 0.0}, "temperature"),
        (ROWS, VLLM, {"predicts": "both"}, "predicts"),
        (ROWS, "missing", {}, "no column 'missing'"),
        ({"text": ["a", "b"]}, VLLM, {}, "has no input_ids"),
        (ROWS | {"seq_lengths": [[3], [2]]}, VLLM, {}, "import first, then pack_soft_labels"),
        (ROWS | {"labels": [[-100] * 3, [-100] * 2]}, VLLM, {}, "no token of the rows is taught"),
        (ROWS | {"labels": [[7, 9, 1], [5, 1]]}, VLLM, {}, "other tokens than its input_ids"),
    ],
)
def test_what_can_not_be_is_refused(rows, log_probs, settings, message):
    with pytest.raises(UserError, match=message):
        imported(rows, log_probs, **settings)


def test_lists_of_other_lengths_and_odd_ids_are_refused():
    with pytest.raises(UserError, match="^entry 0 of row 0 has 2 tokens, and 1 log-probabilities"):
        imported({"input_ids": [[5, 7]]}, [[[0.0], []]], [[[1, 2], []]], predicts="next")
    with pytest.raises(UserError, match=r"token 1\.5, not an id"):
        imported({"input_ids": [[5, 7]]}, [[[-1.0], []]], [[[1.5], []]], predicts="next")
    with pytest.raises(UserError, match="what row 0 holds can't be read"):
        imported({"input_ids": [[5, 7]]}, [[[-1.0], []]], [[[1], []]], [[[1, 1, 1], []]], predicts="next")
    with pytest.raises(UserError, match="what row 0 holds can't be read"):
        imported({"input_ids": [[5, 7]]}, [[-1.0, -1.0]], [[1, 2]], predicts="next")
