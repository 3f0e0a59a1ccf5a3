"""Advice about sampled answers, and about what prompts and encoders are made of."""

import pytest
import transformers
from datasets import Dataset
from transformers import GenerationConfig, T5Config, T5EncoderModel, T5Model

from hf_bkd import (
    DeterministicTeacher,
    EnsembleTeacher,
    MultiTeacher,
    PromptedTeacher,
    aggregate_responses,
    sentence_encoder,
)
from tests.language.language_helpers import V, llama, tokenizer
from tests.language.prompted_helpers import PROMPTS, WORDS, answers, prompted
from tests.responses.response_helpers import answered, bert, by_hand, prompts

from .following import advises, code, follow, refused

TEXTS = ["how many", "and who"]


@advises("answers are sampled to a column")
def test_any_column_is_asked_by_a_template():
    rows = Dataset.from_dict({"title": TEXTS})
    message = refused(lambda: answered(rows, llama()))
    settings = follow(f"dict({code(message, r'or pass (template=.+)$')})")
    asked = settings["template"].replace("column", "title")
    assert answered(rows, llama(), template=asked)["prompt"][:] == [asked.replace("{title}", text) for text in TEXTS]
    assert answered(rows.rename_column("title", "prompt"), llama())["prompt"][:] == TEXTS


@advises("the template's texts go into a column prompt")
def test_a_prompt_of_the_users_own_gets_another_name():
    rows, template = Dataset.from_dict({"prompt": TEXTS}), {"template": "{own_prompt}?"}
    message = refused(lambda: answered(rows, llama(), **template))
    renamed = follow(code(message, r"or pass (.+)$"), dataset=rows)
    assert answered(renamed, llama(), **template)["prompt"][:] == [f"{text}?" for text in TEXTS]
    assert answered(rows, llama())["prompt"][:] == TEXTS


@advises("a name that sampled answers need")
def test_answers_of_the_users_own_get_another_name():
    rows = prompts().add_column("teacher_responses", ["mine"] * 5)
    message = refused(lambda: answered(rows, llama()))
    made = answered(follow(code(message, r"pass (.+)$"), dataset=rows), llama())
    assert made["own_teacher_responses"][:] == ["mine"] * 5


@advises("sample answers with generate_responses")
def test_answers_are_sampled_before_they_are_chosen(tmp_path):
    rows = prompts()
    message = refused(lambda: aggregate_responses(rows, "all"))
    llama(max_position_embeddings=128).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    made = follow(code(message, r"with (.+)$"), dataset=rows, teacher=tmp_path, k=1)
    assert len(aggregate_responses(made, "all")) == len(rows)


@advises("has no generation_config that says which token", "generation_config ends answers at token")
@pytest.mark.parametrize("before", [None, GenerationConfig(), GenerationConfig(eos_token_id=40)])
def test_a_model_says_which_token_ends_an_answer(before):
    refused(lambda: answered(prompts(), without(llama(), None)))
    refused(lambda: answered(prompts(), without(llama(), GenerationConfig(eos_token_id=40))))
    network, own = without(llama(), before), tokenizer()
    message = refused(lambda: answered(prompts(), network))
    follow(code(message, r"set (model\..+)$"), **named(network, own))
    assert answered(prompts(), network).to_dict() == answered(prompts(), llama()).to_dict()


def without(network, config):
    network.generation_config = config
    return network


def named(network, own) -> dict:
    return {"model": network, "tokenizer": own, "transformers": transformers}


@advises("nothing says how prompts become the tokens")
def test_a_prompted_model_is_given_its_tokenizer():
    settings = {"prompts": PROMPTS, "label_words": WORDS}
    message = refused(lambda: PromptedTeacher(llama(), **settings))
    assert "pass tokenizer=, " in message
    made = PromptedTeacher(llama(), tokenizer=tokenizer(), **settings)
    assert answers(made).mean.equal(answers(prompted()).mean)


@advises("count differently from token to token")
def test_members_of_a_prompted_teacher_count_equally():
    members = {f"member_{seed}": DeterministicTeacher(llama(seed)) for seed in range(2)}
    message = refused(lambda: answers(prompted(MultiTeacher(members, weights="entropy"))))
    settings = follow(f"dict({code(message, r'or (weights=.+)$')})")
    expected = answers(prompted(EnsembleTeacher(list(members.values())))).mean
    assert answers(prompted(MultiTeacher(members, **settings))).mean.allclose(expected, atol=1e-6)


@advises("and has to be a function from texts to embeddings", "has a decoder too")
def test_an_encoder_is_made_of_a_model_and_its_tokenizer():
    made, own = by_hand([["a", "b", "c"]]), tokenizer()
    message = refused(lambda: aggregate_responses(made, "mean", bert()))
    encoder = follow(code(message, r"pass (.+)$"), model=bert(), tokenizer=own)
    assert len(aggregate_responses(made, "mean", encoder)) == 1
    network = T5Model(T5Config(vocab_size=V, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8))
    message = refused(lambda: sentence_encoder(network, own))
    encoder = sentence_encoder(follow(code(message, r"pass (.+)$"), model=network), own)
    alone = T5EncoderModel(network.config)
    alone.encoder.load_state_dict(network.encoder.state_dict())
    assert encoder(TEXTS).allclose(sentence_encoder(alone, own)(TEXTS), atol=1e-6)
