"""Questions to a language model: prompts with a dataset's columns in them, and words that answer for its classes."""

import logging
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import UserError

logger = logging.getLogger(__name__)

PROBE = "a"  # in the place of each column, where a prompt is looked at without a row

ENDS = (".", ",", ":", ";", "?", "!", ")")  # of a prompt, after which a word is written with a space


class Prompts:
    """Prompts, and label words after them, as tokens.

    Args:
        prompts: P texts with names of columns in braces, or messages for the tokenizer's chat template with such.
        label_words: class -> the words that say it, each as it stands after a prompt.
        tokenizer: of transformers.

    ``words`` are, for each prompt, pairs of a class' number and the tokens of one of its words.

    Raises:
        UserError: prompts without a column, classes without a word, a tokenizer without a chat template where there
            are messages, or words that aren't tokens of their own after a prompt, unknown, or the beginning of others.
    """

    def __init__(self, prompts: Any, label_words: Mapping[str, Any], tokenizer: Any):
        self.sources, self.tokenizer = _as_list(prompts), tokenizer
        self.label_words = _checked_words(label_words)
        named = [_columns_in(source, number) for number, source in enumerate(self.sources)]
        self.columns = tuple(dict.fromkeys(name for names in named for name in names))
        if self.in_chats and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "a prompt is messages, and the tokenizer has no chat template that writes them: write it as a text, "
                "or set tokenizer.chat_template"
            )
        self._before = _framing(tokenizer)
        self.words = [self._words_after(number) for number in range(len(self.sources))]

    def __len__(self) -> int:
        return len(self.sources)

    def written(self, number: int, row: Mapping[str, str]) -> str:
        """Write a prompt with the values of a row's columns in it."""
        source = self.sources[number]
        if not _is_chat(source):
            return source.format(**row)
        messages = [{**message, "content": message["content"].format(**row)} for message in source]
        begun = messages[-1]["role"] == "assistant"  # an answer that the label words go on with
        settings = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **settings)
        except Exception as error:  # the template's own, such as of roles that it doesn't know
            raise UserError(
                f"the chat template can't write prompt {number} ({type(error).__name__}: {error}): bring its messages "
                "to the form that the model was trained with"
            ) from error

    def tokens(self, number: int, row: Mapping[str, str]) -> list[int]:
        """Return the tokens of a prompt with the values of a row's columns in it."""
        own = self._tokens(self.written(number, row))
        return own if _is_chat(self.sources[number]) else [*self._before, *own]

    @property
    def in_chats(self) -> bool:
        """Whether the chat template writes one of the prompts."""
        return any(map(_is_chat, self.sources))

    @property
    def longest_answer(self) -> int:
        """The number of tokens that are read after a prompt: all but the last of the longest label word."""
        return max(len(word) - 1 for words in self.words for _, word in words)

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _words_after(self, number: int) -> list[tuple[int, list[int]]]:
        """Return a class' number and the tokens of each label word after a prompt."""
        written = self.written(number, dict.fromkeys(self.columns, PROBE))
        self._check_known(written, f"prompt {number}")
        made: list[tuple[int, str, list[int]]] = []
        for place, (label, words) in enumerate(self.label_words.items()):
            for word in words:
                made.append((place, word, self._word_after(number, written, word)))
                for other, shorter, tokens in made[:-1]:
                    self._check_apart((label, word, made[-1][2]), (list(self.label_words)[other], shorter, tokens))
        return [(place, tokens) for place, _, tokens in made]

    def _word_after(self, number: int, written: str, word: str) -> list[int]:
        own = word.lstrip() if written[-1:].isspace() else word  # the space is there already
        ends = written[-1:].isalnum() or written[-1:] in ENDS
        if ends and _is_letter(own[:1]) and not _is_chat(self.sources[number]):
            logger.warning(
                "the label word %r follows prompt %d without a space, as %r: begin it with one, unless that is meant",
                word,
                number,
                written[-20:] + own,
            )
        before, whole = self._tokens(written), self._tokens(written + own)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise UserError(
                f"the tokenizer joins the label word {word!r} with the end of prompt {number}, {written[-20:]!r}, so "
                "that it has no tokens of its own: let the prompt end without a space and the word begin with one"
            )
        self._check_known(own, f"the label word {word!r}")
        return whole[len(before) :]

    def _check_known(self, text: str, what: str) -> None:
        unknown = getattr(self.tokenizer, "unk_token", None)
        if unknown is None or unknown in text or self.tokenizer.unk_token_id not in self._tokens(text):
            return
        signs = sorted({sign for sign in text if self._tokens(sign) == [self.tokenizer.unk_token_id]})
        which = f" ({', '.join(map(repr, signs))})" if signs else ""
        raise UserError(f"the tokenizer doesn't know all signs of {what}{which}: write it in others")

    @staticmethod
    def _check_apart(one: tuple[str, str, list[int]], other: tuple[str, str, list[int]]) -> None:
        """Raise a UserError if one of two label words is the beginning of the other, or the same."""
        (shorter_label, shorter, begin), (label, longer, tokens) = sorted((other, one), key=lambda each: len(each[2]))
        if tokens[: len(begin)] != begin:
            return
        whose = "it would count twice"
        if label != shorter_label:
            whose = f"{shorter_label} and {label} would count it both"
        raise UserError(
            f"the label word {shorter!r} is, in tokens, the beginning of {longer!r}, so that {whose}: omit one, or "
            "let both end in the same sign, such as a full stop"
        )


def padded(rows: Sequence[Sequence[Sequence[int]]]) -> dict[str, Tensor]:
    """Return the tokens of B rows' P prompts as ``input_ids`` and ``attention_mask`` [B, P, L], padded at the end."""
    lengths = torch.tensor([[len(tokens) for tokens in row] for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([token for row in rows for tokens in row for token in tokens])
    return {"input_ids": ids, "attention_mask": mask.long()}


def _as_list(prompts: Any) -> list[Any]:
    """Return prompts as a list, of a single one too."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    prompts = [prompts] if prompts and isinstance(prompts[0], Mapping) else prompts  # the messages of one
    if not prompts:
        raise UserError("there are no prompts: pass at least one, such as 'Question: {text}\\nType:'")
    return [prompt if isinstance(prompt, str) else _checked_messages(prompt) for prompt in prompts]


def _checked_messages(prompt: Any) -> list[dict[str, str]]:
    messages = list(prompt) if isinstance(prompt, Sequence) else []
    if not messages or not all(isinstance(each, Mapping) and {"role", "content"} <= set(each) for each in messages):
        raise UserError(
            f"a prompt is {prompt!r}, and must be a text or messages, a list of {{'role': ..., 'content': ...}}"
        )
    if not all(isinstance(each["content"], str) for each in messages):
        raise UserError("the content of a prompt's messages must be text")
    return [dict(each) for each in messages]


def _is_chat(prompt: Any) -> bool:
    return not isinstance(prompt, str)


def _is_letter(sign: str) -> bool:
    """Return whether a sign is a letter of a script that puts spaces between words."""
    return sign.isalpha() and sign.lower() != sign.upper()


def _columns_in(prompt: Any, number: int) -> list[str]:
    """Return the names of columns in a prompt."""
    names: list[str] = []
    for text in [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]:
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise UserError(
                f"prompt {number} has a brace that names no column ({error}): write braces of the text twice, "
                "{{ and }}"
            ) from None
        for _, name, form, conversion in parts:
            if name is None:
                continue
            if not name or name.isdecimal() or form or conversion or any(sign in name for sign in ".[]"):
                raise UserError(
                    f"prompt {number} has something else than a column's name in braces: write {{text}}, and braces "
                    "of the text twice, {{ and }}"
                )
            names.append(name)
    if not names:
        raise UserError(
            f"prompt {number} names no column, so that it would be the same for all rows: write {{text}} where the "
            "row's text is to stand"
        )
    return names


def _checked_words(label_words: Any) -> dict[str, list[str]]:
    if not isinstance(label_words, Mapping) or len(label_words) < 2:
        raise UserError(
            "label_words must name the words of two or more classes, such as {'negative': [' bad'], "
            "'positive': [' good', ' great']}"
        )
    words = {str(name): [each] if isinstance(each, str) else list(each) for name, each in label_words.items()}
    for name, own in words.items():
        if not own:
            raise UserError(f"class {name} has no label word: give it at least one")
        if not all(isinstance(word, str) and word.strip() for word in own):
            raise UserError(f"class {name} has a label word without signs: write a word, such as ' good'")
    return words


def _framing(tokenizer: Any) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text."""
    whole, plain = (tokenizer(PROBE, add_special_tokens=special)["input_ids"] for special in (True, False))
    places = (start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
    return whole[: next(places, 0)]
