"""A feature map that knows its parts and their statistics: `torch.cat` without the copy, each part swept once.

Statistics of a concatenation are the concatenation of statistics (spec 19, 2.3), so each part is swept when it is
produced, by the convolution that writes it where that is possible, and never again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import ops
from .again import Recipe


class Feature:
    """Parts that stand for their concatenation along the channels.

    Args:
        parts: [N, C_i, H, W] each.
        moments: mean and sum of squared differences (float64 [C_i]) of each part; None where not known yet.
        recipe: how a sum of one part is made again, if the convolutions that read it shall not keep it.
    """

    __slots__ = ("_joined", "moments", "parts", "recipe")

    def __init__(
        self, parts: Sequence[Tensor], moments: Sequence[tuple[Tensor, Tensor] | None], recipe: Recipe | None = None
    ) -> None:
        self.parts = list(parts)
        self.moments = list(moments)
        self.recipe = recipe
        self._joined: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the concatenation."""
        n, _, h, w = self.parts[0].shape
        return n, sum(part.shape[1] for part in self.parts), h, w

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and sum of squared differences, float64 [C]; what was swept before is not swept again."""
        for index, known in enumerate(self.moments):
            if known is None:
                with torch.no_grad():
                    self.moments[index] = ops.bn_stats([self.parts[index].detach()])
        found = [known for known in self.moments if known is not None]
        if len(found) == 1:
            return found[0]
        return torch.cat([mean for mean, _ in found]), torch.cat([m2 for _, m2 in found])

    def tensor(self) -> Tensor:
        """The concatenation itself, for whoever knows no parts."""
        if self._joined is None:
            self._joined = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)
        return self._joined


def as_feature(x: Tensor | Feature) -> Feature:
    """A tensor as a feature of one part."""
    return x if isinstance(x, Feature) else Feature([x], [None])


def join(features: Sequence[Tensor | Feature]) -> Feature:
    """The concatenation of features: their parts, in order, with what is known of them."""
    # A part stays the object it was: statistics found through one concatenation would be lost to the others otherwise.
    made = [as_feature(x) for x in features]
    return _Joined(made) if len(made) > 1 else made[0]


class _Joined(Feature):
    """A concatenation that asks its members for statistics, so that what it learns they know, too."""

    __slots__ = ("_members",)
    _members: list[Feature]

    def __init__(self, members: Sequence[Feature]) -> None:
        leaves: list[Feature] = []
        for member in members:
            leaves += member._members if isinstance(member, _Joined) else [member]
        super().__init__([part for leaf in leaves for part in leaf.parts], [None for _ in leaves])
        self._members = leaves

    def statistics(self) -> tuple[Tensor, Tensor]:
        found = [leaf.statistics() for leaf in self._members]
        return torch.cat([mean for mean, _ in found]), torch.cat([m2 for _, m2 in found])


def plain(x: Tensor | Feature) -> Tensor:
    """The tensor behind a feature, or the tensor."""
    return x.tensor() if isinstance(x, Feature) else x
