"""Command lines that are declared as dataclasses."""

from pathlib import Path
from typing import Any

import transformers
import yaml

from .errors import UserError


def parse_dataclasses(kinds: tuple[type, ...], defaults: dict[str, Any], argv: list[str], **about: str) -> tuple:
    """Read the command line, which wins over ``--config file.yaml``, which wins over the defaults.

    Args:
        kinds: dataclasses whose fields are the arguments.
        defaults: values by name.
        argv: the command line's words.
        about: what the parser's ``--help`` says, such as its ``prog`` and ``description``.

    Returns:
        One object of each kind.

    Raises:
        UserError: an unknown argument, or a value of the wrong kind.
    """

    def refuse(message: str) -> None:
        raise UserError(f"{message} (--help lists all arguments)")

    parser = transformers.HfArgumentParser(kinds, allow_abbrev=False, **about)
    parser.add_argument("--config", help="YAML file of further arguments; the command line wins over it.")
    parser.error = refuse
    known = {action.dest for action in parser._actions}
    parser.set_defaults(**defaults)
    for file in (value for flag, value in zip(argv, argv[1:], strict=False) if flag == "--config"):
        parser.set_defaults(**_read_config(Path(file), known))
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        refuse(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        *parsed, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except ValueError as error:  # transformers' own checks
        raise UserError(str(error).splitlines()[0]) from None
    return tuple(parsed)


def _read_config(path: Path, known: set[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read --config {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold one 'argument: value' per line")
    unknown = sorted(set(content) - known)
    if unknown:
        raise UserError(f"--config {path} names an unknown argument: {unknown[0]}")
    return content
