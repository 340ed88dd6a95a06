"""Distances between two distributions, and how large they are by chance alone (spec 17 §2.6).

p, q: mappings from value to count or share, or plain sequences of such; both sides are normalised to sum 1, except by
`normalized_abs_difference`, which compares raw counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from .quantiles import QuantileSketch

Masses = Mapping[Any, float] | Sequence[float]


def l_infinity(p: Masses, q: Masses) -> tuple[float, Hashable]:
    """max_i |p_i - q_i| and the value i that moved most: no value's share changed by more than this.

    A threshold on it reads plainly, it is finite on disjoint supports and, unlike a test's p-value, doesn't fire on
    every large batch. (0, None) if both sides are empty; 1 against an empty side.
    """
    keys, p_K, q_K = _aligned(p, q)
    if not keys:
        return 0.0, None
    p_K, q_K = _normalised(p_K), _normalised(q_K)
    change_K = np.abs(p_K - q_K)
    if not p_K.any() or not q_K.any():
        return 1.0, keys[int(change_K.argmax())]
    most = int(change_K.argmax())
    return float(change_K[most]), keys[most]


def jensen_shannon(p: Masses, q: Masses) -> float:
    """(KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2, base 2: 0 for equal, 1 for disjoint distributions."""
    keys, p_K, q_K = _aligned(p, q)
    if not keys:
        return 0.0
    p_K, q_K = _normalised(p_K), _normalised(q_K)
    if not p_K.any() or not q_K.any():
        return 1.0
    middle_K = (p_K + q_K) / 2
    return min(1.0, max(0.0, (_divergence(p_K, middle_K) + _divergence(q_K, middle_K)) / 2))


def normalized_abs_difference(a: Masses, b: Masses) -> tuple[float, Hashable]:
    """max_i |a_i - b_i| / (sum a + sum b) on raw counts, and the value i; for batches that should be equally large."""
    keys, a_K, b_K = _aligned(a, b)
    total = a_K.sum() + b_K.sum()
    if not keys or total == 0:
        return 0.0, None
    most = int(np.abs(a_K - b_K).argmax())
    return float(abs(a_K[most] - b_K[most]) / total), keys[most]


def kolmogorov_smirnov(a: QuantileSketch, b: QuantileSketch) -> float:
    """max_x |F_a(x) - F_b(x)| of two summaries, in [0, 1]."""
    _, gap_N = _cdf_gap(a, b)
    return float(gap_N.max(initial=0.0))


def wasserstein_1(a: QuantileSketch, b: QuantileSketch) -> float:
    """Integral of |F_a - F_b|: how far, in the feature's own unit, the average value would have to move."""
    points_N, gap_N = _cdf_gap(a, b)
    if len(points_N) < 2:
        return 0.0
    with np.errstate(over="ignore"):
        return float(np.dot(gap_N[:-1], np.diff(points_N)))


def noise_floor(n: float, m: float, categories: int, alpha: float = 0.01) -> float:
    """The L-infinity distance that two samples of one distribution pass with probability at most alpha.

    P(L-infinity > t) <= 2 K exp(-2 t^2 n m / (n + m)) (Hoeffding, union over K categories), solved for t.

    Args:
        n, m: number of values in the two batches.
        categories: K, number of distinct values or bins.
    """
    if n <= 0 or m <= 0:
        return 1.0
    return min(1.0, math.sqrt(math.log(2 * max(1, categories) / alpha) * (n + m) / (2 * n * m)))


def js_noise_floor(n: float, m: float, categories: int, alpha: float = 0.01) -> float:
    """The Jensen-Shannon divergence that two samples of one distribution pass with probability about alpha.

    JS is near sum (p_i - q_i)^2 / (8 ln 2 m_i), which under no change is (1/n + 1/m) / (8 ln 2) times a chi-square
    with K - 1 degrees of freedom; its quantile is by Wilson and Hilferty's cube. An approximation for large n and m.
    """
    if n <= 0 or m <= 0:
        return 1.0
    if categories < 2:
        return 0.0
    free = categories - 1
    z = NormalDist().inv_cdf(1 - alpha)
    chi_square = free * (1 - 2 / (9 * free) + z * math.sqrt(2 / (9 * free))) ** 3
    return min(1.0, chi_square * (1 / n + 1 / m) / (8 * math.log(2)))


def pooled_bins(a: QuantileSketch, b: QuantileSketch, bins: int = 10) -> tuple[dict[str, float], dict[str, float]]:
    """Masses of two summaries in common bins: pooled quantiles, and a bin for each value with a share above 1 / bins.

    Equal-width bins, as TFDV has them, put nearly everything into one bin when a single value is far out.

    Returns:
        Two dicts from the bin's label to its mass (number of values), with the same keys.
    """
    heavy = sorted({value for sketch in (a, b) for value in sketch.point_masses(1 / bins)})
    sides = [sketch.support() for sketch in (a, b)]
    points_N = np.concatenate([points for points, _ in sides])
    weights_N = np.concatenate([weights for _, weights in sides])
    light_N = ~np.isin(points_N, heavy)
    order_N = np.argsort(points_N[light_N], kind="stable")
    light_points, cumulated = points_N[light_N][order_N], np.cumsum(weights_N[light_N][order_N])
    edges = np.empty(0)
    if len(light_points):
        places = np.searchsorted(cumulated, np.arange(1, bins) / bins * cumulated[-1])
        edges = np.unique(light_points[np.minimum(places, len(light_points) - 1)])
    ends = ["-inf", *(f"{edge:.6g}" for edge in edges), "inf"]
    labels = [f"({low}, {high}]" for low, high in pairwise(ends)]
    labels += [f"{value:.6g}" for value in heavy]
    p, q = (_binned(points, weights, edges, heavy, labels) for points, weights in sides)
    return p, q


def _binned(points: Any, weights: Any, edges: Any, heavy: list[float], labels: list[str]) -> dict[str, float]:
    place_N = np.searchsorted(edges, points, side="left")
    if heavy:
        nearest_N = np.minimum(np.searchsorted(heavy, points), len(heavy) - 1)
        place_N = np.where(np.asarray(heavy)[nearest_N] == points, len(edges) + 1 + nearest_N, place_N)
    mass = np.bincount(place_N, weights, minlength=len(labels))
    found: dict[str, float] = dict.fromkeys(labels, 0.0)
    for label, value in zip(labels, mass.tolist(), strict=True):
        found[label] += value  # two bins that print alike are one bin
    return found


def standard_bins(
    a: Sequence[tuple[float, float, float]], b: Sequence[tuple[float, float, float]]
) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
    """Align two histograms as TFDV does: union of the boundaries, counts spread evenly inside the old buckets.

    Args:
        a, b: buckets (low, high, count). Buckets of zero or infinite width stand for themselves.
    """
    edges = np.unique([end for low, high, _ in (*a, *b) for end in (low, high) if math.isfinite(high - low)])
    return _spread(a, edges), _spread(b, edges)


def _spread(buckets: Sequence[tuple[float, float, float]], edges: Any) -> dict[Hashable, float]:
    found: dict[Hashable, float] = {}
    for low, high, count in buckets:
        if not low < high or not math.isfinite(high - low):
            found[(low, high)] = found.get((low, high), 0.0) + count
            continue
        inside = edges[np.searchsorted(edges, low) : np.searchsorted(edges, high) + 1].tolist()
        for start, end in pairwise(inside):
            found[(start, end)] = found.get((start, end), 0.0) + count * (end - start) / (high - low)
    return found


def _cdf_gap(a: QuantileSketch, b: QuantileSketch) -> tuple[Any, Any]:
    points_N = np.union1d(a.support()[0], b.support()[0])
    if a.n == 0 or b.n == 0:
        return points_N, np.full(len(points_N), 0.0 if a.n == b.n else 1.0)
    return points_N, np.abs(a.cdf(points_N) - b.cdf(points_N))


def _aligned(p: Masses, q: Masses) -> tuple[list[Any], Any, Any]:
    if not isinstance(p, Mapping):
        p = dict(enumerate(p))
    if not isinstance(q, Mapping):
        q = dict(enumerate(q))
    keys = list(p) if p.keys() == q.keys() else list({**p, **q})
    p_K = np.fromiter((p.get(key, 0) for key in keys), np.float64, len(keys))
    q_K = np.fromiter((q.get(key, 0) for key in keys), np.float64, len(keys))
    return keys, p_K, q_K


def _normalised(mass_K: Any) -> Any:
    total = mass_K.sum()
    return mass_K / total if total > 0 else mass_K


def _divergence(p_K: Any, m_K: Any) -> float:
    there = p_K > 0
    return float(np.sum(p_K[there] * np.log2(p_K[there] / m_K[there])))
