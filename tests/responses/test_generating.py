"""k answers to each prompt: columns and record, what is asked, going on, and draws of a teacher's weights."""

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import GPT2Config, GPT2LMHeadModel

from hf_bkd import (
    DeterministicTeacher,
    EnsembleTeacher,
    MCDropoutTeacher,
    UserError,
    VariationalTeacher,
    generate_responses,
)
from hf_bkd.responses import read_responses_record, speaking
from hf_bkd.responses.generating import shared_out
from hf_bkd.responses.weights import weight_draws
from hf_bkd.soft_labels.shards import Shards
from tests.language.language_helpers import CHATS, TEXTS, V, llama, tokenizer

from .response_helpers import answered, prompts


def gpt2(**settings) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    rates = {"embd_pdrop": 0.5, "resid_pdrop": 0.5, "attn_pdrop": 0.5}
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": V, "eos_token_id": 1}
    network = GPT2LMHeadModel(
        GPT2Config(**sizes | rates | {"bos_token_id": None, "tie_word_embeddings": False} | settings)
    ).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(20)
    return network


def test_columns_and_record(tmp_path):
    rows = prompts().add_column("label", [0, 1, 2, 3, 4])
    made = answered(rows, llama(), 3, temperature=0.8, top_k=30, seed=4)
    made.save_to_disk(tmp_path / "made")
    made = load_from_disk(tmp_path / "made")
    assert made["label"][:] == [0, 1, 2, 3, 4]
    assert [len(row) for row in made["teacher_responses"]] == [3] * 5
    assert made["teacher_response_draws"][:] == [[0, 0, 0]] * 5
    record = read_responses_record(made)
    assert (record.k, record.num_samples, record.seed, record.temperature, record.top_k) == (3, 1, 4, 0.8, 30)
    assert (record.top_p, record.repetition_penalty, record.max_new_tokens, record.rows) == (1.0, 1.0, 6, 5)
    assert record.teacher.method == "deterministic" and record.teacher.weights and record.tokenizer
    assert record.cut_off == sum(map(sum, made["teacher_responses_cut"]))
    again = answered(made, llama(1), 2)  # in the place of the others
    assert read_responses_record(again).k == 2 and again.column_names == made.column_names


def test_prompts_are_texts_messages_questions_or_filled_in():
    network, questions = llama(), [text + "?" for text in TEXTS[:3]]

    def asked(columns: dict, **settings):
        made = answered(Dataset.from_dict(columns), network, **settings)
        return made["prompt"][:], made["teacher_responses"][:]

    messages = [[{"role": "user", "content": each}] for each in questions]
    texts, of_messages = asked({"prompt": messages})[1], asked({"prompt": [f"<u>{q}<a>" for q in questions]})[1]
    assert texts == of_messages
    answers = [[*each, {"role": "assistant", "content": "no"}] for each in messages]
    assert asked({"messages": answers}) == (messages, texts)
    assert asked({"question": questions, "answer": ["x"] * 3}) == (messages, texts)
    plain = [f"Question: {each}\nAnswer:" for each in questions]
    own = tokenizer(None)
    assert asked({"question": questions}, processing_class=own)[0] == plain
    filled = asked({"question": questions, "n": [1, 2, 3]}, template="{n}) {question}")
    assert filled[0] == [f"{n}) {each}" for n, each in enumerate(questions, 1)]


def test_earlier_answers_of_the_assistant_are_part_of_the_prompt():
    made = answered(Dataset.from_dict({"messages": CHATS}), llama())
    assert made["prompt"][1] == CHATS[1][:3]


def test_an_interrupted_call_goes_on_and_makes_the_same_bytes(tmp_path, monkeypatch):
    small = {"shard_rows": 2, "batch_size": 2}
    whole = answered(prompts(), llama(), folder=tmp_path / "whole", **small)
    write, written = Shards.write, []

    def killed(self, name, table):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, table)

    monkeypatch.setattr(Shards, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        answered(prompts(), llama(), folder=tmp_path / "part", **small)
    monkeypatch.undo()
    calls = []
    sampled = speaking.sampled_answers
    monkeypatch.setattr(speaking, "sampled_answers", lambda *args: calls.append(args) or sampled(*args))
    resumed = answered(prompts(), llama(), folder=tmp_path / "part", shard_rows=2, batch_size=9)
    assert len(calls) == 1  # the last shard alone
    assert resumed.to_dict() == whole.to_dict() and resumed.features == whole.features
    for one, other in zip(*(sorted((tmp_path / name).glob("*.arrow")) for name in ("whole", "part")), strict=True):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()
    for other, message in (({"temperature": 0.5}, r"temperature \(1.0 there, 0.5 here\)"), ({"seed": 1}, "seed")):
        with pytest.raises(UserError, match=f"another {message}"):
            answered(prompts(), llama(), folder=tmp_path / "part", **small | other)
    with pytest.raises(UserError, match="another method|another weights"):
        answered(prompts(), llama(1), folder=tmp_path / "part", **small)
    with pytest.raises(UserError, match="another prompts"):
        answered(prompts().select([1, 0, 2, 3, 4]), llama(), folder=tmp_path / "part", **small)


def test_each_member_of_an_ensemble_answers_as_it_does_alone():
    members = [llama(seed) for seed in range(3)]
    ensemble = EnsembleTeacher([DeterministicTeacher(each) for each in members])
    made = answered(prompts(), ensemble, 6)
    alone = [answered(prompts(), each, 6)["teacher_responses"][:] for each in members]
    for row, (texts, draws) in enumerate(zip(made["teacher_responses"], made["teacher_response_draws"], strict=True)):
        assert sorted(draws) == [0, 0, 1, 1, 2, 2]
        assert texts == [alone[draw][row][number] for number, draw in enumerate(draws)]
    assert read_responses_record(made).num_samples == 3
    one = answered(prompts(), ensemble, 1)
    assert one["teacher_responses"][:] == [row[:1] for row in made["teacher_responses"]]


def test_a_single_answer_comes_from_any_draw():
    draws = shared_out(torch.arange(3000), 1, 3, 0)[:, 0]
    assert [abs(int((draws == number).sum()) - 1000) < 120 for number in range(3)] == [True] * 3


def test_temperatures_of_teacher_and_sampling_multiply():
    warm = DeterministicTeacher(llama(), temperature=2.0)
    expected = answered(prompts(), llama(), temperature=3.0)["teacher_responses"][:]
    assert answered(prompts(), warm, temperature=1.5)["teacher_responses"][:] == expected


def test_draws_of_dropout_omit_the_same_units_at_all_tokens():
    network = gpt2()
    teacher = MCDropoutTeacher(network)
    made = answered(prompts(), teacher, 8, top_k=1)
    assert read_responses_record(made).num_samples == 4
    for texts, draws in zip(made["teacher_responses"], made["teacher_response_draws"], strict=True):
        assert sorted(draws) == sorted([0, 1, 2, 3] * 2)
        of_draw = {draw: {text for text, own in zip(texts, draws, strict=True) if own == draw} for draw in draws}
        assert all(len(each) == 1 for each in of_draw.values())
        assert len(set(texts)) > 1
    assert answered(prompts(), teacher, 8, top_k=1, batch_size=3).to_dict() == made.to_dict()
    assert read_responses_record(answered(prompts(), teacher, 3)).num_samples == 3
    assert read_responses_record(answered(prompts(), teacher, 4, num_samples=4)).num_samples == 4
    logits = []
    for draw in weight_draws(teacher, 200, 1, 0):
        with draw.drawn(), torch.no_grad():
            states = network.transformer.h[0].attn(torch.ones(1, 3, 16))[0]
            assert ((states == 0).sum(dim=1) % 3 == 0).all()  # a unit is there at all tokens, or at none
            logits.append(states)
    with torch.no_grad():
        expected = network.transformer.h[0].attn(torch.ones(1, 3, 16))[0]
    mean, error = torch.stack(logits).mean(dim=0), torch.stack(logits).std(dim=0) / 200**0.5
    assert ((mean - expected).abs() <= 5 * error).all()


def test_a_character_that_is_cut_in_two_is_left_out():
    network, own = llama(), tokenizer()
    written = own.decode

    def halved(tokens, **settings):  # as if each of these words were the first of a character's bytes
        return "".join("\ufffd" if word.isdigit() else word for word in written(tokens, **settings))

    whole = answered(prompts(), network, 40, max_new_tokens=2, processing_class=own)
    own.decode = halved
    made = answered(prompts(), network, 40, max_new_tokens=2, processing_class=own)
    ends = [
        (text[-1:].isdigit(), cut, other)
        for texts, cuts, others in zip(
            whole["teacher_responses"], whole["teacher_responses_cut"], made["teacher_responses"], strict=True
        )
        for text, cut, other in zip(texts, cuts, others, strict=True)
    ]
    assert any(is_half and cut for is_half, cut, _ in ends)
    assert all(other.endswith("\ufffd") == (is_half and not cut) for is_half, cut, other in ends)


def test_counts_may_be_those_of_numpy():
    given = {"top_k": np.int32(9), "seed": np.int64(3), "batch_size": np.int64(2), "temperature": np.float32(0.5)}
    made = answered(prompts(), llama(), np.int64(2), **given)
    assert made.to_dict() == answered(prompts(), llama(), 2.0, top_k=9.0, seed=3, temperature=0.5).to_dict()


def test_a_template_reads_the_columns_that_it_names_alone():
    rows = Dataset.from_dict({"ab": ["x", "y"], "a": [None, "z"], "c": [["p", "q"], ["r", "s"]]})
    assert answered(rows, llama(), 1, template="{ab}{c[1]}?")["prompt"][:] == ["xq?", "ys?"]


def test_prompts_may_fill_all_positions_but_those_of_the_answer():
    assert answered(prompts(), gpt2(n_positions=28)).num_rows == 5  # 22 tokens and 6
    with pytest.raises(UserError, match="the prompt of row 1 has 22 tokens, which with max_new_tokens=6 .* the 27"):
        answered(prompts(), gpt2(n_positions=27))


def test_answers_that_are_cut_off_or_empty_are_counted_and_said(caplog):
    with caplog.at_level(logging.WARNING, logger="hf_bkd.responses"):
        made = answered(prompts(), llama(), 4, max_new_tokens=3)
    cut = read_responses_record(made).cut_off
    assert cut == sum(map(sum, made["teacher_responses_cut"])) > 0
    assert f"{cut} of 20 answers have more than max_new_tokens=3 tokens" in caplog.text


def test_a_sentencepiece_like_first_space_is_kept():
    network, own = llama(), tokenizer()
    network.lm_head.weight.data[own.convert_tokens_to_ids(" ")] *= 3
    written = own.decode

    def stripped(tokens, **settings):
        return written(tokens, **settings).lstrip()

    own.decode = stripped
    expected = answered(prompts(), network, 40, max_new_tokens=2)["teacher_responses"][:]
    assert any(text.startswith(" ") for row in expected for text in row)
    assert answered(prompts(), network, 40, max_new_tokens=2, processing_class=own)["teacher_responses"][:] == expected


def test_a_saved_teacher_is_found_by_its_folder(tmp_path):
    teacher = DeterministicTeacher(llama())
    teacher.processing_class = tokenizer()
    teacher.save_pretrained(tmp_path / "teacher")
    llama().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    for name in ("teacher", "model"):
        made = generate_responses(prompts(), tmp_path / name, 2, max_new_tokens=6, progress=False)
        assert made["teacher_responses"][:] == answered(prompts(), llama(), 2)["teacher_responses"][:]
        assert read_responses_record(made).teacher.source


def test_draws_of_a_gaussian_answer_as_networks_with_those_weights_do():
    network = llama()
    means = {name: value.clone() for name, value in network.state_dict().items()}
    teacher = VariationalTeacher(network, {"lm_head.weight": torch.full_like(network.lm_head.weight, 0.3)})
    made = answered(prompts(), teacher, 4)
    assert all(sorted(draws) == [0, 0, 1, 1] for draws in made["teacher_response_draws"])
    assert all(torch.equal(value, means[name]) for name, value in network.state_dict().items())
    alone = []
    for draw in weight_draws(teacher, None, 4, 0):
        with draw.drawn():
            other = llama()
            other.load_state_dict(network.state_dict())
        alone.append(answered(prompts(), other, 4)["teacher_responses"][:])
    for row, (texts, draws) in enumerate(zip(made["teacher_responses"], made["teacher_response_draws"], strict=True)):
        assert texts == [alone[draw][row][number] for number, draw in enumerate(draws)]
    assert alone[0] != alone[1]


def test_adapters_answer_and_not_their_base():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    network = peft.get_peft_model(llama(), config).eval()
    made = answered(prompts(), network)["teacher_responses"][:]
    assert made == answered(prompts(), DeterministicTeacher(network), batch_size=2)["teacher_responses"][:]
    assert made != answered(prompts(), llama())["teacher_responses"][:]
    assert made == answered(prompts(), network.merge_and_unload())["teacher_responses"][:]
