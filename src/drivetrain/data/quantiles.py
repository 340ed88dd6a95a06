"""Quantiles of a stream in bounded memory: weighted, mergeable, with a proved rank error.

The randomised merge-and-halve summary of Agarwal, Cormode, Huang, Phillips, Wei, Yi, "Mergeable Summaries" (PODS 2012),
with systematic resampling in place of odd/even halving, so that values may carry weights. It is the idea of a KLL
sketch at the grain of whole batches: sorting a batch costs 10 ns a value where updating a KLL costs 50.

Up to K values are kept as they are. A run of more becomes K points of equal weight W/K, picked at positions (u + j) W/K
of its cumulated weight with one random u. Runs of like size (2^i K to 2^(i+1) K values) are merged pairwise and
resampled.

Rank error: one resampling of n_i values moves a rank by less than n_i/K, without bias. At most n/(2^i K) happen at
level i, so the squared ranges add up to at most 8 n²/K² and, by Hoeffding, P(error > e n) <= 2 exp(-e² K² / 4): 1e-11
at e = 0.01, K = 1024.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
POINTS = 1024


@dataclass(frozen=True, eq=False)
class Run:
    """Sorted points that stand for `count` values of total weight `weight`; each point carries weight / len(points)."""

    points: Floats
    count: int
    weight: float

    @property
    def level(self) -> int:
        return int(math.log2(max(1.0, self.count / POINTS)))


class QuantileSketch:
    """Summary of a weighted stream of finite numbers; exact up to 1,024 values, within 0.01 of every rank beyond."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._loose: Floats = np.empty(0)  # values kept one by one, in any order
        self._loose_weights: Floats = np.empty(0)
        self._sorted: tuple[Floats, Floats] | None = None

    @classmethod
    def of(cls, values: ArrayLike, weights: ArrayLike | None = None) -> QuantileSketch:
        """The sketch of some numbers."""
        sketch = cls()
        sketch.update(np.asarray(values), None if weights is None else np.asarray(weights, np.float64))
        return sketch

    @classmethod
    def constant(cls, value: float, count: int) -> QuantileSketch:
        """The sketch of one value, `count` times."""
        if count <= POINTS:
            return cls.of(np.full(count, value))
        sketch = cls()
        sketch._push(Run(np.full(POINTS, value), count, float(count)))
        return sketch

    @classmethod
    def from_cdf(cls, edges: Floats, shares: Floats, count: int) -> QuantileSketch:
        """The sketch of `count` values of which share `shares[i]` lies at or below `edges[i]`, evenly in between."""
        points = np.interp((np.arange(POINTS) + 0.5) / POINTS, shares, edges)
        sketch = cls()
        sketch.runs.append(Run(points, count, float(count)))
        return sketch

    @property
    def n(self) -> int:
        """Number of values seen."""
        return len(self._loose) + sum(run.count for run in self.runs)

    @property
    def weight(self) -> float:
        """Sum of the weights seen; equals `n` where no weights were given."""
        return float(self._loose_weights.sum()) + sum(run.weight for run in self.runs)

    @property
    def exact(self) -> bool:
        """True while every value is kept."""
        return not self.runs

    def rank_error(self, confidence: float = 0.99) -> float:
        """Bound on the error of a rank, as a share of the stream, that holds with `confidence`."""
        return 0.0 if self.exact else 2.0 / POINTS * math.sqrt(math.log(2.0 / (1.0 - confidence)))

    def update(self, values: NDArray[Any], weights: Floats | None = None, *, presorted: bool = False) -> None:
        """Add finite numbers of any numeric dtype, each of weight 1 or of its own weight > 0."""
        if len(values) == 0:
            return
        self._sorted = None
        if len(values) <= POINTS:
            self._loose = np.concatenate([self._loose, values.astype(np.float64)])
            added = np.ones(len(values)) if weights is None else weights
            self._loose_weights = np.concatenate([self._loose_weights, added])
            if len(self._loose) > POINTS:
                loose, loose_weights = self._loose, self._loose_weights
                self._loose, self._loose_weights = np.empty(0), np.empty(0)
                self._push(_resample_weighted(loose, loose_weights))
        elif weights is None:
            self._push(_resample_sorted(values if presorted else np.sort(values)))
        else:
            self._push(_resample_weighted(values, weights))

    def merge(self, other: QuantileSketch) -> QuantileSketch:
        """A new sketch of both streams."""
        merged = QuantileSketch()
        for run in sorted(self.runs + other.runs, key=lambda run: (run.count, run.points[0])):
            merged._push(run)
        for part in (self, other):
            merged.update(part._loose, part._loose_weights)
        return merged

    def support(self) -> tuple[Floats, Floats]:
        """Sorted points and their weights (not normalised): the summary itself, for comparing distributions."""
        if self._sorted is None:
            points = np.concatenate([self._loose] + [run.points for run in self.runs])
            weights = np.concatenate(
                [self._loose_weights] + [np.full(len(run.points), run.weight / len(run.points)) for run in self.runs]
            )
            order = np.argsort(points, kind="stable")
            self._sorted = points[order], weights[order]
        return self._sorted

    def quantile(self, q: ArrayLike) -> Any:
        """Value(s) at share(s) q in [0, 1]; NaN for an empty sketch.

        While exact and unweighted this is numpy's linear definition; otherwise points sit at the middle of their
        weight.
        """
        points, weights = self.support()
        shares = np.asarray(q, np.float64)
        if len(points) == 0:
            values = np.full(shares.shape, np.nan)
        elif self.exact and (weights == weights[0]).all():
            values = np.quantile(points, shares)
        else:
            middles = np.cumsum(weights) - weights / 2
            values = np.interp(shares * weights.sum(), middles, points)
        return float(values) if values.ndim == 0 else values

    def cdf(self, x: ArrayLike) -> Any:
        """Share of the weight at or below x; NaN for an empty sketch."""
        points, weights = self.support()
        where = np.asarray(x, np.float64)
        if len(points) == 0:
            shares = np.full(where.shape, np.nan)
        else:
            below = np.concatenate([[0.0], np.cumsum(weights)])
            shares = below[np.searchsorted(points, where, side="right")] / below[-1]
        return float(shares) if shares.ndim == 0 else shares

    def point_masses(self, at_least: float) -> dict[float, float]:
        """Single values that carry a share of the weight >= `at_least`, with their shares."""
        points, weights = self.support()
        if len(points) == 0:
            return {}
        values, start = np.unique(points, return_index=True)
        shares = np.add.reduceat(weights, start) / weights.sum()
        heavy = shares >= at_least
        return dict(zip(values[heavy].tolist(), shares[heavy].tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain data with base64 of the points; keeps all that merging needs."""
        return {
            "loose": _encode(self._loose),
            "loose_weights": None if (self._loose_weights == 1.0).all() else _encode(self._loose_weights),
            "runs": [{"points": _encode(r.points), "count": r.count, "weight": r.weight} for r in self.runs],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> QuantileSketch:
        """Inverse of `to_json`."""
        sketch = cls()
        sketch._loose = _decode(data["loose"])
        weights = data["loose_weights"]
        sketch._loose_weights = np.ones(len(sketch._loose)) if weights is None else _decode(weights)
        sketch.runs = [Run(_decode(r["points"]), int(r["count"]), float(r["weight"])) for r in data["runs"]]
        return sketch

    def _push(self, run: Run) -> None:
        """Add a run as a binary counter does: two of one level become one of the next."""
        while (twin := next((r for r in self.runs if r.level == run.level), None)) is not None:
            self.runs.remove(twin)
            points = np.concatenate([twin.points, run.points])
            weights = np.repeat([twin.weight / len(twin.points), run.weight / len(run.points)], POINTS)
            merged = _resample_weighted(points, weights)
            run = Run(merged.points, twin.count + run.count, twin.weight + run.weight)
        self.runs.append(run)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantileSketch) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        return f"QuantileSketch(n={self.n}, exact={self.exact})"


def _resample_sorted(values: NDArray[Any]) -> Run:
    n = len(values)
    positions = (_offset(values) + np.arange(POINTS)) * (n / POINTS)
    return Run(values[np.minimum(positions.astype(np.int64), n - 1)].astype(np.float64), n, float(n))


def _resample_weighted(values: NDArray[Any], weights: Floats) -> Run:
    order = np.argsort(values, kind="stable")
    values, cumulated = values[order], np.cumsum(weights[order])
    total = float(cumulated[-1])
    positions = (_offset(values) + np.arange(POINTS)) * (total / POINTS)
    picked = np.minimum(np.searchsorted(cumulated, positions, side="right"), len(values) - 1)
    return Run(values[picked].astype(np.float64), len(values), total)


def _offset(values: NDArray[Any]) -> float:
    """Uniform in [0, 1), drawn from the data: same data same sketch, yet independent between the parts of a merge."""
    probe = np.ascontiguousarray(values[:: max(1, len(values) // 64)])
    return zlib.crc32(probe.tobytes(), len(values)) / 2**32


def _encode(values: Floats) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode()


def _decode(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)
