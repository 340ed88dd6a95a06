"""Which rank owns which values: the owner aggregates them for all.

    sharded      every rank owns a part; together they own all
    server       rank 0 owns all
    replicated   every rank owns all, and works it out for itself

A large parameter is cut evenly over the ranks. A small one is not worth a message to every rank and goes whole to the
owner that has least so far. Parameters under `min_numel` that are sent raw are joined in one vector. The cut depends on
names and sizes alone, so DDP may rebuild its buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .codec import Codec, Raw, even_bounds

Trust = Literal["sharded", "server", "replicated"]
ALL = -1  # the owner of what every rank works out for itself
CUT_ABOVE = 1 << 16  # values; a message costs as much time as encoding some ten thousand values
JOINED = "(small)"


@dataclass(frozen=True)
class Slice:
    """Values `begin` to `end` of a unit, and the rank that owns them."""

    name: str
    owner: int
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return self.end - self.begin

    @property
    def key(self) -> str:
        """Names the slice's residual."""
        return self.name if self.owner == ALL else f"{self.name}[{self.owner}]"


@dataclass(frozen=True)
class Unit:
    """Values that are encoded together: one parameter, or the small ones side by side.

    Attributes:
        name: the parameter's, or JOINED.
        members: names and sizes of its parameters.
        codec: theirs.
        slices: in the order of their values.
    """

    name: str
    members: tuple[tuple[str, int], ...]
    codec: Codec
    slices: tuple[Slice, ...]

    def gather(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The unit's values, flat."""
        if len(self.members) == 1:
            return gradients[self.members[0][0]].detach().reshape(-1)
        return torch.cat([gradients[name].detach().reshape(-1).float() for name, _ in self.members])

    def scatter(self, flat: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Write the unit's values back."""
        parts = flat.split([numel for _, numel in self.members])
        for (name, _), part in zip(self.members, parts, strict=True):
            gradients[name].detach().copy_(part.view_as(gradients[name]))


class Layout:
    """The units of a model.

    Args:
        sizes: (name, number of values) of every parameter, in the same order on every rank.
        codecs: the codec of every parameter.
        world_size: n.
        trust: who owns what.
        join_below: parameters with fewer values, sent raw, are joined.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[str, int]],
        codecs: Mapping[str, Codec],
        world_size: int,
        trust: Trust,
        join_below: int,
    ) -> None:
        self.sizes, self.codecs, self.world_size, self.trust = dict(sizes), dict(codecs), world_size, trust
        self.small = {name for name, numel in sizes if numel < join_below and isinstance(self.codecs[name], Raw)}
        self.slices = self._cut([(name, numel) for name, numel in sizes if name not in self.small])
        self._batches: dict[tuple[str, ...], list[Unit]] = {}

    def batch(self, names: Iterable[str]) -> list[Unit]:
        """The units of some parameters that are exchanged together; the same names give the same units everywhere."""
        wanted = tuple(sorted(names))
        if wanted not in self._batches:
            units = [
                Unit(name, ((name, self.sizes[name]),), self.codecs[name], self.slices[name])
                for name in wanted
                if name not in self.small
            ]
            joined = tuple((name, self.sizes[name]) for name in wanted if name in self.small)
            if joined:
                total = sum(numel for _, numel in joined)
                units.append(Unit(JOINED, joined, self.codecs[joined[0][0]], self._even(JOINED, total)))
            self._batches[wanted] = units
        return self._batches[wanted]

    def owned(self, owner: int) -> list[Slice]:
        """The slices of single parameters that a rank owns."""
        return [piece for slices in self.slices.values() for piece in slices if piece.owner in (owner, ALL)]

    def _cut(self, sizes: Sequence[tuple[str, int]]) -> dict[str, tuple[Slice, ...]]:
        slices = {name: self._even(name, numel) for name, numel in sizes if numel > CUT_ABOVE or self._undivided}
        load = [0] * self.world_size
        whole = [(name, numel) for name, numel in sizes if name not in slices]
        for name, numel in sorted(whole, key=lambda item: -item[1]):
            owner = load.index(min(load))
            load[owner] += numel
            slices[name] = (Slice(name, owner, 0, numel),)
        return {name: slices[name] for name, _ in sizes}

    @property
    def _undivided(self) -> bool:
        return self.trust != "sharded"

    def _even(self, name: str, numel: int) -> tuple[Slice, ...]:
        if self._undivided:
            return (Slice(name, 0 if self.trust == "server" else ALL, 0, numel),)
        bounds = even_bounds(numel, self.world_size)
        return tuple(Slice(name, owner, begin, end) for owner, (begin, end) in enumerate(bounds) if end > begin)


def slices_for(units: Sequence[Unit], owner: int) -> list[Slice]:
    """What one rank owns of a batch, in the order in which messages hold it."""
    return [piece for unit in units for piece in unit.slices if piece.owner in (owner, ALL)]
