"""Names of classes: which ones somebody has given, what a network calls its own, and how two sides are matched."""

from collections.abc import Sequence

from torch import nn

from ..utils.errors import UserError
from .calling import unwrapped
from .timm_networks import is_timm, label_names_of


def given_names(names: Sequence[str] | None) -> list[str] | None:
    """Return names that somebody has given; ``None`` for made-up ones: each class' own number, or LABEL_ and that.

    Numbers in another order, such as those of folders 1, 10, 11, 2, are names.
    """
    made_up = all(name in (str(number), f"LABEL_{number}") for number, name in enumerate(names or ()))
    return None if made_up else list(names)


def names_of_network(network: nn.Module) -> list[str] | None:
    """Return the names of a network's classes in the order of its outputs; ``None`` where nobody has given any.

    They are its own ``label_names``, as plain networks have them, or its config's, or those of timm's configuration.
    """
    network = unwrapped(network)
    own = label_names_of(network) if is_timm(network) else getattr(network, "label_names", None)
    names = getattr(getattr(network, "config", None), "id2label", None) or {}
    try:
        return given_names(own or [str(names[number]) for number in range(len(names))])
    except (KeyError, TypeError):
        return None


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
        C places; ``None`` where both have one order, or nobody has said one of them.

    Raises:
        UserError: they are other classes.
    """
    if names is None or classes is None or list(names) == list(classes):
        return None
    places = matching_places(names, classes)
    if places is None or len(names) != len(classes):
        raise UserError(
            f"{whose} has the classes {_first(names)}, and {others} {_first(classes)}, which can't be matched by "
            f"name: take one of the other's classes, or, if they are the same in the same order, {remedy}"
        )
    order = sorted(range(len(places)), key=places.__getitem__)
    return None if order == list(range(len(order))) else order


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
