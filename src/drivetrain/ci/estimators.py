"""How many items one clause needs: every valid method, priced (§2.5, §2.6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import bounds, exact
from .condition import Clause
from .decision import Mistake, chernoff_rate, discrete_rate, mistake_of

WHY = {
    "hoeffding": "bound from the range of the values alone",
    "bennett": "Bennett's bound, variance at most the share of items that differ",
    "exact": "largest binomial tail over every possible accuracy",
    "threshold": "binomial tail at the threshold, the worst case of a wrong decision",
    "paired": "exact tail of the paired difference at its worst law",
    "bounded": "binomial that dominates any values in the range, at the threshold",
    "chernoff": "exponential bound at the threshold",
}


@dataclass(frozen=True)
class Setting:
    """What is known about the items, the same for all clauses of a plan.

    Attributes:
        mode: "fp-free" or "fn-free".
        scores: range of a per-item score; None for accuracies.
        grouped: items are averages over groups of rows.
        differ: upper limit of P(new ≠ old); 1 when nothing is known.
    """

    mode: str
    scores: tuple[float, float] | None = None
    grouped: bool = False
    differ: float = 1.0


def paper_hoeffding(clause: Clause, log_inverse: float, setting: Setting) -> int:
    """The baseline: δ/k for each of k variables, tolerance shared in the best way (§2.5)."""
    low, high = setting.scores or (0.0, 1.0)
    reach = sum(abs(coef) * (1.0 if name == "d" else high - low) for name, coef in clause.coef.items())
    return bounds.hoeffding(log_inverse + math.log(len(clause.coef)), clause.tol, reach)


def paper_bennett(clause: Clause, log_inverse: float, setting: Setting) -> int | None:
    """Bennett for two sides, δ'/2 each; None for clauses it has no form for."""
    form = _with_mean(clause, setting)
    if form.form == "bounded":
        return None
    return bounds.bennett(log_inverse + math.log(2), form.tol, setting.differ)


def methods(clause: Clause, log_inverse: float, setting: Setting) -> dict[str, int]:
    """Every method that is valid for this clause, with the items it needs.

    Args:
        clause: a clause of the condition.
        log_inverse: ln(1/δ') of this clause.
        setting: mode and what is known of the items. `differ` tightens clauses in which both n and o occur.
    """
    form = _with_mean(clause, setting)
    mean, tol = form.unit
    found = {"hoeffding": bounds.hoeffding(log_inverse, tol)}
    numeric = log_inverse <= exact.MAX_LOG
    if form.form == "proportion" and numeric:
        found["exact"] = exact.worst_binomial(log_inverse, tol)
    if not form.reachable:
        return found
    found["chernoff"] = bounds.whole(log_inverse / chernoff_rate(form))
    if numeric:
        if form.form == "proportion":
            found["threshold"] = min(exact.at_threshold(log_inverse, tol, mean), found["chernoff"])
        else:
            found["bounded"] = exact.bounded(log_inverse, tol, mean)
    if form.form == "difference":
        found.update(_difference(form, log_inverse, setting, numeric))
    elif form.values is not None and setting.differ < 1 and {"n", "o"} <= set(clause.coef):
        rate = discrete_rate(form, setting.differ)
        if rate > 0:
            found["chernoff"] = min(found["chernoff"], bounds.whole(log_inverse / rate))
    return found


def _difference(form: Mistake, log_inverse: float, setting: Setting, numeric: bool) -> dict[str, int]:
    """Methods for a multiple of n - o."""
    found = {"chernoff": bounds.trinomial_chernoff(log_inverse, form.tol, form.mean, setting.differ)}
    if setting.differ < 1:
        found["bennett"] = bounds.bennett(log_inverse, form.tol, setting.differ)
    # Group averages lie anywhere in [-1, 1]: the exponential bounds still hold, the exact law does not.
    if numeric and not setting.grouped:
        tight = exact.paired(log_inverse, form.tol, form.mean, setting.differ)
        if tight is not None:
            found["paired"] = tight
    return found


def cheapest(found: dict[str, int]) -> str:
    """The method with the fewest items; among equals "exact" last, since it is proved for its own size only."""
    return min(found, key=lambda name: (found[name], name == "exact"))


def _with_mean(clause: Clause, setting: Setting) -> Mistake:
    return mistake_of(clause, setting.mode, scores=setting.scores, grouped=setting.grouped)
