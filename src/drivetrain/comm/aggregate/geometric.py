"""Rules that use norms: CGE, geometric median, centered clipping. They pass over whole vectors, one or several times.

Shapes: n workers, d coordinates. A broken vector (NaN or infinity in it) has an infinite norm and gets no weight.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from .coordinate import Statistic, coordinate_statistic
from .distances import combine, squared_distances_to
from .errors import RobustnessError, VectorError
from .krum import ranking
from .rule import Kind, Resilience, Round, Rule, check_option


class NormRule(Rule):
    """What the three have in common: n >= 2f + 1, and guarantees only under assumptions of their own."""

    kind: ClassVar[Kind] = "iterative"
    resilience: ClassVar[Resilience] = "weak"

    def min_n(self, f: int) -> int:
        return 2 * f + 1


class CGE(NormRule):
    """Comparative gradient elimination: the mean of the n - f vectors of least norm (Gupta et al. 2020).

    It sees no attack that keeps its norm small, such as a sign flip.
    """

    name = "cge"

    def aggregate(self, r: Round) -> Tensor:
        norms, bad = squared_distances_to(r, None)
        r.refuse_broken(bad, r.f)
        weights = torch.zeros(r.n, dtype=torch.float64)
        weights[ranking(norms)[: r.n - r.f]] = 1 / (r.n - r.f)
        r.info["weights"] = weights
        return combine(r, weights)


class GeometricMedian(NormRule):
    """The point of least summed distance to the vectors, by Weiszfeld's iteration from the coordinate median.

    Args:
        iters: how many steps at most; it stops when a step changes nothing.
        eps: distances below this share of the median distance count as that much (it smooths the weights).
    """

    name = "geometric-median"

    def __init__(self, iters: int = 8, eps: float = 1e-6) -> None:
        check_option(self.name, "iters", iters, least=1)
        if not 0 < eps < 1:
            raise RobustnessError(f"comm: geometric-median: eps={eps}, wanted a share between 0 and 1")
        self.iters, self.eps = iters, eps

    def aggregate(self, r: Round) -> Tensor:
        point, bad, _ = coordinate_statistic(r.g, r.mask, Statistic("mean"))
        r.refuse_broken(r.reduce(bad.double().cpu()) > 0, r.f)
        weights = torch.zeros(r.n, dtype=torch.float64)
        for _ in range(self.iters):
            square, _ = squared_distances_to(r, point)
            distance = square.sqrt()
            floor = self.eps * float(distance.median())
            if float(distance.min()) == 0 and floor == 0:  # half of the vectors lie here: it is the point
                weights = (distance == 0).double()
                weights /= weights.sum()
                break
            before, weights = weights, 1 / distance.clamp(min=floor)
            weights /= weights.sum()
            if torch.equal(before, weights):
                break
            point = combine(r, weights)
        r.info["weights"] = weights
        return point

    def cost(self, n: int, f: int, d: int) -> str:
        return f"O(n d iterations): {2 * n * d * self.iters:.2g} multiply-adds"


class CenteredClipping(NormRule):
    """Start at a trusted point, add the mean difference to it, each clipped to `radius` (Karimireddy et al. 2021).

    Args:
        radius: the longest step that one worker can cause, times n; None is the median of the distances to the start.
        iters: how often this is repeated.
        previous: where to start, usually the last result [d]; None is the coordinate median.
    """

    name = "centered-clipping"

    def __init__(self, radius: float | None = None, iters: int = 1, previous: Tensor | None = None) -> None:
        if radius is not None and not (math.isfinite(radius) and radius > 0):
            raise RobustnessError(f"comm: centered-clipping: radius={radius}, wanted a length above 0, or None")
        check_option(self.name, "iters", iters, least=1)
        self.radius, self.iters, self.previous = radius, iters, previous

    def aggregate(self, r: Round) -> Tensor:
        point, bad, _ = coordinate_statistic(r.g, r.mask, Statistic("mean"))
        r.refuse_broken(r.reduce(bad.double().cpu()) > 0, r.f)
        if self.previous is not None:
            if self.previous.shape != point.shape:
                shapes = f"{list(self.previous.shape)}, the vectors {list(point.shape)}"
                raise VectorError(f"comm: centered-clipping: previous has shape {shapes}")
            point = self.previous.to(point)
        for _ in range(self.iters):
            square, _ = squared_distances_to(r, point)
            distance = square.sqrt()
            radius = self.radius if self.radius is not None else float(distance.sort().values[(r.n - 1) // 2])
            factor = (radius / distance.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1.0)
            factor[torch.isinf(distance)] = 0.0
            r.info["weights"] = factor / r.n
            point = _step(r, point, factor / r.n)
        return point

    def cost(self, n: int, f: int, d: int) -> str:
        return f"O(n d iterations): {3 * n * d * self.iters:.2g} multiply-adds"


def _step(r: Round, point: Tensor, weights: Tensor) -> Tensor:
    """point + sum_i weights_i (g_i - point); a missing value counts as no difference."""
    total = float(weights.sum())
    if total == 0:
        return point
    if r.mask is None:
        mean = combine(r, weights)
    else:
        filled = torch.where(r.mask & torch.isfinite(r.g), r.g, point)
        mean = combine(Round(filled, r.f), weights)
    return (point.double() * (1 - total) + mean.double()).to(point.dtype)
