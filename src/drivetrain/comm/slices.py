"""Which rank owns which part of a parameter: the owner aggregates that part for all.

A parameter is cut evenly over the ranks; a small one that is sent raw is not worth a message to every rank and goes
whole to one owner, in turn, so that the load stays even. The cut depends on names and sizes alone, so DDP may rebuild
its buckets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .codec import even_bounds


@dataclass(frozen=True)
class Slice:
    """Values `begin` to `end` of a flattened parameter, and the rank that owns them."""

    name: str
    owner: int
    begin: int
    end: int

    @property
    def key(self) -> str:
        """Names the slice's residual."""
        return f"{self.name}[{self.owner}]"


def cut(sizes: Iterable[tuple[str, int]], world_size: int, whole: Collection[str]) -> dict[str, list[Slice]]:
    """The slices of each parameter.

    Args:
        sizes: (name, number of values) of every parameter, in the same order on every rank.
        world_size: n.
        whole: names of the parameters that stay whole.
    """
    slices: dict[str, list[Slice]] = {}
    turn = 0
    for name, numel in sizes:
        if name in whole:
            slices[name] = [Slice(name, turn % world_size, 0, numel)]
            turn += 1
        else:
            bounds = even_bounds(numel, world_size)
            slices[name] = [Slice(name, owner, begin, end) for owner, (begin, end) in enumerate(bounds)]
    return slices
