"""Texts, prompts and messages as tokens, and which of them are taught."""

import json

import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_bkd import LaplaceTeacher
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.language import tokenized
from hf_bkd.utils.errors import UserError

from .language_helpers import CHATS, TEMPLATE, llama, texts, tokenizer

UNMARKED = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def taught(row: dict) -> str:
    return tokenizer().decode([token for token in row["labels"] if token != -100])


def written(row: dict) -> str:
    return tokenizer().decode(row["input_ids"])


def test_texts_end_in_the_end_token_and_are_taught_from_their_second_token_on():
    row = tokenized(Dataset.from_dict({"text": ["abc"]}), tokenizer())[0]
    assert row == {"input_ids": [66, 67, 68, 1], "labels": [-100, 67, 68, 1]}


def test_a_completion_is_taught_and_its_prompt_is_not():
    rows = Dataset.from_dict({"prompt": ["ab", "c"], "completion": ["de", "fg"]})
    assert [taught(row) for row in tokenized(rows, tokenizer())] == ["de#", "fg#"]
    assert [taught(row) for row in tokenized(rows, tokenizer(), taught="all")] == ["bde#", "fg#"]


def test_what_the_assistant_says_is_taught_in_each_of_its_turns():
    rows = Dataset.from_dict({"messages": CHATS})
    assert [taught(row) for row in tokenized(rows, tokenizer())] == ["hello#", "yes#bye bye#"]
    assert written(tokenized(rows, tokenizer())[0]) == "<u>hi there<a>hello#"
    assert taught(tokenized(rows, tokenizer(), taught="all")[0]) == "u>hi there<a>hello#"


def test_a_conversational_prompt_ends_where_the_assistant_begins():
    rows = Dataset.from_dict({"prompt": [CHATS[0][:1]], "completion": [CHATS[0][1:]]})
    assert taught(tokenized(rows, tokenizer())[0]) == "hello#"


def test_each_split_is_tokenized_and_longer_rows_lose_their_end_aloud(caplog):
    splits = tokenized(DatasetDict(train=texts(3), test=texts(2)), tokenizer(), max_length=5)
    assert [len(row) for row in splits["train"]["input_ids"]] == [5, 5, 5]
    assert splits["test"].column_names == ["input_ids", "labels"]
    assert "lose their end" in caplog.text


def test_a_template_that_marks_nothing_is_asked_what_the_assistant_says():
    rows = Dataset.from_dict({"messages": CHATS})
    own = tokenizer(UNMARKED)
    assert tokenized(rows, own)[:] == tokenized(rows, tokenizer())[:]
    assert [taught(row) for row in tokenized(rows, own)] == ["hello#", "yes#bye bye#"]
    assert taught(tokenized(rows, own, taught="all")[0]) == "u>hi there<a>hello#"
    with pytest.raises(UserError, match="no chat template"):
        tokenized(rows, tokenizer(None))


@pytest.mark.parametrize(
    "template",
    [
        "{{ '<' ~ messages | length ~ '>' }}" + UNMARKED,
        UNMARKED.replace("+ '#'", "+ ('#' if loop.last else '')"),  # as those that drop earlier thoughts
    ],
)
def test_an_answer_that_is_written_otherwise_when_others_follow_is_not_guessed(template):
    rows, own = Dataset.from_dict({"messages": CHATS[1:]}), tokenizer(template)
    with pytest.raises(UserError, match="neither marks what the assistant says"):
        tokenized(rows, own)
    assert tokenized(rows, own, taught="all").num_rows == 1


def test_a_chat_that_the_assistant_begins_is_not_guessed():
    rows = Dataset.from_dict({"messages": [CHATS[0][1:]]})
    with pytest.raises(UserError, match="neither marks what the assistant says"):
        tokenized(rows, tokenizer(UNMARKED))
    assert taught(tokenized(rows, tokenizer())[0]) == "hello#"


def test_chats_of_other_forms_are_messages():
    turns = [
        [{"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]} for each in chat]
        for chat in CHATS
    ]
    rows = tokenized(Dataset.from_dict({"source": ["a", "b"], "conversations": turns}), tokenizer())
    assert rows[:] == tokenized(Dataset.from_dict({"messages": CHATS}), tokenizer())[:]
    named = Dataset.from_dict({"id": ["a", "b"], "conversation": CHATS})
    assert tokenized(named, tokenizer())[:] == rows[:]
    alpaca = {"instruction": ["add", "say hi"], "input": ["1 2", ""], "output": ["3", "hi"], "topic": ["a", "b"]}
    rows = tokenized(Dataset.from_dict(alpaca), tokenizer())
    assert [written(row) for row in rows] == ["<u>add\n\n1 2<a>3#".replace("\n", "<pad>"), "<u>say hi<a>hi#"]
    assert [taught(row) for row in rows] == ["3#", "hi#"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"conversations": [[{"from": "bystander", "value": "hi"}]]}, "a turn is from 'bystander'"),
        ({"prompt": ["x"], "chosen": CHATS[:1], "rejected": CHATS[1:]}, "has the columns prompt, chosen, rejected"),
        ({"instruction": ["x"], "output": ["y"], "history": [["z"]]}, "has the columns instruction, output, history"),
        ({"a": ["x"], "b": ["y"]}, "has the columns a, b"),
        ({"text": ["x", None]}, "row 1 of column text holds no value"),
        ({"prompt": ["x"], "completion": [[{"role": "assistant", "content": "y"}]]}, "is a text and the other"),
    ],
)
def test_rows_that_say_nothing_to_a_language_model_are_refused(columns, message):
    with pytest.raises(UserError, match=message):
        tokenized(Dataset.from_dict(columns), tokenizer())


def test_tools_are_written_without_what_arrow_adds_to_them():
    template = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}" + TEMPLATE
    tools = [{"name": "f", "of": {"city": "a"}}, {"name": "g", "of": {"hour": "b"}}]
    tools = [[{"type": "function", "function": tool}] for tool in tools]
    chats = CHATS[:1] * 2
    written = [
        tokenizer(template).decode(
            tokenized(Dataset.from_dict({"messages": chats, "tools": each}), tokenizer(template))[0]["input_ids"]
        )
        for each in (tools, [json.dumps(each) for each in tools])
    ]
    assert written[0] == written[1]
    assert '"city": "a"' in written[0] and "null" not in written[0] and "hour" not in written[0]


def test_what_the_assistant_says_is_found_by_the_template_for_tools():
    own = tokenizer({"default": TEMPLATE, "tool_use": UNMARKED.replace("'#'", "'##'")})
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert taught(tokenized(Dataset.from_dict({"messages": CHATS[:1], "tools": [tools]}), own)[0]) == "hello##"
    assert taught(tokenized(Dataset.from_dict({"messages": CHATS[:1]}), own)[0]) == "hello#"


def test_a_prompt_that_is_written_otherwise_before_its_completion_is_refused():
    own = tokenizer("{{ '<' ~ messages | length ~ '>' }}" + TEMPLATE)
    rows = {"prompt": [CHATS[0][:1]], "completion": [CHATS[0][1:]]}
    with pytest.raises(UserError, match="otherwise when a completion follows"):
        tokenized(Dataset.from_dict(rows), own)
    assert tokenized(Dataset.from_dict(rows), own, taught="all").num_rows == 1


def test_a_row_that_the_template_can_not_write_is_named():
    rows = [CHATS[0], [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]]
    with pytest.raises(UserError, match="can't write row 1 .UndefinedError"):
        tokenized(Dataset.from_dict({"messages": rows}), tokenizer())


def test_completions_without_a_prompt_are_refused():
    with pytest.raises(UserError, match="needs a prompt"):
        tokenized(texts(), tokenizer(), taught="completions")


def test_rows_are_padded_at_their_end_and_packed_ones_are_kept_apart():
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9]]})
    inputs = preprocessor_for(llama(), rows)(rows[:])
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]
    packed = Dataset.from_dict({"input_ids": [[5, 6, 7, 8], [9, 10]], "seq_lengths": [[2, 2], [2]]})
    inputs = preprocessor_for(llama(), packed)(packed[:])
    assert "attention_mask" not in inputs
    assert inputs["position_ids"].tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    assert inputs["labels"].tolist() == [[-100, 6, -100, 8], [-100, 10, -100, -100]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input_ids": [[1] * 65]}, "row 0 has 65 tokens, and LlamaForCausalLM 64 positions"),
        ({"input_ids": [[1, 97]]}, "holds the token 97, and LlamaForCausalLM knows the tokens 0 to 96"),
        ({"text": ["abc"]}, "has no such column, only text"),
        ({"input_ids": [[1] * 66], "seq_lengths": [[65, 1]]}, "a text of a packed row has 65 tokens"),
    ],
)
def test_tokens_that_the_network_can_not_read_are_refused(columns, message):
    with pytest.raises(UserError, match=message):
        preprocessor_for(llama(), Dataset.from_dict(columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input_ids": [[5, 6, 7]], "labels": [[6, 7, 8]]}, "are shifted later"),
        ({"input_ids": [[5, 6, 7]], "completion_mask": [[0, 0, 1]]}, "all of their tokens would be taught"),
    ],
)
def test_labels_that_would_teach_something_else_are_refused(columns, message):
    rows = Dataset.from_dict(columns)
    with pytest.raises(UserError, match=message):
        preprocessor_for(llama(), rows)(rows[:])


def test_a_language_model_is_not_fitted_as_a_classifier():
    rows = tokenized(texts(), tokenizer())
    with pytest.raises(UserError, match="predicts next tokens"):
        LaplaceTeacher.fit(llama(), rows, rows, processing_class=tokenizer())
    batch = {"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[5, 6]])}
    with pytest.raises(UserError, match="predicts next tokens"):
        LaplaceTeacher.fit(llama(), [batch], [batch])


def test_columns_that_were_cut_alone_are_refused():
    rows = Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[5, 6, 7]]})
    with pytest.raises(UserError, match="cut all columns of a row alike"):
        preprocessor_for(llama(), rows)(rows[:])
