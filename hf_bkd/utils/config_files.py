"""The YAML files of ``--config``, in which a command line is continued."""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

CONFIG_HELP = "YAML file of further arguments; the command line wins"
NULL, BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
TRUE, FALSE = ("yes", "true", "on", "t", "y", "1"), ("no", "false", "off", "f", "n", "0")  # in any case


def boolean(word: str) -> bool:
    """Read a word that says yes or no."""
    if word.lower() not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in TRUE


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
        name = getattr(parser, "aliases", {}).get(name, name)
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
        from transformers import TrainingArguments

        if action.dest not in TrainingArguments._VALID_DICT_FIELDS:
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
    is_boolean = node.tag == BOOL and getattr(kind, "__name__", "") in ("boolean", "string_to_bool")
    word = str(node.value.lower() in TRUE) if is_boolean else node.value
    value = parser._get_value(action, word)
    parser._check_value(action, value)
    return value
