"""Prompts, teachers and numbers that are refused in a sentence, before anything is sampled."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertLMHeadModel,
    GenerationConfig,
)

from hf_bkd import DeterministicTeacher, EnsembleTeacher, MCDropoutTeacher, UserError
from tests.language.language_helpers import WORDS, llama, tokenizer

from .response_helpers import answered, prompts


def without_end():
    network = llama()
    network.generation_config = None
    return network


def ending_in_a_word():
    network = llama()
    network.generation_config.eos_token_id = 40
    return network


def ending_at_once():
    network = llama()
    network.lm_head = nn.Linear(32, 97)
    with torch.no_grad():
        network.lm_head.weight.zero_()
        network.lm_head.bias.copy_(torch.where(torch.arange(97) == 1, 100.0, 0.0))
    return network


def seeing_what_comes_after():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = BertLMHeadModel(BertConfig(vocab_size=97, **sizes)).eval()
    network.generation_config = GenerationConfig(eos_token_id=1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10)
    return network


def diverged():
    network = llama()
    with torch.no_grad():
        network.lm_head.weight.fill_(torch.nan)
    return network


def classifier():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=97, **sizes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be a whole number of at least 1, and it is 0"),
        ({"k": 1.5}, "k must be a whole number of at least 1, and it is 1.5"),
        ({"temperature": 0}, "temperature must be above 0 and finite, and it is 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        (
            {"max_new_tokens": 60},
            r"the prompt of row 0 has 11 tokens, which with max_new_tokens=60 are more than the 64",
        ),
        ({"processing_class": None}, "nothing says how texts become the tokens of LlamaForCausalLM"),
        (
            {"processing_class": tokenizer(words=[*WORDS, "~~", "~~~"])},
            "numbered up to 97, and LlamaForCausalLM knows 97",
        ),
        ({"seed": 1.5}, "seed must be a whole number of at least 0, and it is 1.5"),
        ({"k": True}, "k must be a whole number of at least 1, and it is True"),
        ({"template": "{prompt}"}, "the dataset has one: omit template"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(UserError, match=message):
        answered(prompts(), llama(), **{"k": 2} | settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_end, "LlamaForCausalLM has no generation_config that says which token ends an answer: set "),
        (ending_in_a_word, "ends answers at token 40, which is the word 'G' of the tokenizer, whose texts end in '#'"),
        (ending_at_once, "all answers are empty, the teacher ends them at once"),
        (diverged, "the teacher's logits are no finite numbers"),
        (seeing_what_comes_after, "BertLMHeadModel sees what comes after a token"),
        (classifier, "BertForSequenceClassification answers no prompts"),
        (lambda: "a folder", "a folder"),
        (lambda: 3, "int answers no prompts"),
        (lambda: MCDropoutTeacher(llama()), "has no dropout modules with a rate above 0"),
        (
            lambda: EnsembleTeacher([DeterministicTeacher(llama(each)) for each in range(2)], temperature=2.0),
            "the teacher's temperature 2 is that of the average of its draws",
        ),
    ],
)
def test_teachers(make, message):
    with pytest.raises(UserError, match=message):
        answered(prompts(), make())


def test_the_advice_on_a_models_end_works():
    network = without_end()
    network.generation_config = GenerationConfig(eos_token_id=tokenizer().eos_token_id)
    assert answered(prompts(), network)["teacher_responses"][:] == answered(prompts(), llama())["teacher_responses"][:]


def test_another_tokenizer_than_the_models_own(tmp_path):
    llama().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path)
    other = tokenizer(words=[*WORDS[:2], *WORDS[:1:-1]])
    with pytest.raises(UserError, match="is another than the one that was saved with LlamaForCausalLM"):
        answered(prompts(), network, processing_class=other)
    assert answered(prompts(), network, processing_class=None)["prompt"][:] == prompts()["prompt"][:]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"prompt": ["abc", ""]}, {}, "row 1 has an empty prompt"),
        ({"prompt": ["abc", " \n"]}, {}, "row 1 has an empty prompt"),
        ({"prompt": ["abc", None]}, {}, "row 1 has an empty prompt"),
        ({"question": ["abc", None]}, {}, "row 1 has an empty prompt"),
        ({"question": ["abc", None]}, {"template": "Q: {question}"}, "row 1 of column question holds no value"),
        ({"prompt": [[{"role": "user", "content": "a"}], []]}, {}, "row 1 has an empty prompt"),
        ({"messages": [[{"role": "assistant", "content": "a"}]]}, {}, "the messages of row 0 ask nothing"),
        ({"messages": ["[{}]"]}, {}, r"row 0 of column messages holds '\[\{\}\]', and what is asked is a text"),
        ({"messages": [[{"from": "human", "value": "a"}]]}, {}, "row 0 of column messages holds .* with 'role'"),
        ({"prompt": [1]}, {}, "row 0 of column prompt holds 1, and what is asked is a text"),
        ({"prompt": [["a"]]}, {}, r"row 0 of column prompt holds \['a'\]"),
        ({"prompt": [[{"role": "user", "content": [{"type": "text", "text": "ab"}]}]]}, {}, "is a list of parts"),
        ({"question": [["a"]]}, {}, "row 0 of column question holds .* which is no text"),
        ({"question": ["a"]}, {"template": "Hello"}, "'Hello' names no column, so that all prompts are the same"),
        ({"n": [["a", "b"]]}, {"template": "{n}"}, r"the template names \{n\}, which is a list in row 0"),
        ({"n": ["a"]}, {"template": "{n:d}"}, "can't be filled in with the columns n .Unknown format code"),
        ({"n": [None, "a"]}, {"template": "{n:>3}"}, "row 0 of column n holds no value"),
        ({"a": ["b"]}, {"template": "{a"}, "can't be filled in with the columns a .expected '}'"),
        ({"text": ["abc"]}, {}, "a column 'prompt', 'messages' or 'question', and the dataset has the columns text"),
        ({"text": ["abc"]}, {"template": "{texts}"}, r"'\{texts\}' can't be filled in with the columns text"),
        ({"prompt": []}, {}, "the dataset to answer is empty"),
        ({"prompt": ["a"], "teacher_responses": ["b"]}, {}, "has a column teacher_responses of its own"),
    ],
)
def test_prompts(columns, settings, message):
    with pytest.raises(UserError, match=message):
        answered(Dataset.from_dict(columns), llama(), **settings)


def test_messages_without_a_chat_template_and_streams():
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": "a"}]]})
    with pytest.raises(UserError, match="the tokenizer has no chat template that writes them"):
        answered(rows, llama(), processing_class=tokenizer(None))
    for whole in (prompts().to_iterable_dataset(), DatasetDict(train=prompts())):
        with pytest.raises(UserError, match="load it without streaming, and pass one split"):
            answered(whole, llama())
