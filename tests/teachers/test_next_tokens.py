"""A language model's temperature and its measures, by rows of tokens."""

import math

import pytest
import torch
from datasets import Dataset

from hf_bkd import DeterministicTeacher
from hf_bkd.language import tokenized
from hf_bkd.likelihoods import best_temperature
from hf_bkd.teachers.next_tokens import TokenBatches, token_measures
from hf_bkd.utils.errors import UserError
from tests.language.language_helpers import learned, llama, texts, tokenizer


@pytest.fixture(scope="module")
def network():
    return learned(llama(), tokenized(texts(8), tokenizer()), 30)


def answers(network, rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and tokens of all positions but each row's last, text by text."""
    with torch.no_grad():
        logits = [network(torch.tensor([ids])).logits[0, :-1] for ids in rows["input_ids"]]
    return torch.cat(logits), torch.cat([torch.tensor(ids[1:]) for ids in rows["input_ids"]])


def test_the_temperature_is_the_best_one_of_all_tokens_whatever_the_batch(network, monkeypatch):
    rows = tokenized(texts(), tokenizer())
    expected = best_temperature(*answers(network, rows))
    teacher = DeterministicTeacher.fit(network, rows, processing_class=tokenizer())
    assert teacher.temperature == pytest.approx(expected, rel=0.01)
    monkeypatch.setattr("hf_bkd.teachers.next_tokens.LOGITS_AT_ONCE", 1)
    alone = DeterministicTeacher.fit(network, rows, processing_class=tokenizer())
    assert alone.temperature == pytest.approx(teacher.temperature, rel=1e-4)
    assert teacher.record["temperature chosen by"] == "validation NLL"


def test_measures_are_those_of_the_tokens_that_are_taught(network):
    rows = tokenized(texts(3), tokenizer())
    teacher = DeterministicTeacher(network)
    logits, tokens = answers(network, rows)
    measures = token_measures(teacher, TokenBatches.of(network, rows, tokenizer()))
    expected = torch.nn.functional.cross_entropy(logits, tokens).item()
    assert measures["nll"] == pytest.approx(expected, rel=1e-5)
    assert measures["accuracy"] == pytest.approx((logits.argmax(dim=-1) == tokens).float().mean().item())
    few = Dataset.from_dict({"input_ids": rows["input_ids"][:1], "labels": [[-100] * 3 + rows["input_ids"][0][3:]]})
    of_few = token_measures(teacher, TokenBatches.of(network, few, tokenizer()))
    own = torch.nn.functional.cross_entropy(
        logits[2 : len(few["input_ids"][0]) - 1], tokens[2 : len(few[0]["labels"]) - 1]
    )
    assert of_few["nll"] == pytest.approx(own.item(), rel=1e-5)


def test_a_best_temperature_beyond_the_range_is_its_end(network):
    flat, rows = llama(), tokenized(texts(), tokenizer())
    with torch.no_grad():
        flat.lm_head.weight.mul_(100)
    assert DeterministicTeacher.fit(flat, rows, processing_class=tokenizer()).temperature == pytest.approx(4)
    assert math.isfinite(DeterministicTeacher.fit(network, rows, processing_class=tokenizer()).temperature)


def test_rows_without_anything_to_learn_are_refused(network):
    rows = Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[-100, -100]]})
    with pytest.raises(UserError, match="nothing can be measured on them"):
        DeterministicTeacher.fit(network, rows, processing_class=tokenizer())
    with pytest.raises(UserError, match="nothing can be measured on them"):
        token_measures(DeterministicTeacher(network), TokenBatches.of(network, rows, tokenizer()))
