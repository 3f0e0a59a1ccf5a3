"""Whether what stands in a record can be read: the types and sizes of all that is read of it later."""

import math
from typing import Any

from ..utils.limits import LIMITS
from .identity import FORM

TOKENS, NEXT_TOKENS = "tokens", "next tokens"  # what the positions of an example are labeled for


def is_readable(content: dict[str, Any]) -> bool:
    """Whether all that is read from a record later has the type that it should have."""
    objects = {name: content.get(name) or {} for name in ("teacher", "dataset", "preprocessing", "views", "held_out")}
    temperature = content["temperature"]
    return (
        isinstance(temperature, (int, float))
        and not isinstance(temperature, bool)
        and 0 < float(temperature) < math.inf
        and isinstance(content["tempering"], str)
        and all(isinstance(each, dict) for each in objects.values())
        and _is_count(objects["teacher"].get("num_classes"))
        and _is_count(objects["teacher"].get("num_draws"))
        and _are(dict, objects["teacher"].get("members"))
        and _is_count(objects["views"].get("number"))
        and _is_count(objects["dataset"].get("repeated_ids"), 0)
        and _is_count(objects["dataset"].get("rows"), 0)
        and isinstance(objects["dataset"].get("content_column"), (str, type(None)))
        and _is_identity(objects["dataset"].get("identity"))
        and _is_folds(content.get("folds"))
        and isinstance(content.get("stream"), (str, type(None)))
        and _are(str, content.get("class_names"))
        and isinstance(content.get("problem_type"), (str, type(None)))
        and content.get("positions") in (None, TOKENS, NEXT_TOKENS)
        and isinstance(content.get("tokenizer"), (str, type(None)))
        and isinstance(content.get("chat_template"), (str, type(None)))
    )


def check_limits(content: dict[str, Any]) -> None:
    """UserError if the record asks its reader for more memory than ``LIMITS`` allow."""
    teacher, views = content.get("teacher") or {}, content.get("views") or {}
    asked = {"num_classes": teacher.get("num_classes"), "num_draws": teacher.get("num_draws")}
    asked |= {"num_views": views.get("number")}
    asked["num_draws"] = max(
        asked["num_draws"] or 0, content["num_samples"] if is_whole(content.get("num_samples")) else 0
    )
    LIMITS.check("the labels' record", **{name: value for name, value in asked.items() if value is not None})


def _is_identity(value: Any) -> bool:
    """Whether ids are of a form that can be computed here."""
    if value is None:
        return True
    columns = value.get("columns") if isinstance(value, dict) else None
    return bool(columns) and _are(str, columns) and is_whole(value.get("form")) and 1 <= value["form"] <= FORM


def _is_folds(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and _is_count(value.get("number"), 0))


def _are(kind: type, values: Any) -> bool:
    return values is None or (isinstance(values, list) and all(isinstance(value, kind) for value in values))


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any, least: int = 1) -> bool:
    return value is None or (is_whole(value) and value >= least)
