"""Names of classes: which ones somebody has given, what a network calls its own, and how two sides are matched."""

from collections.abc import Mapping, Sequence

from torch import nn

from ..utils.errors import UserError
from .calling import unwrapped
from .outputs import stated_classes
from .timm_networks import is_timm, label_names_of

LOG_VARIANCE = "log-variance of "


def with_variances(names: Sequence[str]) -> list[str]:
    """Return the names of a regression's outputs: means of numbers of these names, and then their log-variances."""
    return [*names, *(f"{LOG_VARIANCE}{name}" for name in names)]


def without_variances(names: Sequence[str]) -> list[str]:
    """Return the names of the numbers of :func:`with_variances`, and any others as they are."""
    numbers = list(names[: len(names) // 2])
    return numbers if numbers and list(names) == with_variances(numbers) else list(names)


def given_names(names: Sequence[str] | None) -> list[str] | None:
    """Return names that somebody has given; ``None`` for made-up ones: each class' own number, or LABEL_ and that.

    Numbers in another order, such as those of folders 1, 10, 11, 2, are names.
    """
    made_up = all(name in (str(number), f"LABEL_{number}") for number, name in enumerate(names or ()))
    return None if made_up else list(names)


def both_name(names: Sequence[str] | None, classes: Sequence[str] | None) -> bool:
    """Return whether two sides' names are to be matched: both have some, and neither's are made up.

    Numbers in their order are the names of the same numbers in another order, and of nothing else.
    """
    if not names or not classes:
        return False
    made_up = given_names(names) is None or given_names(classes) is None
    return sorted(names) == sorted(classes) if made_up else True


def check_not_shuffled(column: str, classes: Sequence[str] | None) -> None:
    """Refuse a column of bare numbers where classes are called by these numbers in another order.

    Raises:
        UserError: a label could be a class' name or its place.
    """
    numbers = [str(number) for number in range(len(classes or ()))]
    if classes is not None and list(classes) != numbers and sorted(classes) == sorted(numbers):
        raise UserError(
            f"the column {column} holds numbers, and the classes are called {_first(classes)} in this order: "
            f"use dataset.cast_column({column!r}, datasets.ClassLabel(names={numbers})) if they are their names, or "
            f"names={list(classes)} in it if they are their places"
        )


def _stated_names(network: nn.Module) -> list[str]:
    own = label_names_of(network) if is_timm(network) else getattr(network, "label_names", None)
    return list(own or _names_of_config(getattr(network, "config", None)) or ())


def names_of_network(network: nn.Module) -> list[str] | None:
    """Return the names of a network's classes in the order of its outputs; ``None`` where it has none but LABEL_0.

    They are its own ``label_names``, as plain networks have them, or its config's, or those of timm's configuration;
    of a regression with predicted variances those of its numbers.
    """
    network = unwrapped(network)
    stated = _stated_names(network)
    if stated_classes(network) not in (None, len(stated)):
        return None  # they are those of a head that was replaced
    values = without_variances(stated)
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(values)) else values


def predicts_variances(network: nn.Module) -> bool:
    """Return whether the names of a network's outputs are those of numbers and of their log-variances."""
    stated = _stated_names(unwrapped(network))
    return without_variances(stated) != stated


def _names_of_config(config: object) -> list[str] | None:
    """Return the names of a config's ``id2label``, or of its ``label2id`` where that alone has some.

    Raises:
        UserError: each has the same ones, in another order.
    """
    by_number, by_name = (getattr(config, name, None) or {} for name in ("id2label", "label2id"))
    one = _in_order(dict(by_number) if isinstance(by_number, Mapping) else dict(enumerate(by_number)))
    other = _in_order({number: name for name, number in dict(by_name).items()})
    if one and other and one != other and sorted(one) == sorted(other):
        raise UserError(
            f"the network's config.id2label says {_first(one)}, and its config.label2id {_first(other)}: set "
            "config.label2id = {name: number for number, name in config.id2label.items()}, or id2label by label2id, "
            "whichever is right"
        )
    return one if given_names(other) is None or given_names(one) is not None else other


def _in_order(names: Mapping) -> list[str] | None:
    """Return names by number as a list, be the numbers written as texts; ``None`` if one is missing."""
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError):
        return None
    complete = by_number.keys() == set(range(len(names)))
    return [by_number[number] for number in sorted(by_number)] if complete else None


def matching_places(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """Return each name's place among the network's ``classes``; ``None`` if one is not among them.

    Case is ignored where names differ by more than their case.
    """
    ignores_case = all(len({name.lower() for name in group}) == len(group) for group in (names, classes))
    key = str.lower if ignores_case else str
    place = {key(name): number for number, name in enumerate(classes)}
    return [place[key(name)] for name in names] if all(key(name) in place for name in names) else None


def order_by_name(
    names: Sequence[str] | None, classes: Sequence[str] | None, whose: str, others: str, remedy: str
) -> list[int] | None:
    """Return the places among ``names`` of ``classes``, so that ``answers[..., order]`` are in the classes' order.

    Args:
        names, classes: of the same C classes; ``None`` where nobody has said them.
        whose, others: whom ``names`` and ``classes`` belong to.
        remedy: what to do where they are the same classes in the same order.

    Returns:
        C places; ``None`` where both have one order, or nobody has said one of them (:func:`both_name`).

    Raises:
        UserError: they are other classes.
    """
    if not both_name(names, classes) or list(names) == list(classes):
        return None
    places = matching_places(names, classes)
    if places is None or len(names) != len(classes):
        raise UserError(unmatched(names, classes, whose, others, remedy))
    order = sorted(range(len(places)), key=places.__getitem__)
    return None if order == list(range(len(order))) else order


def unmatched(names: Sequence[str], classes: Sequence[str], whose: str, others: str, remedy: str) -> str:
    """Return the sentence for two sides of other classes; arguments as for :func:`order_by_name`."""
    same = f", or, if they are the same in the same order, {remedy}" if len(names) == len(classes) else ""
    numbers = "" if same else f" ({len(names)} and {len(classes)})"
    return (
        f"{whose} has the classes {_first(names)}, and {others} {_first(classes)}{numbers}, which can't be matched by "
        f"name: take one of the other's classes{same}"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
