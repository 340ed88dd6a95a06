"""MDA, minimum-diameter averaging: the mean of the n - f vectors closest together ("brute" in AggregaThor's code).

The subset of n - f vectors with the least largest distance is found without listing all C(n, f): a diameter D is
reachable if at most f vectors cover all pairs farther apart than D, a search over 2^f branches; D is found by bisection
in the sorted distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import RobustnessError
from .krum import TIE, DistanceRule
from .rule import check_option


class MDA(DistanceRule):
    """The mean of the (n - f)-subset of least diameter.

    One pair sets a diameter, so several subsets often share the least one; that of the lowest ranks is taken.

    Args:
        limit: refuse when there are more than this many subsets, C(n, f), as the search can then take long; None never
            refuses.
    """

    name = "mda"

    def __init__(self, limit: int | None = 2_000_000) -> None:
        if limit is not None:
            check_option(self.name, "limit", limit, least=1)
        self.limit = limit

    def min_n(self, f: int) -> int:
        return 2 * f + 1

    def check(self, n: int, f: int) -> None:
        super().check(n, f)
        if self.limit is not None and math.comb(n, f) > self.limit:
            raise RobustnessError(
                f"comm: mda would choose among C({n}, {f}) = {math.comb(n, f):,} subsets, the limit is {self.limit:,}",
                hint="multi-krum is weakly resilient too and has no such cost; MDA(limit=None) searches nevertheless",
            )

    def select(self, sqdist: Tensor, f: int) -> Tensor:
        n = len(sqdist)
        self.check(n, f)
        chosen = least_diameter(sqdist, n - f)
        if chosen is None:
            raise RobustnessError(
                f"comm: mda needs {n - f} vectors with finite distances to each other, there are not so many",
                hint="too many values were lost or broken; a coordinate rule, as median, needs no distances",
            )
        weights = torch.zeros(n, dtype=torch.float64)
        weights[chosen] = 1 / len(chosen)
        return weights

    def variance_bound(self, n: int, f: int) -> float | None:
        return (n - f) / (math.sqrt(8) * f) if f else math.inf

    def cost(self, n: int, f: int, d: int) -> str:
        return f"{super().cost(n, f, d)}, then a search among C(n, f) = {math.comb(n, f):.2g} subsets"


def least_diameter(sqdist: Tensor, size: int) -> list[int] | None:
    """The `size` indices whose largest mutual distance is least; of equal sets (within `TIE`) that of the lowest.

    None when no such set has finite distances.
    """
    values = sqdist.double().tolist()
    steps = sorted({0.0, *(value for row in values for value in row if math.isfinite(value))})
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if _within(values, steps[middle], size) is None:
            low = middle + 1
        else:
            high = middle
    return _within(values, steps[low] * (1 + TIE), size)


def _within(values: list[list[float]], diameter: float, size: int) -> list[int] | None:
    """The first `size` indices that all lie within `diameter` of each other, or None."""
    n = len(values)
    far = [sum(1 << j for j in range(n) if j != i and not values[i][j] <= diameter) for i in range(n)]

    def search(index: int, left_out: int, spare: int, chosen: list[int]) -> list[int] | None:
        # Without a conflict among the vectors left, taking the next one is always right: only conflicts branch.
        while index < n and len(chosen) < size:
            conflicts = far[index] & ~left_out
            if left_out >> index & 1:
                index += 1
            elif not conflicts:
                chosen = [*chosen, index]
                index += 1
            else:
                cost = conflicts.bit_count()
                if cost <= spare:
                    found = search(index + 1, left_out | conflicts, spare - cost, [*chosen, index])
                    if found is not None:
                        return found
                if spare == 0:
                    return None
                left_out, spare, index = left_out | 1 << index, spare - 1, index + 1
        return chosen if len(chosen) == size else None

    return search(0, 0, n - size, [])
