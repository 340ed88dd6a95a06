"""Numerically exact bounds: fewer items than the closed forms, from binomial tails (§2.6.4 and three steps beyond it).

Each bound answers: with N items, how likely is it at worst that the estimate exceeds the truth by more than the
tolerance in the direction that would make the decision wrong? `smallest_safe` then finds the N from which on that
stays ≤ δ'.

`worst_binomial`   one proportion, whatever its value (the paper's tight bound).
`at_threshold`     one proportion, only at the threshold of the condition. A wrong accept of `n > A` needs a true n
                   ≤ A, and P(Bin(N, q) ≥ k) grows with q, so q = A is the worst case: near 0.9 the variance is
                   0.09, not 0.25.
`paired`           n - o as a mean of values in {-1, 0, 1}; see `paired_tail` for the proof of its worst case.
`bounded`          any mean of values in a range (scores, groups, n - 1.1 o); see `bounded_tail`.

Floating-point tails are compared, raised by one part in a million, against δ'. Sources: Clopper & Pearson 1934;
Hoeffding 1963 (convex domination by the binomial); Darroch 1964 (mode of a Poisson-binomial law).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ..base.extras import require
from .bounds import hoeffding, relative_entropy, trinomial_rate, worst_trinomial

MAX_LOG = 600.0  # beyond ln(1/δ') = 600 a tail is near the smallest double; the closed forms take over
_SAFETY = 1 + 1e-6  # above the rounding of log-gamma at millions of items


def _special() -> Any:
    return require("scipy.special", extra="ci")


def binomial_tail(items: Any, successes: Any, q: Any) -> Any:
    """P(Bin(items, q) ≥ successes), vectorised; 1 for successes ≤ 0, 0 for successes > items."""
    k = np.asarray(successes, dtype=float)
    n = np.asarray(items, dtype=float)
    inside = (k > 0) & (k <= n)
    tail = _special().betainc(np.where(inside, k, 1.0), np.where(inside, n - k + 1, 1.0), q)
    return np.where(inside, tail, np.where(k <= 0, 1.0, 0.0))


def threshold_count(items: int, level: float) -> int:
    """Smallest count whose share of `items` is above `level`, with level a decimal: ⌊N·level⌋ + 1."""
    return math.floor(items * level + 1e-9) + 1


def worst_binomial_tail(items: int, tol: float, enough: float = 0.0) -> float:
    """sup over q of P(Bin(N,q)/N - q > ε) = max over k of P(Bin(N, k/N - ε) ≥ k), all k at once (§2.6.4).

    `enough`: probabilities that the Chernoff bound puts below it are not computed, which spares most of the range of k.
    """
    k = np.arange(max(1, math.ceil(items * tol)), items + 1, dtype=float)
    q = k / items - tol
    k, q = k[q > 0], q[q > 0]
    if enough > 0 and len(k):
        k, q = _plausible(items, k, q, enough)
    if not len(k):
        return 0.0
    return float(np.max(_special().betainc(k, items - k + 1, q)))


def _plausible(items: int, k: Any, q: Any, level: float) -> tuple[Any, Any]:
    """The k whose Chernoff bound exp(-N KL(k/N ‖ q)) reaches `level`."""
    share = k / items
    rest = np.where(share < 1, 1 - share, 1.0)
    entropy = share * np.log(share / q) + np.where(share < 1, (1 - share) * np.log(rest / (1 - q)), 0.0)
    keep = -items * entropy >= math.log(level)
    return k[keep], q[keep]


@lru_cache(maxsize=256)
def worst_binomial(log_inverse: float, tol: float) -> int:
    """Items for one proportion of unknown value: bisection on `worst_binomial_tail`, from the Hoeffding size down."""
    delta = math.exp(-log_inverse)
    low, high = 0, hoeffding(log_inverse, tol)
    while high - low > 1:
        middle = (low + high) // 2
        if _worst_binomial_exceeds(middle, tol, delta):
            low = middle
        else:
            high = middle
    return high


def _worst_binomial_exceeds(items: int, tol: float, delta: float) -> bool:
    """Whether the worst tail exceeds δ'. The centre is tried first: far below the answer it alone decides."""
    centre = np.unique(np.clip(np.round(items * (0.5 + tol * np.linspace(-1, 2, 31))), 1, items))
    q = centre / items - tol
    centre, q = centre[q > 0], q[q > 0]
    if len(centre) and float(np.max(binomial_tail(items, centre, q))) > delta:
        return True
    return worst_binomial_tail(items, tol, enough=delta) > delta


def smallest_safe(error: Callable[[int, int], float], delta: float, high: int) -> int:
    """One more than the largest N < high with error(N, N) > δ'.

    Args:
        error: error(N1, N2) bounds the error of every size in N1..N2 at once: the tail of N2 items at the threshold
        of N1. delta: probability allowed.
        high: size from which on a closed form guarantees the bound.

    Lattice effects make the error of single sizes go up and down; so intervals are refined from the right until all
    sizes above the answer are proved safe, not just the answer itself.
    """
    stack = [(1, high)]
    while stack:
        low, top = stack.pop()
        if error(low, top) * _SAFETY <= delta:
            continue
        if low == top:
            return low + 1
        middle = (low + top) // 2
        stack += [(low, middle), (middle + 1, top)]
    return 1


@lru_cache(maxsize=512)
def at_threshold(log_inverse: float, tol: float, q: float) -> int:
    """Items for one proportion decided at the threshold q: P(Bin(N, q) > N(q + ε)) ≤ δ' for this and every larger N."""
    high = max(1, math.ceil(log_inverse / relative_entropy(min(q + tol, 1.0), q)))

    def error(low: int, top: int) -> float:
        return float(binomial_tail(top, threshold_count(low, q + tol), q))

    return smallest_safe(error, math.exp(-log_inverse), high)


def paired_tail(items: int, count: int, mean: float, differ: float, delta: float) -> float:
    """P(B - C ≥ count) for N items with P(+1) + P(-1) = differ ≤ (1 + mean²)/2 and P(+1) - P(-1) = mean.

    Summed over D = B + C ~ Bin(N, differ), within which B is binomial. D outside its bulk counts as if it always
    erred, so the sum is an upper bound, and by at most δ'/10^7.

    This law is the worst of all with mean ≤ `mean` and P(±1) ≤ `differ`. Proof. (1) Raising P(+1) at the cost of
    P(0) or P(-1) raises the sum, so the mean is `mean`. (2) At that mean let d = P(±1). d/dd P(S_N ≥ s) = N/2
    (P(S_{N-1} = s-1) - P(S_{N-1} = s)). For d ≤ (1 + mean²)/2 the polynomial p₋ + p₀z + p₊z² has real roots (p₀² ≥
    4p₊p₋), so S_{N-1} is a shifted Poisson-binomial variable: unimodal, mode within 1 of its mean. With s - 1 at or
    above the mode the derivative is ≥ 0, so d = differ is worst. s ≥ N(mean + ε) and Nε + mean ≥ 2 put it there.
    """
    special = _special()
    up, down = worst_trinomial(mean, differ)
    spread = 7.0 + math.sqrt(2 * (math.log(1 / delta) + 20))
    width = spread * math.sqrt(items * differ * (1 - differ)) + spread * spread / 3
    low = max(0, math.floor(items * differ - width), abs(count) if count > 0 else 0)
    high = min(items, math.ceil(items * differ + width))
    outside = float(special.bdtrc(high, items, differ)) if high < items else 0.0
    if low > high:
        return outside
    if low > max(count, 0):  # fewer than `count` differing items cannot reach it
        outside += float(special.bdtr(low - 1, items, differ))
    d = np.arange(low, high + 1, dtype=float)
    logs = (
        special.gammaln(items + 1) - special.gammaln(d + 1) - special.gammaln(items - d + 1)
        + special.xlogy(d, differ) + special.xlog1py(items - d, -differ)
    )  # fmt: skip
    wins = binomial_tail(d, np.ceil((d + count) / 2), up / (up + down))
    return float(np.exp(logs) @ wins) + outside


@lru_cache(maxsize=512)
def paired(log_inverse: float, tol: float, mean: float, differ: float = 1.0) -> int | None:
    """Items for a paired difference decided at the threshold `mean`, with P(new ≠ old) ≤ `differ`; None: no proof here.

    For differ ≤ (1 + mean²)/2 the worst law is known, see `paired_tail`. For larger `differ` the law with differ = 1 is
    taken: see `_any_difference`.
    """
    if not abs(mean) < differ <= 1 or mean + tol >= 1:
        return None
    if differ > (1 + mean * mean) / 2:
        return _any_difference(log_inverse, tol, mean)
    delta = math.exp(-log_inverse)
    high = math.ceil(log_inverse / trinomial_rate(mean, tol, differ))

    def error(low: int, top: int) -> float:
        if low * tol + mean < 2:
            return 1.0
        if mean >= 0:
            # More items at the same threshold err more: P(S = s-1) ≥ P(S = s) above the mode, and p₊ ≥ p₋.
            return paired_tail(top, threshold_count(low, mean + tol), mean, differ, delta)
        # S_N + N only grows with N, so the larger N at the smaller shifted threshold dominates.
        shifted = threshold_count(low, mean + tol) + low
        return paired_tail(top, shifted - top, mean, differ, delta)

    return smallest_safe(error, delta, high)


def _any_difference(log_inverse: float, tol: float, mean: float) -> int | None:
    """Items for a paired difference when any share of items may differ.

    Near d = 1 the sum has the parity of N and its law is not unimodal, so the proof of `paired_tail` fails. Take
    instead G(s) = (P(S ≥ s) + P(S ≥ s+1)) / 2 ≥ P(S ≥ s+1). dG/dd = N/4 (P(S_{N-1} = s-1) - P(S_{N-1} = s+1)), and
    given the number of zeros S_{N-1} is 2·Bin - n', unimodal in steps of two with its mode at or below N·mean⁺/d +
    2; for s - 1 at or above that, G grows with d. Hence P_d(S ≥ s) ≤ G_d(s-1) ≤ G_1(s-1), two binomial tails. It holds
    for d ≥ d₀ = mean / (mean + ε - 4/N); for smaller d the Chernoff bound at d₀ must already be ≤ δ'.
    """
    delta = math.exp(-log_inverse)
    q = (1 + mean) / 2
    high = math.ceil(log_inverse / relative_entropy(min(q + tol / 2, 1.0), q)) + 2

    def error(low: int, top: int) -> float:
        margin = mean + tol - 4 / low
        if margin <= 0:
            return 1.0
        if mean > 0 and low * trinomial_rate(mean, tol, min(1.0, mean / margin)) < log_inverse:
            return 1.0
        shifted = threshold_count(low, mean + tol) + low  # of S + N = 2·Bin, which only grows with N
        tails = binomial_tail(top, np.ceil(np.array([shifted - 1, shifted]) / 2), q)
        return float(np.mean(tails))

    found = smallest_safe(error, delta, high)
    return found if found <= high else None


def bounded_tail(items: int, total: float, q: float) -> float:
    """Bound on P(sum of N independent values in [0, 1] with mean ≤ q reaches `total`).

    Hoeffding 1963: E f(S) ≤ E f(B) for convex f, B ~ Bin(N, q). With f(x) = (x - t)⁺: P(S ≥ x) ≤ E(B - t)⁺ / (x -
    t) for every t < x. Between integers that is a quotient of linear functions, so the best t is an integer; a
    window is searched, since any t gives a valid bound. E(B - t)⁺ = Nq P(Bin(N-1, q) ≥ t) - t P(Bin(N, q) ≥ t + 1).
    """
    if total > items:
        return 0.0
    share = min(total / items, 1 - 0.5 / items)
    if share <= q:
        return 1.0
    tilt = math.log(share * (1 - q) / ((1 - share) * q))
    reach = math.ceil(4 / tilt) + 2
    top = math.ceil(total) - 1
    t = np.unique(np.linspace(max(0, top - reach), top, min(reach + 1, 48)).round())
    t = t[t < total]
    excess = items * q * binomial_tail(items - 1, t, q) - t * binomial_tail(items, t + 1, q)
    return float(min(1.0, np.min(np.maximum(excess, 0.0) / (total - t))))


@lru_cache(maxsize=512)
def bounded(log_inverse: float, tol: float, q: float) -> int:
    """Items for a mean of values in [0, 1] decided at the threshold q, by `bounded_tail`."""
    high = max(1, math.ceil(log_inverse / relative_entropy(min(q + tol, 1.0), q)))
    return smallest_safe(
        lambda low, top: bounded_tail(top, low * (q + tol), q) if low > 1 else 1.0, math.exp(-log_inverse), high
    )
