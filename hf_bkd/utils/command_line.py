"""Command lines, and the YAML files of ``--config`` that they can be continued in."""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NoReturn

import transformers
import yaml
from transformers.hf_argparser import string_to_bool

from .errors import UserError

CONFIG_HELP = "YAML file of further arguments; the command line wins over it."
NULL, BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
TRUE = ("yes", "true", "on")  # as YAML spells it, in any case


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are a :class:`UserError`, and which reads ``--config FILE``."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a sentence."""
        raise UserError(f"{message} (--help lists all arguments)")

    def read(self, argv: list[str]) -> argparse.Namespace:
        """Return the arguments, as :func:`read_arguments` does."""
        read_arguments(self, argv)
        return checked(self, self.parse_args(argv))


class _DataclassParser(transformers.HfArgumentParser):
    error = Parser.error


def parse_dataclasses(kinds: tuple[type, ...], defaults: dict[str, Any], argv: list[str], **about: str) -> tuple:
    """Read the command line, which wins over ``--config file.yaml``, which wins over the defaults.

    Args:
        kinds: dataclasses whose fields are the arguments; ``COMMA_LISTS`` of one names those that hold several values
            with commas between them, for which YAML may have a list.
        defaults: values by name.
        argv: the command line's words.
        about: what the parser's ``--help`` says, such as its ``prog`` and ``description``.

    Returns:
        One object of each kind.

    Raises:
        UserError: an unknown argument, a value of the wrong kind, or a file that can't be read.
    """
    parser = _DataclassParser(kinds, allow_abbrev=False, **about)
    required = {field.name for kind in kinds for field in dataclasses.fields(kind) if field.default != ""}
    parser.set_defaults(**defaults)
    commas = {name for kind in kinds for name in getattr(kind, "COMMA_LISTS", ())}
    read_arguments(parser, argv, commas)
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    checked(parser, values, required)
    try:
        parsed = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:  # transformers' own checks
        raise UserError((str(error).splitlines() or [type(error).__name__])[0]) from error
    return tuple(parsed[: len(kinds)])


def read_arguments(parser: argparse.ArgumentParser, argv: list[str], commas: set[str] = frozenset()) -> None:
    """Add ``--config`` to a parser, and make what its files say the parser's defaults; the last file wins.

    Args:
        parser: of the command.
        argv: its words, in which the argument has any spelling that the parser accepts.
        commas: arguments for which a list of YAML is joined by commas.

    Raises:
        UserError: a file that can't be read, or says what no argument can be.
    """
    files: list[str] = []

    class Remembered(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
            files.append(values)

    parser.add_argument("--config", action=Remembered, default=argparse.SUPPRESS, metavar="FILE", help=CONFIG_HELP)
    try:
        parser.parse_known_args(argv)
    except UserError:
        if not files:  # else the files may have what is missing
            raise
    known = {action.dest: action for action in parser._actions if action.option_strings and action.nargs != 0}
    del known["config"]
    for file in list(files):
        values = _read_config(parser, file, known, commas)
        parser.set_defaults(**values)
        for name in values:
            known[name].required = False


def checked(
    parser: argparse.ArgumentParser, values: argparse.Namespace, required: set[str] | None = None
) -> argparse.Namespace:
    """Return the values; UserError for a number that is not finite, or an empty string.

    Args:
        parser: of the values.
        values: of the arguments.
        required: the arguments that an empty string can't stand for; all if not given.
    """
    for name, value in vars(values).items():
        if value == parser.get_default(name):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"--{name} must be finite, and it is {each:g}")
            if isinstance(each, str) and not each.strip() and (required is None or name in required):
                raise UserError(f"--{name} is empty: pass a value, or leave it out")
    return values


def _read_config(
    parser: argparse.ArgumentParser, file: str, known: dict[str, argparse.Action], commas: set[str]
) -> dict[str, Any]:
    """The values of a file, by the arguments' names, each as the command line would have it."""
    root = _parsed(file)
    if not isinstance(root, yaml.MappingNode):
        at = "which is empty" if root is None else f"and line {root.start_mark.line + 1} begins something else"
        raise UserError(f"--config {file} must hold one 'argument: value' per line, {at}")
    values: dict[str, Any] = {}
    for key, node in root.value:
        place = f"--config {file}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{place}: a list or a mapping is no argument's name")
        name = key.value.removeprefix("--").replace("-", "_")
        if name not in known:
            raise UserError(
                f"--config {file} names an unknown argument in line {key.start_mark.line + 1}: {key.value}"
            )
        if name in values:
            raise UserError(f"{place} has {name} a second time: leave one of the two out")
        try:
            values[name] = _value(parser, known[name], node, name in commas)
        except (argparse.ArgumentError, UserError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{place}: {getattr(error, 'message', error)} for {name}") from None
    return values


def _parsed(file: str) -> yaml.Node | None:
    if not file.strip():
        raise UserError("--config is empty: pass the path of a YAML file")
    try:
        content = Path(file).read_bytes()
        return yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"cannot read --config {file}: line {line} is not UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise UserError(f"cannot read --config {file}: {line}{reason}") from None
    except RecursionError:
        raise UserError(f"cannot read --config {file}: it is nested too deep") from None
    except OSError as error:
        raise UserError(f"cannot read --config {file}: {error.strerror}") from None
    except ValueError as error:  # a path with a null character
        raise UserError(f"cannot read --config {file!r}: {error}") from None


def _value(parser: argparse.ArgumentParser, action: argparse.Action, node: yaml.Node, commas: bool) -> Any:
    """What a node says for an argument: the words of the file through the argument's own type and choices."""
    if isinstance(node, yaml.MappingNode):
        if action.dest not in transformers.TrainingArguments._VALID_DICT_FIELDS:
            raise UserError("there is a mapping, and a single value is needed")
        return json.dumps(yaml.SafeLoader("").construct_document(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag == NULL:
            if action.default is None and action.nargs != "+":
                return None
            raise UserError("there is no value")
        word = _word(parser, action, node)
        return [word] if action.nargs == "+" else word
    if action.nargs not in ("+", "*") and not commas:
        raise UserError("there is a list, and a single value is needed")
    if not node.value or not all(isinstance(each, yaml.ScalarNode) and each.tag != NULL for each in node.value):
        raise UserError("the list must hold values alone, one or more")
    words = [_word(parser, action, each) for each in node.value]
    return ",".join(words) if commas else words


def _word(parser: argparse.ArgumentParser, action: argparse.Action, node: yaml.ScalarNode) -> Any:
    kind = parser._registry_get("type", action.type, action.type)
    word = str(node.value.lower() in TRUE) if node.tag == BOOL and kind is string_to_bool else node.value
    value = parser._get_value(action, word)
    parser._check_value(action, value)
    return value
