"""Chats, in the forms that people store them in, as messages, and what the assistant says in them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets

from ..utils.errors import UserError

MESSAGES = "messages"
FORMS = ({"role", "content"}, {"from", "value"})  # of a turn: the chat templates' own, and ShareGPT's
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "system": "system", "tool": "tool",
}  # fmt: skip
ALPACA = ("instruction", "output")
NOT_ALPACA = ("history", "system")  # which other readers of these columns know

Message = Mapping[str, Any]
Write = Callable[..., str]


def chats_in(features: Mapping[str, Any]) -> list[str]:
    """Return the columns of a dataset whose values are lists of turns."""
    return [name for name, feature in features.items() if _is_chat(feature)]


def _is_chat(feature: Any) -> bool:
    turn = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return isinstance(turn, Mapping) and any(form <= set(turn) for form in FORMS)


def with_messages(dataset: datasets.Dataset, columns: tuple[str, ...]) -> datasets.Dataset:
    """Return a dataset whose chats, in one column of any name or in Alpaca's, stand in the column ``messages``."""
    if columns[:2] == ALPACA:
        return dataset.map(_of_alpaca, remove_columns=list(columns), desc="writing messages")
    return dataset.rename_column(columns[0], MESSAGES) if columns != (MESSAGES,) else dataset


def _of_alpaca(row: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return {MESSAGES: [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]}


def as_messages(turns: Sequence[Message]) -> list[Message]:
    """Return turns as a chat template reads them; ValueError if ShareGPT's are of a speaker that isn't known."""
    return [_as_message(turn) if _is_of_sharegpt(turn) else turn for turn in turns]


def _is_of_sharegpt(turn: Any) -> bool:
    return isinstance(turn, Mapping) and "from" in turn and "role" not in turn


def _as_message(turn: Message) -> Message:
    if turn["from"] not in SPEAKERS:
        raise ValueError(f"a turn is from {turn['from']!r}, and those from {', '.join(SPEAKERS)} are read")
    return {"role": SPEAKERS[turn["from"]], "content": turn["value"]}


def answers_in(write: Write, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """Find what the assistant says where the chat template doesn't mark it.

    An answer is what a longer chat has after a shorter one with the template's own beginning of an answer.

    Args:
        write: returns the text of messages, with ``add_generation_prompt=True`` with the beginning of an answer.
        messages: of a chat.

    Returns:
        The text of all messages, and where each answer begins and ends in it.

    Raises:
        UserError: messages that the template writes otherwise when others follow.
    """
    whole, answers = write(messages), []
    for number in (number for number, message in enumerate(messages) if message["role"] == "assistant"):
        before = write(messages[:number], add_generation_prompt=True) if number else None
        after = write(messages[: number + 1])
        if before is None or not (after.startswith(before) and whole.startswith(after)):
            raise UserError(
                "the chat template neither marks what the assistant says ({% generation %}) nor writes a chat's "
                "beginning as it does alone, so that nobody can tell answers from the rest: pass "
                "hf_bkd.tokenized(dataset, tokenizer, taught='all'), or put {% generation %} and {% endgeneration %} "
                "around what the assistant says in tokenizer.chat_template, or each chat's last message into a column "
                "completion, and those before it into prompt"
            )
        answers.append((len(before), len(after)))
    return whole, answers


def said(offsets: Sequence[tuple[int, int]], answers: Sequence[tuple[int, int]]) -> list[bool]:
    """Return of each token, from the places of its text, whether it is of an answer."""
    return [any(start < end and stop > begin for begin, end in answers) for start, stop in offsets]
