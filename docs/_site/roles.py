"""Docstrings' Sphinx roles as links of the site: ``:class:`~hf_bkd.Views` `` is shown as Views."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`(~?)\.?([\w.]+)`")


def _linked(match: re.Match) -> str:
    short, path = match.groups()
    shown = path.rpartition(".")[2] if short else path
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'


class Roles(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """A module's, class', function's or attribute's."""
        if obj.docstring is not None:
            text = re.sub(r"``([^`]+)``", r"`\1`", obj.docstring.value)
            obj.docstring.value = ROLE.sub(_linked, text)
