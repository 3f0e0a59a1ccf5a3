"""Views: the augmented images that teacher and student both see ("patient and consistent", Beyer et al. 2022).

A view is a pure function of (seed, view, example), so that nothing else has to be stored: an epoch seen again after a
resume, by another process, on another device or by the teacher that labels it, shows the same images.
"""

import json
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor

from ..utils.checks import check_choice, check_count
from ..utils.deprecation import renamed_arguments, warn_renamed
from ..utils.errors import UserError
from ..utils.limits import LIMITS
from ..utils.random import Draws
from . import augmentations

ORDERS = ("cycle", "shuffle")


class Views:
    """A chain of augmentations whose random numbers depend on the seed, the view and the example alone.

    Args:
        transforms: operators of `augmentations`, applied in order; one that mixes two images (``Mixup``, ``CutMix``)
            comes last.
        num_views: V >= 1 views to choose from; as many as there are epochs if not given.
        seed: seed of all random numbers.

    Raises:
        UserError: ``num_views`` below 1, something that is no operator, or a mixing one that isn't the last.
    """

    @renamed_arguments(number="num_views")
    def __init__(self, *transforms: Any, num_views: int | None = None, seed: int = 0):
        if num_views is not None:
            check_count(num_views=num_views)
        for transform in transforms:
            if type(transform) not in augmentations.OPERATORS.values():
                raise UserError(
                    f"{transform!r} is no augmentation of hf_bkd; there are {', '.join(augmentations.OPERATORS)}"
                )
        self.transforms, self.num_views, self.seed = transforms, num_views, seed
        mixing = [transform for transform in transforms if isinstance(transform, augmentations.MIXING)]
        if mixing and (len(mixing) > 1 or transforms[-1] is not mixing[0]):
            raise UserError("only one augmentation can mix images, and it must be the last one")
        self.mixing = mixing[0] if mixing else None

    def __call__(self, images: Tensor, ids: Tensor, view: int) -> Tensor:
        """Augment uint8 images [B, C, H, W] of the examples ``ids`` (int64 [B]) as in a view, before any mixing."""
        for block, transform in enumerate(self.transforms):
            if transform is not self.mixing:
                images = transform(images, self._draws(ids, view, block))
        return images

    def mix(self, images: Tensor, others: Tensor, ids: Tensor, view: int) -> Tensor:
        """Mix each image [B, C, H, W] with the one of ``others`` in its place, its partner's in the same view."""
        return self.mixing(images, others, self._draws(ids, view, len(self.transforms) - 1))

    def partners(self, ids: Tensor, view: int, pool: Tensor) -> Tensor:
        """Draw which of ``pool`` each example is mixed with: an index [B] into it.

        Args:
            ids: int64 [B].
            pool: the sorted, distinct ids of the whole dataset, so that it depends on nothing but what is in there.
        """
        return self._draws(ids, view, len(self.transforms) - 1).integers(len(pool), augmentations.PARTNER)

    def at_epoch(self, epoch: int, order: str = "cycle") -> int:
        """Return which view an epoch shows: ``"cycle"``, epoch mod V; ``"shuffle"``, a new permutation each V epochs.

        Raises:
            UserError: another order.
        """
        check_choice(ORDERS, order=order)
        if self.num_views is None:
            return epoch
        turn, place = divmod(epoch, self.num_views)
        if order == "cycle":
            return place
        sorting = Draws(torch.arange(self.num_views), self.seed, turn, block=2).integers(2**31, 0)
        return int(sorting.argsort(stable=True)[place])

    def allow(self, others: "Views") -> bool:
        """Return whether others are the same, or of the same transforms if ``num_views`` is not given here."""
        return self == others or (self.num_views is None and self.transforms == others.transforms)

    @property
    def number(self) -> int | None:
        """``num_views``, by its old name."""
        warn_renamed("Views.number", "Views.num_views")
        return self.num_views

    def _draws(self, ids: Tensor, view: int, position: int) -> Draws:
        return Draws(ids, self.seed, view, block=16 + position)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Views) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.transforms, self.num_views, self.seed))

    def __repr__(self) -> str:
        parts = [*map(repr, self.transforms), f"num_views={self.num_views}", f"seed={self.seed}"]
        return f"Views({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """Return all that makes these views, equal to what is read back after writing it as JSON."""
        chain = [{"name": type(transform).__name__} | asdict(transform) for transform in self.transforms]
        return json.loads(json.dumps({"number": self.num_views, "seed": self.seed, "transforms": chain}))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Invert :meth:`to_dict`; UserError for an operator or a parameter that this version doesn't know."""
        known = {"number", "seed", "transforms"}
        try:
            if set(record) != known:
                raise KeyError(*sorted(set(record) ^ known))
            chain = [{**transform} for transform in record["transforms"]]
            kinds = [augmentations.OPERATORS[transform.pop("name")] for transform in chain]
            for transform in chain:
                _check_limits(transform)
            LIMITS.check("the record of views", num_views=record["number"] or 1)
            made = [kind(**transform) for kind, transform in zip(kinds, chain, strict=True)]
            return cls(*made, num_views=record["number"], seed=record["seed"])
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the record of views can't be read by this version of hf_bkd: {error!r}") from None


def _check_limits(parameters: dict[str, Any]) -> None:
    """UserError if an operator of a record asks for more memory than ``LIMITS`` allow."""
    asked = {"view_pixels": parameters.get("size", 0), "padding": parameters.get("padding", 0)}
    LIMITS.check("the record of views", **{name: value for name, value in asked.items() if value > 0})
