"""Closed-form bounds: items until a mean is off by more than a tolerance with probability at most δ' (§2.5, §2.6).

Pure functions. Probabilities come as `log_inverse` = ln(1/δ'), because δ' reaches 2^-1000 with full feedback.
Every count is of items, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def whole(count: float) -> int:
    """Round a count up, forgiving a last-digit rounding of the formula; never below one item."""
    return max(1, math.ceil(count * (1 - 1e-14)))


def hoeffding(log_inverse: float, tol: float, spread: float = 1.0) -> int:
    """Items for one mean of values within an interval of length `spread`: ⌈r² ln(1/δ') / (2 ε²)⌉ (§2.5)."""
    return whole(spread * spread * log_inverse / (2 * tol * tol))


def split_tolerance(coefs: Sequence[float], tol: float, logs: Sequence[float] | None = None) -> list[float]:
    """Share a clause's tolerance among its variables so that all need the same number of items (§2.5).

    ε_i ∝ |c_i| √L_i: the largest of c_i² L_i / (2 ε_i²) under Σ ε_i = ε is smallest where all are equal.
    """
    weights = [abs(c) * math.sqrt(log) for c, log in zip(coefs, logs or [1.0] * len(coefs), strict=True)]
    return [tol * weight / sum(weights) for weight in weights]


def bennett_exponent(ratio: float) -> float:
    """h(u) = (1+u) ln(1+u) - u, by series for small u where the formula cancels."""
    if ratio < 1e-4:
        return ratio * ratio / 2 - ratio**3 / 6 + ratio**4 / 12
    return (1 + ratio) * math.log1p(ratio) - ratio


def bennett(log_inverse: float, tol: float, variance: float = 1.0) -> int:
    """Items for a mean of values ≤ 1 whose second moment is ≤ `variance`: ⌈ln(1/δ') / (p h(ε/p))⌉ (§2.6)."""
    return whole(log_inverse / (variance * bennett_exponent(tol / variance)))


def relative_entropy(a: float, q: float) -> float:
    """KL divergence of Bernoulli(a) from Bernoulli(q), natural log; inf where q cannot produce a."""
    total = 0.0
    for x, y in ((a, q), (1 - a, 1 - q)):
        if x > 0:
            total += x * math.log(x / y) if y > 0 else math.inf
    return max(total, 0.0)


def chernoff(log_inverse: float, tol: float, mean: float) -> int:
    """Items for values in [0, 1] with known mean: ⌈ln(1/δ') / KL(q+ε ‖ q)⌉ (Hoeffding 1963, theorem 1)."""
    return whole(log_inverse / relative_entropy(min(mean + tol, 1.0), mean))


def trinomial_rate(mean: float, tol: float, differ: float) -> float:
    """Exponent per item of P(average > mean + tol) for values in {-1, 0, 1} with P(±1) ≤ `differ` (Chernoff).

    At a fixed mean the moment generating function 1 + p₊(e^λ - 1) + p₋(e^-λ - 1) grows with p₊ + p₋, because
    e^λ + e^-λ ≥ 2: the worst law has p₊ + p₋ = differ. The same law dominates any variable in [-1, 1] with
    E|X| ≤ differ (group averages), as e^λx is convex on [-1, 0] and on [0, 1].
    """
    up, down = worst_trinomial(mean, differ)
    target = mean + tol
    if target >= 1 or up == 0:
        return math.inf
    rest = 1 - up - down

    # e^λ solves up(1-t) y² - rest·t·y - down(1+t) = 0 where the tilted mean is t.
    a, b, c = up * (1 - target), -rest * target, -down * (1 + target)
    y = (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
    if y <= 1:
        return 0.0
    return max(0.0, target * math.log(y) - math.log(rest + up * y + down / y))


def worst_trinomial(mean: float, differ: float) -> tuple[float, float]:
    """(P(+1), P(-1)) of the law with this mean and P(±1) = differ; clipped where the mean lies outside ±differ."""
    up = min(max((differ + mean) / 2, 0.0), differ)
    return up, differ - up


def trinomial_chernoff(log_inverse: float, tol: float, mean: float, differ: float) -> int:
    """Items for a paired difference by the Chernoff bound of its worst law; see `trinomial_rate`."""
    rate = trinomial_rate(mean, tol, differ)
    return whole(log_inverse / rate) if rate > 0 else 2**62


def clopper_pearson(successes: int, items: int, log_inverse: float) -> tuple[float, float]:
    """One-sided lower and upper limit of a proportion, each wrong with probability at most δ' (needs scipy)."""
    from ..base.extras import require

    special = require("scipy.special", extra="ci")
    delta = math.exp(-log_inverse)
    low = float(special.betaincinv(successes, items - successes + 1, delta)) if successes else 0.0
    high = float(special.betainccinv(successes + 1, items - successes, delta)) if successes < items else 1.0
    return low, high
