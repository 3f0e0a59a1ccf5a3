"""Names that changed: the old one works for a release and warns."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from .errors import UserError

F = TypeVar("F", bound=Callable)


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn the caller's caller that ``old`` is now called ``new``."""
    warnings.warn(
        f"{old} is now called {new}; the old name goes with the next release", DeprecationWarning, stacklevel
    )


def renamed_arguments(**new_names: str) -> Callable[[F], F]:
    """Let a function take arguments by their old names: ``@renamed_arguments(old="new")``.

    Raises:
        UserError: when called with an argument by both of its names.
    """

    def decorate(function: F) -> F:
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in kwargs.keys() & new_names.keys():
                new = new_names[old]
                warn_renamed(f"the argument {old} of {name}", new)
                if new in kwargs:
                    raise UserError(f"{name} was given {new} twice, also as {old}: pass {new} alone")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate
