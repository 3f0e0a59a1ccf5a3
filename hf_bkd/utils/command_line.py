"""Command lines, and the YAML files of ``--config`` that they can be continued in."""

import argparse
import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import UserError

CONFIG_HELP = "YAML file of further arguments; the command line wins"
NULL, BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
TRUE, FALSE = ("yes", "true", "on", "t", "y", "1"), ("no", "false", "off", "f", "n", "0")  # in any case
WIDEST = 110  # columns of a help text
OBJECTS = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")  # never files


def boolean(word: str) -> bool:
    """Read a word that says yes or no."""
    if word.lower() not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in TRUE


class Help(argparse.HelpFormatter):
    """Help of one line an argument where that is enough, with choices and defaults at its end."""

    def __init__(self, prog: str, **settings: Any):
        width = min(shutil.get_terminal_size().columns, WIDEST) - 2
        super().__init__(prog, **{"max_help_position": 35, "width": width} | settings)

    def _get_help_string(self, action: argparse.Action) -> str:
        notes = [", ".join(map(str, action.choices))] if action.choices else []
        default = action.default
        if (
            action.option_strings
            and not isinstance(default, bool)
            and default not in (None, "", [], argparse.SUPPRESS)
        ):
            notes.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
        return (action.help or "") + (f" ({'; '.join(notes)})" if notes else "")

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return "" if action.type is boolean else super()._format_args(action, default_metavar)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return super()._format_action_invocation(action).rstrip()


class Parser(argparse.ArgumentParser):
    """A parser of ``--config FILE`` and of names with underscores or hyphens, whose mistakes are a UserError.

    Args:
        aliases: other names of arguments -> their own, or ``""`` for the positional one.
        settings: what argparse takes.
    """

    def __init__(self, aliases: dict[str, str] | None = None, **settings: Any):
        own = {"formatter_class": Help, "allow_abbrev": False, "conflict_handler": "resolve"}
        super().__init__(**own | settings)
        self.aliases = aliases or {}

    def error(self, message: str) -> NoReturn:
        """Raise the message as a sentence."""
        raise UserError(f"{message} (--help lists all arguments)")

    def spelled(self, argv: list[str]) -> list[str]:
        """Return the words of a command line with every argument under its own name, with underscores."""
        words = []
        for word in argv:
            name, equals, value = word.partition("=")
            if not name.startswith("--") or name == "--":
                words.append(word)
                continue
            name = name[2:].replace("-", "_")
            own = self.aliases.get(name, name)
            if own:
                words.append(f"--{own}{equals}{value}")
            elif equals:
                words.append(value)
        return words

    def read(self, argv: list[str]) -> argparse.Namespace:
        """Return the arguments, as :func:`read_arguments` does."""
        argv = self.spelled(argv)
        read_arguments(self, argv)
        return checked(self, self.parse_args(argv))


def parse_dataclasses(
    kinds: tuple[type, ...], defaults: dict[str, Any], argv: list[str], own: Parser | None = None, **about: Any
) -> tuple:
    """Read the command line, which wins over ``--config file.yaml``, which wins over the defaults.

    ``--help`` shows the arguments of ``own``, or else of the first kind, and ``--help_all`` all others too.

    Args:
        kinds: dataclasses whose fields are the arguments; ``COMMA_LISTS`` of one names those that hold several values
            with commas between them, for which YAML may have a list.
        defaults: values by name.
        argv: the command line's words.
        own: a parser of further arguments, which replace those of the kinds that have the same names.
        about: what ``--help`` says where there is no such parser, such as its ``prog`` and ``description``.

    Returns:
        One object of each kind, and the namespace of the further arguments if there is a parser of them.

    Raises:
        UserError: an unknown argument, a value of the wrong kind, or a file that can't be read.
    """
    from transformers import HfArgumentParser  # which takes seconds that a help text doesn't have

    fields = [{field.name: field for field in dataclasses.fields(kind) if field.init} for kind in kinds]
    parents = []
    for kind, named in zip(kinds, fields, strict=True):
        parents.append(HfArgumentParser(kind, add_help=False, usage=argparse.SUPPRESS, formatter_class=Help))
        parents[-1].set_defaults(**{name: value for name, value in defaults.items() if name in named})
    shown, others = own or Parser(parents=parents[:1], **about), parents if own else parents[1:]
    argv = shown.spelled(argv)
    answer_help(shown, argv, others)
    parser = Parser(shown.aliases, parents=[*others, shown], add_help=False)
    declared = {action.dest: action.default for action in own._actions} if own else {}
    parser.set_defaults(**{name: value for name, value in declared.items() if value != argparse.SUPPRESS} | defaults)
    read_arguments(parser, argv, {name for kind in kinds for name in getattr(kind, "COMMA_LISTS", ())})
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    may_be_empty = {name for named in fields for name, field in named.items() if field.default == ""}
    values = vars(checked(parser, values, may_be_empty))
    made = [_made(kind, {name: values.pop(name) for name in named}) for kind, named in zip(kinds, fields, strict=True)]
    return (*made, argparse.Namespace(**values)) if own else tuple(made)


def answer_help(parser: argparse.ArgumentParser, argv: list[str], others: list[argparse.ArgumentParser] = ()) -> None:
    """End the process with a help text, if the words of the command line ask for one: the others' for all."""
    if "--help_all" in argv:
        print(parser.format_help(), *(other.format_help() for other in others), sep="\n", end="")
        sys.exit(0)
    if {"-h", "--help"} & set(argv):
        print(parser.format_help(), end="")
        sys.exit(0)


def _made(kind: type, values: dict[str, Any]) -> Any:
    """Make an object of arguments; UserError that names those which it can't be made with."""
    for name in OBJECTS:
        if isinstance(values.get(name), str) and not values[name].startswith("{"):
            raise UserError(f"--{name} must be a JSON object such as '{{\"a\": 1}}', and it is {values[name]!r}")
    try:
        return kind(**values)
    except UserError:
        raise
    except Exception as error:  # transformers' own checks, of any kind
        line = (str(error).splitlines() or [type(error).__name__])[0]
        names = _culprits(kind, values)
        if not names:
            raise UserError(line) from error
        plural = "s" if len(names) > 1 else ""
        raise UserError(f"argument{plural} {', '.join(f'--{name}' for name in names)}: {line}") from error


def _culprits(kind: type, values: dict[str, Any]) -> list[str]:
    """Return the arguments of which each alone, left at its default, would let an object be made."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.name in values}
    names = []
    for name, default in defaults.items():
        if default is dataclasses.MISSING or values[name] == default:
            continue
        try:
            kind(**values | {name: default})
        except Exception:
            continue
        names.append(name)
    return names


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
    parser: argparse.ArgumentParser, values: argparse.Namespace, may_be_empty: set[str] = frozenset()
) -> argparse.Namespace:
    """Return the values; UserError for a number that is not finite, or an empty string.

    Args:
        parser: of the values.
        values: of the arguments.
        may_be_empty: the arguments that an empty string stands for.
    """
    for name, value in vars(values).items():
        if value == parser.get_default(name):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"--{name} must be finite, and it is {each:g}")
            if isinstance(each, str) and not each.strip() and name not in may_be_empty:
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
