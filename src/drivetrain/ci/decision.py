"""A clause seen as the one mistake that matters: an estimate too far on the wrong side of a threshold.

In mode `fp-free` only a wrong accept is a mistake, so a clause errs when it is TRUE of a model that violates it; in
`fn-free` when it is FALSE of a model that satisfies it. Either way some variable Z with E Z ≤ m shows an average above
m + ε. Here m and ε are brought to one of three standard forms, for which `bounds` and `exact` have counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.errors import InvalidValue, unknown_name
from .bounds import relative_entropy
from .condition import Clause

MODES = ("fp-free", "fn-free")

# What one item can show, as (new right, old right, predictions differ): both cannot be right and differ.
ATOMS = np.array([(1, 1, 0), (0, 0, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)], dtype=float)


@dataclass(frozen=True)
class Mistake:
    """The wrong decision of one clause in a standard form.

    Attributes:
        form: "proportion" (0/1 values), "difference" (values -1, 0, 1, a paired n - o), "bounded" (anything in a
        range). mean: the threshold m. In [0, 1] for proportion and bounded, in [-1, 1] for difference.
        tol: the tolerance on the same scale.
        values: for a discrete bounded form, the scaled value of each of `ATOMS`; else None.
    """

    form: str
    mean: float
    tol: float
    values: tuple[float, ...] | None = None

    @property
    def unit(self) -> tuple[float, float]:
        """(mean, tol) of the same variable mapped onto [0, 1]."""
        return ((1 + self.mean) / 2, self.tol / 2) if self.form == "difference" else (self.mean, self.tol)

    @property
    def reachable(self) -> bool:
        """Whether the estimate can pass the threshold by the tolerance at all, and whether it can fail to."""
        mean, tol = self.unit
        return mean > 0 and mean + tol < 1


def check_mode(mode: str) -> None:
    """Raise `InvalidValue` unless the mode is "fp-free" or "fn-free"."""
    if mode not in MODES:
        raise unknown_name("ci: mode", mode, MODES)


def check_range(score_range: tuple[float, float] | None) -> None:
    """Raise `InvalidValue` unless it is None or (low, high) with low < high."""
    if score_range is not None and not score_range[0] < score_range[1]:
        raise InvalidValue(f"ci: score_range is {tuple(score_range)!r}", hint="(low, high) with low < high")


def mistake_of(
    clause: Clause, mode: str, *, scores: tuple[float, float] | None = None, grouped: bool = False
) -> Mistake:
    """Bring a clause to its standard form.

    Args:
        clause: a clause of the condition.
        mode: "fp-free" or "fn-free".
        scores: range of the per-item score that n and o average; None when they are accuracies.
        grouped: whether the items are averages over groups of rows, so that values between 0 and 1 occur.
    """
    sign = 1.0 if (clause.op == ">") == (mode == "fp-free") else -1.0
    mean = sign * clause.bound
    plain = not grouped and (scores is None or not clause.labelled)
    if len(clause.coef) == 1 and (scores is None or not clause.labelled):
        coef = sign * next(iter(clause.coef.values()))
        share = mean / coef
        q = share if coef > 0 else 1 - share  # a proportion that must not fall is one of errors that must not rise
        return Mistake("proportion" if plain else "bounded", q, clause.tol / abs(coef))
    if clause.paired and scores is None:
        size = abs(clause.coef["n"])
        return Mistake("difference", mean / size, clause.tol / size)
    if scores is None:
        values = sign * (ATOMS @ [clause.coef.get(name, 0.0) for name in ("n", "o", "d")])
    else:
        ends = [sorted((sign * c * low, sign * c * high)) for c, (low, high) in _box(clause, scores)]
        values = np.array([sum(low for low, _ in ends), sum(high for _, high in ends)])
    low, spread = float(values.min()), float(np.ptp(values))
    scaled = tuple(((values - low) / spread).tolist()) if scores is None else None
    return Mistake("bounded", (mean - low) / spread, clause.tol / spread, scaled)


def _box(clause: Clause, scores: tuple[float, float]) -> list[tuple[float, tuple[float, float]]]:
    return [(coef, (0.0, 1.0) if name == "d" else scores) for name, coef in clause.coef.items()]


def discrete_rate(mistake: Mistake, differ: float) -> float:
    """Chernoff exponent per item of a bounded clause when at most `differ` of the items differ.

    The laws on `ATOMS` with E Z ≤ mean and P(differ) ≤ `differ` form a polytope, and a moment generating function is
    linear in the law, so its largest value is at a corner: max over λ of min over corners of λ(m + ε) - ln E e^{λZ}.
    """
    z = np.array(mistake.values)
    corners = _corners(z, ATOMS[:, 2], mistake.mean, differ)
    if not len(corners):
        return 0.0
    target = mistake.mean + mistake.tol

    def exponent(tilt: float) -> float:
        return tilt * target - float(np.log((corners @ np.exp(tilt * z)).max()))

    low, high = 0.0, 1.0
    while exponent(2 * high) > exponent(high) and high < 1e6:
        high *= 2
    high *= 2
    for _ in range(80):  # the exponent is concave in the tilt
        a, b = low + (high - low) * 0.382, low + (high - low) * 0.618
        low, high = (a, high) if exponent(a) < exponent(b) else (low, b)
    return max(0.0, exponent((low + high) / 2))


def _corners(z: np.ndarray, differs: np.ndarray, mean: float, differ: float) -> np.ndarray:
    """Corners of {w ≥ 0, Σw = 1, Σwz ≤ mean, Σw·differs ≤ differ}, one law on the atoms a row."""
    from itertools import combinations

    rows = np.vstack([np.ones(len(z)), z, differs])
    system = np.hstack([rows, np.array([[0, 0], [1, 0], [0, 1]])])  # two slack columns
    found = []
    for chosen in combinations(range(system.shape[1]), 3):
        basis = system[:, chosen]
        if abs(np.linalg.det(basis)) < 1e-12:
            continue
        solution = np.linalg.solve(basis, [1.0, mean, differ])
        if (solution >= -1e-12).all():
            law = np.zeros(system.shape[1])
            law[list(chosen)] = np.maximum(solution, 0)
            found.append(law[: len(z)])
    return np.array(found)


def chernoff_rate(mistake: Mistake) -> float:
    """Exponent per item from the range and the threshold alone."""
    mean, tol = mistake.unit
    return relative_entropy(mean + tol, mean)
