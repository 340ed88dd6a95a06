"""Krum and Multi-Krum: keep the vectors that have the closest company (AggregaThor §2; Blanchard et al. 2017).

score_i = sum of the n - f - 2 smallest squared distances from i to others. Krum returns the vector of least score,
Multi-Krum the mean of the m = n - f - 2 best, which is the largest m that stays weakly resilient. Equal scores go to
the lowest rank.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from .distances import combine, squared_distances
from .errors import RobustnessError
from .rule import Kind, Resilience, Round, Rule, check_fault_count, check_option

# Scores nearer than this, relatively, are equal: float64 sums of equal terms in another order differ by less.
TIE = 1e-12


def ranking(scores: Tensor) -> list[int]:
    """Indices from the least score to the largest; among equal scores (within `TIE`) the lowest index first."""
    values = scores.tolist()
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    ranked: list[int] = []
    at = 0
    while at < len(order):
        limit = values[order[at]] + TIE * abs(values[order[at]])
        end = at + 1
        while end < len(order) and values[order[end]] <= limit:
            end += 1
        ranked += sorted(order[at:end])
        at = end
    return ranked


def neighbour_scores(sqdist: Tensor, neighbours: int, *, squared: bool = True) -> Tensor:
    """Sum of the `neighbours` smallest distances of each row to the others (float64 [n])."""
    others = sqdist.double().clone()
    others.fill_diagonal_(torch.inf)
    nearest = others.sort(dim=1).values[:, :neighbours]
    return (nearest if squared else nearest.sqrt()).sum(1)


def refuse_strangers(name: str, scores: Tensor, needed: int) -> None:
    """Raise `RobustnessError` when fewer than `needed` scores are finite: too many pairs have nothing in common."""
    finite = int(torch.isfinite(scores).sum())
    if finite < needed:
        raise RobustnessError(
            f"comm: {name} needs {needed} vectors with finite distances to their neighbours, here are {finite}",
            hint="too many values were lost or broken; a coordinate rule, as median, needs no distances",
        )


def variance_eta(n: int, f: int) -> float:
    """eta(n, f): Krum and Bulyan hold while the honest standard deviation over the mean's norm is below 1 / eta."""
    return math.sqrt(2 * (n - f + (f * (n - f - 2) + f**2 * (n - f - 1)) / (n - 2 * f - 2)))


class DistanceRule(Rule):
    """A rule that chooses weights from the squared distances between workers."""

    kind: ClassVar[Kind] = "distance"
    resilience: ClassVar[Resilience] = "weak"

    @abstractmethod
    def select(self, sqdist: Tensor, f: int) -> Tensor:
        """Weights out of squared distances.

        Args:
            sqdist: [n, n]; infinite to and from a broken vector.
            f: how many vectors may be faulty.

        Returns:
            float64 weights [n] that sum to 1, or [theta, n] for a rule that goes on with theta means.
        """

    def aggregate(self, r: Round) -> Tensor:
        sqdist, bad = squared_distances(r)
        r.refuse_broken(bad, r.f)
        weights = self.select(sqdist, r.f)
        r.info["weights"], r.info["sqdist"] = weights, sqdist
        return self.finish(r, weights)

    def finish(self, r: Round, weights: Tensor) -> Tensor:
        """The result [d] from the weights and the vectors."""
        return combine(r, weights)

    def cost(self, n: int, f: int, d: int) -> str:
        return f"O(n^2 d): {n * (n - 1) / 2 * d:.2g} multiply-adds for the distances"


class MultiKrum(DistanceRule):
    """The mean of the m vectors with the best scores.

    Args:
        m: how many are averaged; None is n - f - 2, the most that is resilient.
        neighbours: how many distances a score sums; None is n - f - 2, as in the paper.
        squared: sum squared distances, as in the paper, or plain ones, as ByzantineMomentum.
    """

    name = "multi-krum"

    def __init__(self, m: int | None = None, neighbours: int | None = None, squared: bool = True) -> None:
        if m is not None:
            check_option(self.name, "m", m, least=1)
        if neighbours is not None:
            check_option(self.name, "neighbours", neighbours, least=1)
        self.m, self.neighbours, self.squared = m, neighbours, squared
        self._parity = False

    @classmethod
    def byzfl(cls, n: int, f: int) -> Self:
        """The variant of ByzFL 0.0.11, to compare with: scores over n - f - 1 distances, m = n - f, from n > 2f on.

        It can average over all honest workers and more, so the paper's guarantee does not hold for it.
        """
        check_fault_count(f)
        rule = cls(m=n - f, neighbours=n - f - 1)
        rule._parity = True
        return rule

    def min_n(self, f: int) -> int:
        return 2 * f + (1 if self._parity else 3)

    def scores(self, sqdist: Tensor, f: int) -> Tensor:
        """The score of each row (float64 [n]), infinite for a broken one."""
        n = len(sqdist)
        neighbours = self.neighbours or n - f - 2
        if neighbours > n - f - 1:
            raise RobustnessError(
                f"comm: {self.name}: neighbours={neighbours} of n={n} workers with f={f}, wanted at most {n - f - 1}",
                hint="a score over more would count faulty workers as company",
            )
        return neighbour_scores(sqdist, neighbours, squared=self.squared)

    def chosen(self, n: int, f: int) -> int:
        """m for these n and f."""
        most = n - f - 2 + (2 if self._parity else 0)
        if self.m is not None and self.m > most:
            raise RobustnessError(
                f"comm: {self.name}: m={self.m} of n={n} workers with f={f}, wanted 1 to {most}",
                hint=f"m = n - f - 2 = {most} is the largest that stays resilient",
            )
        return self.m or most

    def select(self, sqdist: Tensor, f: int) -> Tensor:
        n = len(sqdist)
        m = self.chosen(n, f)
        weights = torch.zeros(n, dtype=torch.float64)
        scores = self.scores(sqdist, f)
        refuse_strangers(self.name, scores, m)
        weights[ranking(scores)[:m]] = 1 / m
        return weights

    def variance_bound(self, n: int, f: int) -> float | None:
        return 1 / variance_eta(n, f) if n > 2 * f + 2 else None


class Krum(MultiKrum):
    """The vector with the best score; `neighbours` and `squared` as in `MultiKrum`."""

    name = "krum"

    def __init__(self, neighbours: int | None = None, squared: bool = True) -> None:
        super().__init__(m=1, neighbours=neighbours, squared=squared)

    @classmethod
    def byzfl(cls, n: int, f: int) -> Self:
        """The variant of ByzFL 0.0.11, for comparison: scores over n - f - 1 distances, accepted from n > 2f."""
        check_fault_count(f)
        rule = cls(neighbours=n - f - 1)
        rule._parity = True
        return rule
