"""How tokens are drawn: by the probabilities that are asked for, and each answer by random numbers of its own."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    GenerationConfig,
    LlamaForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    RwkvConfig,
    RwkvForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hf_bkd.responses.sampling import Sampling, batches_of, sampled_answers
from hf_bkd.responses.speaking import Speaker
from hf_bkd.responses.weights import WeightDraw
from hf_bkd.utils.random import Draws
from tests.language.language_helpers import llama, tokenizer

from .response_helpers import answered, prompts

ALL = torch.ones(97, dtype=torch.bool)


def test_probabilities_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    for sampling, expected in (
        (Sampling(), [0.5, 0.3, 0.2]),
        (Sampling(temperature=0.5), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]),
        (Sampling(top_k=2), [0.625, 0.375, 0]),
        (Sampling(top_p=0.6), [0.625, 0.375, 0]),
        (Sampling(top_p=0.5), [1, 0, 0]),
        (Sampling(top_k=9), [0.5, 0.3, 0.2]),
    ):
        np.testing.assert_allclose(sampling.probs(logits)[0], expected, rtol=1e-6)
    penalized = Sampling(repetition_penalty=2.0).probs(torch.tensor([[1.0, -1.0, 3.0]]), torch.tensor([[0, 1, 1]]))
    np.testing.assert_allclose(penalized[0], np.exp([0.5, -2, 3]) / np.exp([0.5, -2, 3]).sum(), rtol=1e-6)


def test_probabilities_are_those_of_generate():
    torch.manual_seed(0)
    logits, seen = 3 * torch.randn(4, 50), torch.randint(50, (4, 7))
    steps = [
        RepetitionPenaltyLogitsProcessor(1.3),
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.8),
    ]
    expected = logits
    for step in steps:
        expected = step(seen, expected)
    actual = Sampling(0.7, 20, 0.8, 1.3).probs(logits, seen)
    np.testing.assert_allclose(actual, expected.softmax(dim=-1), atol=1e-6)
    assert (actual > 0).sum(dim=1).max() < 20


def test_tokens_come_as_often_as_the_model_says():
    network, prompt, number = llama(), [5, 6, 7], 4000
    keys = torch.arange(number)
    answers = sampled_answers(network, [prompt] * number, keys, 0, Sampling(max_new_tokens=1), (1,), ALL)
    shares = np.bincount([answer[0] for answer in answers], minlength=97) / number
    with torch.no_grad():
        expected = network(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(dim=-1).numpy()
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / number) + 1e-9).all()
    assert expected.max() < 0.5


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.5, "temperature": 0.7, "top_k": 20, "top_p": 0.9}])
def test_answers_are_the_same_whatever_the_batch_and_the_order(settings):
    whole = answered(prompts(), llama(), **settings)
    for other in ({"batch_size": 1}, {"batch_size": 4, "shard_rows": 2}):
        assert (
            answered(prompts(), llama(), **settings, **other)["teacher_responses"][:] == whole["teacher_responses"][:]
        )
    backwards = answered(prompts(4).select([3, 2, 1]), llama(), **settings)
    assert backwards["teacher_responses"][1:] == whole["teacher_responses"][2:0:-1]


def test_answers_differ_between_numbers_repeated_prompts_and_seeds_and_a_larger_k_adds_to_a_smaller():
    five = answered(prompts(), llama(), 5)["teacher_responses"][:]
    assert all(len(set(row)) == 5 for row in five)
    assert five[0] != five[-1]  # the same prompt
    assert [row[:3] for row in five] == answered(prompts(), llama(), 3)["teacher_responses"][:]
    assert five != answered(prompts(), llama(), 5, seed=1)["teacher_responses"][:]


def test_answers_are_those_of_a_loop_over_whole_texts():
    network, sampling = llama(), Sampling(max_new_tokens=5)
    keys = torch.tensor([3, 4])
    batch = sampled_answers(network, [[5, 6, 7, 8], [9]], keys, 7, sampling, (1,), ALL)
    for prompt, key, answer in zip(([5, 6, 7, 8], [9]), keys, batch, strict=True):
        tokens = list(prompt)
        for step in range(len(answer)):
            with torch.no_grad():
                probs = network(input_ids=torch.tensor([tokens])).logits[0, -1].double().softmax(dim=-1)
            uniform = Draws(key[None], 7, 0).uniform(torch.tensor([step])).item()
            tokens.append(int(np.searchsorted(probs.cumsum(dim=0).numpy(), uniform * probs.sum().item(), "right")))
        assert tokens[len(prompt) :] == answer


def test_settings_of_the_models_own_do_not_act_and_come_back():
    network = llama()
    expected = answered(prompts(), network)["teacher_responses"][:]
    own = GenerationConfig(eos_token_id=1, do_sample=True, temperature=9.0, repetition_penalty=5.0, min_new_tokens=6)
    network.generation_config = own
    network.train()
    assert answered(prompts(), network)["teacher_responses"][:] == expected
    assert network.generation_config is own and network.training


def test_tokens_that_the_tokenizer_does_not_know_are_not_drawn():
    torch.manual_seed(0)
    network = llama(vocab_size=160)
    with torch.no_grad():
        network.lm_head.weight[97:] *= 5
    answers = sampled_answers(network, [[5, 6]] * 50, torch.arange(50), 0, Sampling(max_new_tokens=4), (1,), ALL)
    assert max(map(max, answers)) < 97


def test_numbers_that_the_tokenizer_leaves_out_are_not_drawn_and_those_behind_them_are():
    """Tokens 50 to 89 are none of the tokenizer's, which has 97 numbered up to 136."""
    own = tokenizer()
    moved = {word: number if number < 50 else number + 40 for word, number in own.get_vocab().items()}
    other = tokenizer(words=[word for word, _ in sorted(moved.items(), key=lambda each: each[1])])
    other.get_vocab = lambda: moved
    torch.manual_seed(0)
    network = llama(vocab_size=160)
    known = Speaker.of(WeightDraw(network), other, Sampling(), 0).known
    assert known.nonzero()[:, 0].tolist() == sorted(moved.values())
    answers = sampled_answers(network, [[5, 6]] * 300, torch.arange(300), 0, Sampling(max_new_tokens=3), (1,), known)
    drawn = {token for answer in answers for token in answer}
    assert drawn <= set(moved.values()) and max(drawn) > 97


class UnpaddedForCausalLM(LlamaForCausalLM):
    """A model whose answers padding changes, for it reads no mask."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **inputs):
        return super().forward(input_ids=input_ids, **inputs)


def test_models_that_padding_disturbs_read_prompts_of_one_length_at_a_time():
    network = llama()
    other = UnpaddedForCausalLM(network.config).eval()
    other.load_state_dict(network.state_dict())
    assert batches_of(network, [5, 6, 7], (1,)) == "padded" and batches_of(other, [5, 6, 7], (1,)) == "of one length"
    rows = prompts()
    assert answered(rows, other)["teacher_responses"][:] == answered(rows, network)["teacher_responses"][:]


def test_models_that_others_in_a_batch_disturb_answer_one_prompt_at_a_time():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 64}
    network = RwkvForCausalLM(RwkvConfig(vocab_size=97, bos_token_id=1, eos_token_id=1, **sizes)).eval()
    assert batches_of(network, [5, 6, 7], (1,)) in ("alone", "of one length")  # a fault of transformers 5.24
    whole = answered(prompts(), network, batch_size=8)["teacher_responses"][:]
    assert whole == answered(prompts(), network, batch_size=1)["teacher_responses"][:]


def test_answers_end_where_the_model_or_the_tokenizer_ends_them():
    network = llama()
    ended = answered(Dataset.from_dict({"prompt": ["abc"]}), network, 60, max_new_tokens=40)
    for text, cut in zip(ended["teacher_responses"][0], ended["teacher_responses_cut"][0], strict=True):
        assert "#" not in text and (not cut or len(text) <= 40)
    assert 0 < sum(ended["teacher_responses_cut"][0]) < 60
    network.generation_config.eos_token_id = [tokenizer().convert_tokens_to_ids("e"), 1]
    sooner = answered(Dataset.from_dict({"prompt": ["abc"]}), network, 60, max_new_tokens=40)
    assert not any("e" in text for text in sooner["teacher_responses"][0])
    whole = ended["teacher_responses"][0]
    expected = [text.partition("e")[0] for text in whole]
    assert sooner["teacher_responses"][0] == expected
