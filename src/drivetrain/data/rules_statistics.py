"""Rules about statistics of a feature: mean, standard deviation, share of zeros, quantiles, shares of single values.

These are constraints of ours (asked for in tensorflow/data-validation#221): a class balance, a mean that must not
wander.
"""

from __future__ import annotations

import math
from typing import Any

from .report import Finding
from .rule import Case, Rule
from .schema import Interval, Statistics

NOT_AVAILABLE = "STATS_NOT_AVAILABLE"


def mean(case: Case) -> Finding | None:
    """The mean of the finite values is outside its interval."""
    numeric = case.seen.numeric
    return _outside(case, "mean", _promised(case).mean, numeric.mean if numeric else None)


def std(case: Case) -> Finding | None:
    """The population standard deviation of the finite values is outside its interval."""
    numeric = case.seen.numeric
    return _outside(case, "std", _promised(case).std, numeric.std_dev if numeric else None)


def zeros(case: Case) -> Finding | None:
    """The share of zeros among the values is outside its interval."""
    numeric = case.seen.numeric
    share = numeric.num_zeros / numeric.num_values if numeric is not None and numeric.num_values else None
    return _outside(case, "zeros", _promised(case).zeros, share)


def quantile(case: Case) -> Finding | None:
    """A quantile of the finite values is outside its interval; the first such one is told, all are edited."""
    numeric = case.seen.numeric
    promised = _promised(case).quantile
    found = [
        _outside(case, "quantile", interval, numeric.quantile(q) if numeric else None, f"{q:g}")
        for q, interval in promised.items()
    ]
    return _joined(found)


def share(case: Case) -> Finding | None:
    """The share of a single value is outside its interval."""
    promised = _promised(case).share
    found = [_outside(case, "share", interval, _share_of(case, value), value) for value, interval in promised.items()]
    return _joined(found)


def _promised(case: Case) -> Statistics:
    assert case.feature.statistics is not None
    return case.feature.statistics


def _share_of(case: Case, value: str) -> float | None:
    text, numeric = case.seen.text, case.seen.numeric
    if text is not None and text.values.total:
        return text.values.table.get(value.encode(), 0) / text.values.total
    try:
        number = float(value)
    except ValueError:
        return None
    if numeric is None or not numeric.n:
        return None
    points, weights = numeric.sketch.support()
    return float(weights[points == number].sum() / weights.sum())


def _outside(
    case: Case, name: str, interval: Interval | None, seen: float | None, key: str | None = None
) -> Finding | None:
    if interval is None or not case.seen.common.num_non_missing:
        return None
    words = f"{name} {key}" if key else name
    keys = ("statistics", name, key) if key else ("statistics", name)
    low, high = interval
    if seen is None or math.isnan(seen):
        wanted = f"{words} in [{low:g}, {high:g}]"
        edits = (case.edit(*keys, op="remove", value=None),)
        return Finding(
            NOT_AVAILABLE,
            wanted,
            f"no such statistic of type {case.seen.type.upper()}",
            edits=edits,
            severity="WARNING",
        )
    if low <= seen <= high:
        return None
    wider = case.edit(*keys, value=[min(low, seen), max(high, seen)])
    kind = f"STATISTIC_{name.upper()}_OUT_OF_RANGE"
    return Finding(kind, f"{words} in [{low:g}, {high:g}]", f"{seen:.6g}", edits=(wider,))


def _joined(found: list[Any]) -> Finding | None:
    """The most severe of the findings, with the edits of all."""
    there = sorted((finding for finding in found if finding is not None), key=lambda finding: finding.severity)
    if not there:
        return None
    first = there[0]
    edits = tuple(edit for finding in there for edit in finding.edits)
    return Finding(first.type, first.expected, first.seen, edits=edits, severity=first.severity)


STATISTICS = (
    Rule("STATISTIC_MEAN_OUT_OF_RANGE", "mean outside statistics.mean", "the interval reaches the mean seen", mean),
    Rule(
        "STATISTIC_STD_OUT_OF_RANGE",
        "population standard deviation outside statistics.std",
        "the interval reaches what was seen",
        std,
    ),
    Rule(
        "STATISTIC_ZEROS_OUT_OF_RANGE",
        "share of zeros outside statistics.zeros",
        "the interval reaches the share seen",
        zeros,
    ),
    Rule(
        "STATISTIC_QUANTILE_OUT_OF_RANGE",
        "a quantile outside its interval in statistics.quantile",
        "the interval reaches what was seen",
        quantile,
    ),
    Rule(
        "STATISTIC_SHARE_OUT_OF_RANGE",
        "the share of a value outside its interval in statistics.share",
        "the interval reaches the share seen",
        share,
    ),
)
