"""Rules about two batches: drift, serving skew, scored skew, number of examples (spec 17 §2.6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from .compare import comparable, measure
from .edits import Edit
from .report import Finding, Measurement
from .rule import Rule
from .schema import Feature, Schema
from .stats import FeatureStats, Stats

TYPES = {
    "linf": "COMPARATOR_L_INFTY_HIGH",
    "js": "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH",
    "nad": "COMPARATOR_NORMALIZED_ABSOLUTE_DIFFERENCE_HIGH",
    "ks": "COMPARATOR_KOLMOGOROV_SMIRNOV_HIGH",
    "w1": "COMPARATOR_WASSERSTEIN_HIGH",
}
WORDS = {"drift": "the previous batch", "skew": "serving data", "scored": "scored examples"}


def compare_feature(
    kind: str, feature: Feature, seen: FeatureStats, before: FeatureStats | None, keys: Callable[[], tuple[str, ...]]
) -> tuple[Measurement | None, list[Finding]]:
    """Measure one feature against another batch, and find what passes its thresholds.

    Args:
        kind: "drift", "skew" or "scored": which comparator of the feature applies.
        seen, before: the batch at hand and the one it is held against; None if that lacks the feature.
        keys: gives the path of the feature's table.
    """
    comparator = getattr(feature, kind)
    if before is None or not before.num_non_missing or not comparable(before, seen):
        if comparator is None:
            return None, []
        why = (
            "no such feature" if before is None else "no values" if not before.num_non_missing else before.type.upper()
        )
        edit = Edit("remove", (*keys(), kind))
        wanted = f"{seen.type.upper()} values in {WORDS[kind]} to compare with"
        return None, [Finding("COMPARATOR_CONTROL_DATA_MISSING", wanted, why, edits=(edit,))]
    measured = measure(before, seen, kind=kind, comparator=comparator)
    return measured, [_high(measured, name, keys()) for name in measured.passed]


def _high(measured: Measurement, name: str, keys: tuple[str, ...]) -> Finding:
    value, limit = measured.distances[name], measured.thresholds[name]
    moved = ""
    examples: tuple[tuple[str, float | None], ...] = ()
    if measured.moved is not None:
        label, before, now = measured.moved
        moved = f"; {label!r} went from {before:.2%} to {now:.2%}"
        examples = ((label, now),)
    edit = Edit("set", (*keys, measured.kind, name), max(value, math.ceil(value * 1e4) / 1e4))
    wanted = f"{name} distance to {WORDS[measured.kind]} at most {limit:g}"
    share = value if name != "w1" else None
    return Finding(TYPES[name], wanted, f"{value:.4g}{moved}", None, share, examples, (edit,))


def dataset_size(stats: Stats, schema: Schema, previous: Stats | None) -> Iterator[Finding]:
    """Findings about the number of examples."""
    promised, n = schema.dataset, stats.num_examples
    if promised.min_examples is not None and n < promised.min_examples:
        edit = Edit("set", ("dataset", "min_examples"), n)
        yield Finding(
            "DATASET_LOW_NUM_EXAMPLES", f"at least {promised.min_examples:,} examples", f"{n:,}", n, edits=(edit,)
        )
    if promised.max_examples is not None and n > promised.max_examples:
        edit = Edit("set", ("dataset", "max_examples"), n)
        yield Finding(
            "DATASET_HIGH_NUM_EXAMPLES", f"at most {promised.max_examples:,} examples", f"{n:,}", n, edits=(edit,)
        )
    if previous is None or promised.ratio_to_previous is None or not previous.num_examples or not n:
        return
    low, high = promised.ratio_to_previous
    ratio = n / previous.num_examples
    seen = f"{n:,}, {ratio:.3g} times the {previous.num_examples:,} of the previous batch"
    if low is not None and ratio < low:
        edit = Edit("set", ("dataset", "ratio_to_previous"), [ratio, math.inf if high is None else high])
        yield Finding(
            "COMPARATOR_LOW_NUM_EXAMPLES", f"at least {low:g} times the previous number", seen, n, edits=(edit,)
        )
    if high is not None and ratio > high:
        edit = Edit("set", ("dataset", "ratio_to_previous"), [0.0 if low is None else low, ratio])
        yield Finding(
            "COMPARATOR_HIGH_NUM_EXAMPLES", f"at most {high:g} times the previous number", seen, n, edits=(edit,)
        )


COMPARATORS = (
    Rule("COMPARATOR_L_INFTY_HIGH", "a value's (or bin's) share moved by more than linf", "linf = the distance seen"),
    Rule("COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH", "Jensen-Shannon divergence > js", "js = the divergence seen"),
    Rule(
        "COMPARATOR_NORMALIZED_ABSOLUTE_DIFFERENCE_HIGH",
        "max |a_i - b_i| / (sum a + sum b) > nad",
        "nad = the difference seen",
    ),
    Rule(
        "COMPARATOR_KOLMOGOROV_SMIRNOV_HIGH",
        "largest gap of the cumulative distributions > ks",
        "ks = the distance seen",
    ),
    Rule("COMPARATOR_WASSERSTEIN_HIGH", "Wasserstein-1 distance > w1, in the feature's unit", "w1 = the distance seen"),
    Rule(
        "COMPARATOR_CONTROL_DATA_MISSING",
        "a comparator is set, but the other batch lacks comparable values",
        "the comparator is removed",
    ),
)
DATASET_SIZE = (
    Rule("DATASET_LOW_NUM_EXAMPLES", "examples < dataset.min_examples", "min_examples = the number seen"),
    Rule("DATASET_HIGH_NUM_EXAMPLES", "examples > dataset.max_examples", "max_examples = the number seen"),
    Rule(
        "COMPARATOR_LOW_NUM_EXAMPLES",
        "examples / previous examples < the low end of dataset.ratio_to_previous",
        "the interval reaches the ratio seen",
    ),
    Rule(
        "COMPARATOR_HIGH_NUM_EXAMPLES",
        "examples / previous examples > the high end of dataset.ratio_to_previous",
        "the interval reaches the ratio seen",
    ),
)
