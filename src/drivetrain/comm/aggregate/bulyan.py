"""Bulyan over Multi-Krum: no single coordinate can be far off either (AggregaThor §2, its code's op_bulyan).

 1  score_i over the n - f - 2 nearest; remember which distances were counted
 2  for k = 0 .. theta - 1: S_k = mean of the m - k best; take the single best vector j away;
    score_i -= counted distance(i, j)
 3  per coordinate over S_0 .. S_{theta-1}: the mean of the beta values nearest to element theta // 2

theta = n - 2f - 2, beta = theta - 2f, m = n - f - 2, so n >= 4f + 3. The distances are computed once. (The original
Bulyan, arXiv 1802.07927, has theta = n - 2f; shrinking means of m - k vectors need the -2.)
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .coordinate import Statistic, coordinate_statistic
from .distances import combine
from .errors import RobustnessError
from .krum import DistanceRule, neighbour_scores, ranking, refuse_strangers, variance_eta
from .rule import Resilience, Round, check_option


class Bulyan(DistanceRule):
    """Means of the best vectors, then per coordinate the values nearest to their median.

    Args:
        m: how many vectors the first mean takes; None is n - f - 2.
        theta: how many means are made; None is n - 2f - 2.
    """

    name = "bulyan"
    resilience: ClassVar[Resilience] = "strong"

    def __init__(self, m: int | None = None, theta: int | None = None) -> None:
        if m is not None:
            check_option(self.name, "m", m, least=1)
        if theta is not None:
            check_option(self.name, "theta", theta, least=1)
        self.m, self.theta = m, theta

    def min_n(self, f: int) -> int:
        return 4 * f + 3

    def sizes(self, n: int, f: int) -> tuple[int, int]:
        """m and theta for these n and f."""
        m, theta = self.m or n - f - 2, self.theta or n - 2 * f - 2
        if m > n - f - 2:
            raise RobustnessError(f"comm: bulyan: m={m} of n={n} workers with f={f}, wanted 1 to {n - f - 2}")
        if not 2 * f + 1 <= theta <= n - 2 * f:
            raise RobustnessError(
                f"comm: bulyan: theta={theta} of n={n} workers with f={f}, wanted {2 * f + 1} to {n - 2 * f}",
                hint=f"theta = n - 2f - 2 = {n - 2 * f - 2} is the paper's",
            )
        return m, theta

    def select(self, sqdist: Tensor, f: int) -> Tensor:
        n = len(sqdist)
        m, theta = self.sizes(n, f)
        scores, counted = neighbour_scores(sqdist, n - f - 2), _counted(sqdist, n - f - 2)
        refuse_strangers(self.name, scores, m)
        broken = torch.isinf(scores)
        weights = torch.zeros(theta, n, dtype=torch.float64)
        for k in range(theta):
            size = max(m - k, 1)
            best = ranking(scores)
            weights[k, best[:size]] = 1 / size
            scores -= counted[:, best[0]]
            scores[broken] = torch.inf
            scores[best[0]] = torch.inf
            broken[best[0]] = True
        return weights

    def finish(self, r: Round, weights: Tensor) -> Tensor:
        means = combine(r, weights)
        out, _, _ = coordinate_statistic(means, None, Statistic("upper", r.f, drop=2 * r.f))
        return out

    def variance_bound(self, n: int, f: int) -> float | None:
        return 1 / variance_eta(n, f) if n > 2 * f + 2 else None


def _counted(sqdist: Tensor, neighbours: int) -> Tensor:
    """sqdist where row i counted it in its score, 0 elsewhere; at equal distances the lowest ranks count."""
    others = sqdist.double().clone()
    others.fill_diagonal_(torch.inf)
    nearest = others.argsort(dim=1, stable=True)[:, :neighbours]
    counted = torch.zeros_like(others)
    return counted.scatter_(1, nearest, others.gather(1, nearest))
