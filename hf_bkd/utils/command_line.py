"""Command lines: arguments of several dataclasses and commands, and their help of one screen."""

import argparse
import dataclasses
import math
import os
import shutil
import sys
from typing import Any, NoReturn

from .config_files import boolean, read_arguments
from .errors import UserError

UNKNOWN = "unrecognized arguments: "  # as argparse says it
WIDEST = 110  # columns of a help text
OBJECTS = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")  # never files


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
        if action.nargs == "+":
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]} ..."
        return "" if action.type is boolean else super()._format_args(action, default_metavar)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return super()._format_action_invocation(action).rstrip()


class HelpAll(argparse.Action):
    """Shows the arguments that are seldom needed too."""

    def __init__(self, **settings: Any):
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print the whole text and end the process."""
        print(parser.format_help(everything=True), end="")
        sys.exit(0)


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

    def format_help(self, everything: bool = False) -> str:
        """Return the help text, which is of one screen unless ``everything`` is to be in it."""
        texts = {action: action.help for action in self._actions if getattr(action, "rare", False)}
        for action in {} if everything else texts:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in texts.items():
                action.help = text

    def error(self, message: str) -> NoReturn:
        """Raise the message as a sentence."""
        rest = message.removeprefix(UNKNOWN)
        if rest != message and any(os.path.exists(word) for word in (rest, *rest.split())):
            raise UserError(f"{message}: of several files pass their folder, and put a name with spaces in quotes")
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
        parser.error(f"{UNKNOWN}{' '.join(unknown)}")
    may_be_empty = {name for named in fields for name, field in named.items() if field.default == ""}
    values = vars(checked(parser, values, may_be_empty))
    made = [_made(kind, {name: values.pop(name) for name in named}) for kind, named in zip(kinds, fields, strict=True)]
    return (*made, argparse.Namespace(**values)) if own else tuple(made)


def answer_help(parser: Parser, argv: list[str], others: list[argparse.ArgumentParser] = ()) -> None:
    """End the process with a help text, if the words of the command line ask for one: the others' for all."""
    if "--help_all" in argv:
        print(parser.format_help(everything=True), *(other.format_help() for other in others), sep="\n", end="")
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


def in_full(value: Any) -> Any:
    """Return a path of the home folder in full, and any other value as it is."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def checked(
    parser: argparse.ArgumentParser, values: argparse.Namespace, may_be_empty: set[str] = frozenset()
) -> argparse.Namespace:
    """Return the values, with paths of the home folder (``~/...``) in full, which no shell expands after ``=``.

    Args:
        parser: of the values.
        values: of the arguments.
        may_be_empty: the arguments that an empty string stands for.

    Raises:
        UserError: a number that is not finite, or an empty string.
    """
    for name, value in vars(values).items():
        setattr(values, name, [*map(in_full, value)] if isinstance(value, list) else in_full(value))
        if value == parser.get_default(name):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"--{name} must be finite, and it is {each:g}")
            if isinstance(each, str) and not each.strip() and name not in may_be_empty:
                raise UserError(f"--{name} is empty: pass a value, or leave it out")
    return values
