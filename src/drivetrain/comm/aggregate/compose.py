"""Steps before a rule: nearest-neighbour mixing, bucketing, clipping. `Chain(NNM(), MultiKrum())` is again a rule.

They narrow the spread of honest vectors, which is what rules stumble over when workers hold unlike data (arXiv
2302.01772). Broken vectors (NaN or infinity) stay broken, or drop out of their bucket, so the rule after them still
sees at most f.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from drivetrain.base.seeds import torch_generator

from .distances import combine, squared_distances, squared_distances_to
from .errors import RobustnessError
from .krum import ranking
from .rule import NEVER, Kind, Resilience, Round, Rule, check_option


class PreAggregator(ABC):
    """Turns n vectors into n' vectors of which still at most f are faulty."""

    name: ClassVar[str]

    def min_n(self, rule_n: int, f: int) -> int:
        """How many workers it takes to hand `rule_n` vectors on."""
        return max(rule_n, 2 * f + 1)

    @abstractmethod
    def prepare(self, r: Round) -> tuple[Round, Tensor]:
        """The next round, and the weights [n', n] that made its vectors out of the old ones."""

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({options})"


class NNM(PreAggregator):
    """Nearest-neighbour mixing: every vector becomes the mean of its n - f nearest, itself among them."""

    name = "nnm"

    def prepare(self, r: Round) -> tuple[Round, Tensor]:
        sqdist, bad = squared_distances(r)
        r.refuse_broken(bad, r.f)
        keep = r.n - r.f
        weights = torch.zeros(r.n, r.n, dtype=torch.float64)
        gone = bad if r.absent is None else bad | r.absent
        for i in torch.nonzero(~gone).flatten().tolist():
            weights[i, ranking(sqdist[i])[:keep]] = 1 / keep
        g = combine(r, weights)
        g[gone.to(g.device)] = torch.nan
        return replace(r, g=g, mask=None, absent=None), weights


class Bucketing(PreAggregator):
    """Means of random buckets of `size` vectors: fewer vectors, each nearer to the mean (Karimireddy et al. 2022).

    Each of f faulty vectors spoils one bucket, so f stays and n shrinks. Buckets are drawn anew at each call, from
    `seed` and the number of the call, so ranks that make the same calls draw the same buckets.

    Args:
        size: vectors in a bucket; the last one may be smaller.
        seed: of the draw.
    """

    name = "bucketing"

    def __init__(self, size: int = 2, seed: int = 0) -> None:
        check_option(self.name, "size", size, least=1)
        self.size, self.seed = size, seed
        self._calls = 0

    def min_n(self, rule_n: int, f: int) -> int:
        return NEVER if rule_n >= NEVER else (rule_n - 1) * self.size + 1

    def prepare(self, r: Round) -> tuple[Round, Tensor]:
        _, bad = squared_distances_to(r, None)
        r.refuse_broken(bad, r.f)
        gone = bad if r.absent is None else bad | r.absent
        order = torch.randperm(r.n, generator=torch_generator(self.seed, "bucketing", self._calls)).tolist()
        self._calls += 1
        buckets = [order[start : start + self.size] for start in range(0, r.n, self.size)]
        weights = torch.zeros(len(buckets), r.n, dtype=torch.float64)
        for bucket, members in enumerate(buckets):
            whole = [member for member in members if not gone[member]]
            weights[bucket, whole] = 1 / max(len(whole), 1)
        g = combine(r, weights)
        g[(weights.sum(1) == 0).to(g.device)] = torch.nan
        return replace(r, g=g, mask=None, absent=None), weights


class Clip(PreAggregator):
    """Vectors longer than `radius` are shortened to it."""

    name = "clip"

    def __init__(self, radius: float) -> None:
        if not (math.isfinite(radius) and radius > 0):
            raise RobustnessError(f"comm: clip: radius={radius}, wanted a length above 0")
        self.radius = radius

    def prepare(self, r: Round) -> tuple[Round, Tensor]:
        return _shorten(r, lambda norms: self.radius)


class ARC(PreAggregator):
    """Adaptive robust clipping (Allouah et al. 2024): the floor(2f (n - f) / n) longest vectors get the next length."""

    name = "arc"

    def prepare(self, r: Round) -> tuple[Round, Tensor]:
        clipped = 2 * r.f * (r.n - r.f) // r.n
        return _shorten(r, lambda norms: float(norms.sort().values[r.n - clipped - 1]))


def _shorten(r: Round, limit: Callable[[Tensor], float]) -> tuple[Round, Tensor]:
    square, bad = squared_distances_to(r, None)
    r.refuse_broken(bad, r.f)
    norms = square.sqrt()
    radius = limit(norms)
    factor = torch.where(norms > radius, radius / norms, torch.ones_like(norms))
    factor[bad] = 1.0  # stays broken, for the rule to see
    g = (r.g * factor.to(r.g)[:, None]) if bool((factor != 1).any()) else r.g
    return replace(r, g=g), torch.diag(factor)


class Chain(Rule):
    """Pre-aggregators in order, then a rule: Chain(NNM(), Bucketing(2), Median()).

    Raises:
        RobustnessError: the last part is no rule, or one before it is no pre-aggregator.
    """

    kind: ClassVar[Kind] = "iterative"

    def __init__(self, *parts: PreAggregator | Rule) -> None:
        *before, rule = parts or (None,)
        if not isinstance(rule, Rule):
            raise RobustnessError(f"comm: a chain ends in a rule, this one in {rule!r}")
        for part in before:
            if not isinstance(part, PreAggregator):
                raise RobustnessError(
                    f"comm: {part!r} stands before {rule.name} in a chain, where only nnm, bucketing, clip, arc can"
                )
        self.before = tuple(part for part in before if isinstance(part, PreAggregator))
        self.rule = rule
        self.name = "+".join([part.name for part in self.before] + [rule.name])  # type: ignore[misc]
        self.resilience: Resilience = rule.resilience  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, [*self.before, self.rule]))})"

    def min_n(self, f: int) -> int:
        least = self.rule.min_n(f)
        for part in reversed(self.before):
            least = part.min_n(least, f)
        return least

    def aggregate(self, r: Round) -> Tensor:
        made = torch.eye(r.n, dtype=torch.float64)
        first: list[int] | None = None
        for part in self.before:
            r, weights = part.prepare(r)
            first = r.info["nonfinite"] if first is None else first
            made = weights @ made
        self.rule.check(r.n, r.f)
        r.info.pop("weights", None)
        out = self.rule.aggregate(r)
        if first is not None:
            r.info["nonfinite"] = first
        if "weights" in r.info:
            r.info["weights"] = r.info["weights"] @ made
        return out

    def cost(self, n: int, f: int, d: int) -> str:
        return "; ".join(
            [
                *(f"{part.name} O(n^2 d)" if part.name == "nnm" else f"{part.name} O(n d)" for part in self.before),
                self.rule.cost(n, f, d),
            ]
        )
