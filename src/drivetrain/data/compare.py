"""Compare one feature of two batches from their statistics alone: drift, serving skew, scored skew (spec 17 §2.6).

Strings are compared by their counted values, what the table dropped being one more value `(other)`; numbers in bins
at the pooled quantiles of both sketches, with bins of their own for frequent values, NaN and the infinities.
"""

from __future__ import annotations

from typing import Any

from .distances import (
    jensen_shannon,
    js_noise_floor,
    kolmogorov_smirnov,
    l_infinity,
    noise_floor,
    normalized_abs_difference,
    pooled_bins,
    standard_bins,
    wasserstein_1,
)
from .report import Measurement
from .schema import Comparator
from .stats import FeatureStats

DISTANCES = ("linf", "js", "nad", "ks", "w1")
OTHER = "(other)"
ALPHA = 0.01


def comparable(a: FeatureStats, b: FeatureStats) -> bool:
    """Whether both sides have counted values, or both have numbers."""
    return (a.text is not None and b.text is not None) or (a.numeric is not None and b.numeric is not None)


def measure(
    before: FeatureStats,
    now: FeatureStats,
    *,
    kind: str = "drift",
    comparator: Comparator | None = None,
    bins: int | None = None,
) -> Measurement:
    """All distances between two batches of a feature.

    Args:
        before, now: statistics that are `comparable`.
        kind: "drift", "skew" or "scored"; only named in the result.
        comparator: thresholds, and the source of bins for numbers.
        bins: number of quantile bins for numbers; by default 10 to 32, growing with the smaller batch.
    """
    source = comparator.source if comparator else "quantiles"
    numbers = before.text is None or now.text is None
    p, q = _numbers(before, now, bins, source) if numbers else _strings(before, now)
    n, m = sum(p.values()), sum(q.values())
    linf, moved = l_infinity(p, q)
    distances = {"linf": linf, "js": jensen_shannon(p, q), "nad": normalized_abs_difference(p, q)[0]}
    categories = len(p.keys() | q.keys())
    floor = {"linf": noise_floor(n, m, categories, ALPHA), "js": js_noise_floor(n, m, categories, ALPHA)}
    if numbers:
        assert before.numeric is not None and now.numeric is not None
        a, b = before.numeric.sketch, now.numeric.sketch
        distances |= {"ks": kolmogorov_smirnov(a, b), "w1": wasserstein_1(a, b)}
        floor["ks"] = noise_floor(n, m, 1, ALPHA)
    shares = None if moved is None else (_label(moved), _share(p, moved, n), _share(q, moved, m))
    thresholds = {name: getattr(comparator, name) for name in DISTANCES if getattr(comparator, name, None) is not None}
    low = {name: limit for name, limit in thresholds.items() if limit < floor.get(name, 0.0)}
    notes = tuple(
        f"{name} threshold {limit:g} is below sampling noise "
        f"({floor[name]:.3g} at alpha={ALPHA} for n={n:,.0f}, m={m:,.0f}, "
        f"K={categories})"
        for name, limit in low.items()
    )
    return Measurement(kind, now.name, distances, shares, round(n), round(m), categories, floor, thresholds, notes)


def _strings(before: FeatureStats, now: FeatureStats) -> tuple[dict[Any, float], dict[Any, float]]:
    assert before.text is not None and now.text is not None
    sides = []
    for text in (before.text, now.text):
        counts: dict[Any, float] = dict(text.values.table)
        rest = text.values.total - sum(counts.values())
        if rest > 0:
            counts[OTHER] = rest
        sides.append(counts)
    return sides[0], sides[1]


def _numbers(
    before: FeatureStats, now: FeatureStats, bins: int | None, source: str
) -> tuple[dict[Any, float], dict[Any, float]]:
    assert before.numeric is not None and now.numeric is not None
    a, b = before.numeric, now.numeric
    p: dict[Any, float]
    q: dict[Any, float]
    if source == "standard":
        first, second = ([(x.low, x.high, x.sample_count) for x in s.standard_histogram.buckets] for s in (a, b))
        p, q = standard_bins(first, second)
    else:
        p, q = pooled_bins(a.sketch, b.sketch, bins or max(10, min(32, min(a.n, b.n) // 100)))
    for side, numeric in ((p, a), (q, b)):
        for label, count in (("NaN", numeric.num_nan), ("inf", numeric.num_pos_inf), ("-inf", numeric.num_neg_inf)):
            if count:
                side[label] = count
    return p, q


def _label(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return f"({value[0]:.6g}, {value[1]:.6g}]" if isinstance(value, tuple) else str(value)


def _share(side: dict[Any, float], value: Any, total: float) -> float:
    return side.get(value, 0.0) / total if total else 0.0
