"""Infer a schema from statistics: conservative on purpose, to be reviewed by people (spec 17 §2.4).

What one batch shows is promised only where the next batch will very likely show it too: types, presence, valency, and
short lists of strings; no numeric ranges unless asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .contents import TimeStats
from .domains import BoolDomain, Domain, FloatDomain, IntDomain, StringDomain, StructDomain, TimeDomain
from .schema import Bounds, Comparator, Feature, Presence, Schema
from .stats import FeatureStats, Stats

MAX_DOMAIN = 100
TRUE_WORDS = {"TRUE": "FALSE", "true": "false", "True": "False", "SET": "CLEAR", "set": "clear", "1": "0"}
FALSE_WORDS = {false: true for true, false in TRUE_WORDS.items()}


@dataclass(frozen=True)
class Coverage:
    """How well a list of seen values covers what is to come.

    Attributes:
        distinct: number of distinct values seen.
        singletons: number of values seen exactly once.
        unseen: Good-Turing estimate of the share of future values that are new: singletons / number of values.
    """

    distinct: int
    singletons: int
    unseen: float


def domain_coverage(seen: FeatureStats) -> Coverage | None:
    """Coverage of a string feature's values; None where values aren't counted exactly."""
    if seen.text is None or not seen.text.exact or not seen.text.num_values:
        return None
    table = seen.text.values.table
    singletons = sum(1 for count in table.values() if count == 1)
    return Coverage(len(table), singletons, singletons / seen.text.num_values)


def infer(
    stats: Stats,
    *,
    previous: Stats | None = None,
    max_domain: int = MAX_DOMAIN,
    ranges: bool = False,
    share_domains: bool = False,
) -> Schema:
    """A schema that these statistics satisfy.

    Args:
        stats: of a batch that is known to be good.
        previous: an earlier good batch; drift thresholds are then proposed, three times the sampling noise of such
            batches.
        max_domain: a string feature with more distinct values gets no domain.
        ranges: propose numeric ranges from the least to the greatest value seen, marked by a comment for review.
        share_domains: give string features with similar lists (the same, or both above 10 values and Jaccard index
            above 0.5) one shared list.
    """
    schema = Schema()
    for name, seen in stats.features.items():
        if not _is_child(name, stats):
            schema.features[name] = infer_feature(seen, stats, max_domain=max_domain, ranges=ranges)
    if previous is not None:
        _propose_drift(schema, stats, previous)
    if share_domains:
        _share_similar(schema)
    return schema


def infer_feature(seen: FeatureStats, stats: Stats, *, max_domain: int = MAX_DOMAIN, ranges: bool = False) -> Feature:
    """The promises about one feature; those of a struct hold its fields."""
    feature = Feature(seen.name.rpartition(".")[2] if _is_child(seen.name, stats) else seen.name)
    feature.type = None if seen.type == "null" else seen.type
    present = seen.num_non_missing
    feature.presence = Presence(1.0 if present and not seen.num_missing else None, 1 if present else 0)
    if seen.type == "null":
        feature.comment = "no value was seen yet, so the type is open"
        return feature
    if seen.type == "struct":
        prefix = seen.name + "."
        children = [
            child
            for name, child in stats.features.items()
            if name.rpartition(".")[0] == seen.name and name.startswith(prefix)
        ]
        fields = [infer_feature(child, stats, max_domain=max_domain, ranges=ranges) for child in children]
        feature.domain = StructDomain({child.name: child for child in fields})
    infer_valency(feature, seen)
    if feature.domain is None:
        feature.domain = infer_domain(seen, max_domain)
    if ranges and feature.domain is None:
        _propose_range(feature, seen)
    if isinstance(feature.domain, StringDomain):
        feature.comment = _coverage_comment(seen)
    return feature


def _coverage_comment(seen: FeatureStats) -> str | None:
    """Advice on a list of values that the next batch will very likely leave: spec 17 §8."""
    coverage = domain_coverage(seen)
    if coverage is None or not coverage.singletons:
        return None
    n = coverage.singletons / coverage.unseen
    # The number of new values in a batch of this size is about Poisson; three of its deviations above the estimate.
    above = coverage.singletons + 3 * math.sqrt(coverage.singletons) + 1
    mass = math.floor((1 - above / n) * 1e4) / 1e4
    advice = f"consider min_domain_mass = {mass:g}" if mass > 0.5 else "a list of values may not suit it"
    seen_once = f"{coverage.singletons} of {coverage.distinct} values were seen once"
    return f"{seen_once}, so about {coverage.unseen:.2%} of the next batch will be new values; {advice}"


def infer_valency(feature: Feature, seen: FeatureStats) -> None:
    """Set `shape`, `values` or `nested_values` to what the statistics show, and clear the other two."""
    feature.shape = feature.values = feature.nested_values = None
    levels = seen.common.levels
    if not seen.num_non_missing:
        return
    sizes = [level.min_num_values for level in levels]
    constant = all(
        level.num_missing == 0 and level.min_num_values == level.max_num_values and level.min_num_values
        for level in levels
    )
    if constant:
        feature.shape = tensor_shape(seen) or [size for size in sizes if size]
    elif len(levels) > 1:
        feature.nested_values = [_bounds(level.min_num_values, level.max_num_values) or Bounds() for level in levels]
    else:
        feature.values = _bounds(levels[0].min_num_values, levels[0].max_num_values)


def tensor_shape(seen: FeatureStats) -> list[int] | None:
    """The shape that all tensors of a feature have, if there is just one, and it isn't a scalar's."""
    if seen.tensor is None or seen.tensor.other_shapes or len(seen.tensor.shapes) != 1:
        return None
    return list(next(iter(seen.tensor.shapes))) or None


def _bounds(low: int | None, high: int | None) -> Bounds | None:
    if not low:
        return None
    return Bounds(low, high) if low == high else Bounds(1)


def infer_domain(seen: FeatureStats, max_domain: int = MAX_DOMAIN) -> Domain | None:
    """A time format, bool, integers in strings, a list of strings, or nothing: the first that fits."""
    times = seen.extras.get("time")
    if seen.type == "string" and isinstance(times, TimeStats) and times.format:
        return TimeDomain(format=times.format)
    if (
        seen.type == "int"
        and seen.numeric is not None
        and seen.numeric.max is not None
        and seen.numeric.min is not None
    ):
        truth = seen.logical == "bool" and seen.numeric.max <= 1
        return BoolDomain() if truth or (seen.numeric.min >= 0 and seen.numeric.max == 1) else None
    text = seen.text
    if seen.type != "string" or text is None or not text.num_values or text.invalid_utf8:
        return None
    words = list(text.counts or ()) if text.unique <= max(2, max_domain) else None
    if words and (domain := _bool_words(words)):
        return domain
    if text.num_int == text.num_values:
        return IntDomain()
    return StringDomain(sorted(words)) if words and len(words) <= max_domain else None


def _bool_words(words: list[str]) -> BoolDomain | None:
    """Both words of a known pair, or one of them; the empty string is never taken for a truth value."""
    if len(words) == 2 and TRUE_WORDS.get(words[0]) == words[1]:
        return BoolDomain(words[0], words[1])
    if len(words) == 2 and TRUE_WORDS.get(words[1]) == words[0]:
        return BoolDomain(words[1], words[0])
    if len(words) == 1 and words[0] in TRUE_WORDS:
        return BoolDomain(words[0], TRUE_WORDS[words[0]])
    if len(words) == 1 and words[0] in FALSE_WORDS:
        return BoolDomain(FALSE_WORDS[words[0]], words[0])
    return None


def _propose_range(feature: Feature, seen: FeatureStats) -> None:
    numeric = seen.numeric
    if numeric is None or numeric.min is None or numeric.max is None:
        return
    if feature.type == "int":
        feature.domain = IntDomain(int(numeric.min), int(numeric.max))
    else:
        low, high = (None if math.isinf(end) else float(end) for end in (numeric.min, numeric.max))
        infinite = numeric.num_pos_inf + numeric.num_neg_inf
        feature.domain = FloatDomain(low, high, numeric.num_nan == 0, infinite == 0)
    feature.comment = f"range proposed from {numeric.num_values:,} values: review it"


def _propose_drift(schema: Schema, stats: Stats, previous: Stats) -> None:
    """Thresholds of three times the noise floor: spec 17 §8."""
    from .compare import comparable, measure

    for path, feature in schema.walk():
        seen, before = stats.features.get(path), previous.features.get(path)
        if seen is None or before is None or not comparable(seen, before):
            continue
        floor = measure(before, seen).floor["linf"]
        threshold = math.ceil(3 * floor * 1e4) / 1e4
        if threshold < 1:
            feature.drift = Comparator(linf=threshold)


def _share_similar(schema: Schema) -> None:
    groups: list[tuple[set[str], list[str]]] = []
    for path, feature in schema.walk():
        if not isinstance(feature.domain, StringDomain):
            continue
        values = set(feature.domain.values)
        for union, members in groups:
            if similar(union, values):
                members.append(path)
                union |= values
                break
        else:
            groups.append((values, [path]))
    for _, members in groups:
        if len(members) > 1:
            schema.share_domain(members[0], *members)


def similar(a: set[str], b: set[str]) -> bool:
    """Whether two lists of strings may share one name: equal, or both above 10 values with Jaccard index above 0.5."""
    return a == b or (len(a) > 10 and len(b) > 10 and len(a & b) / len(a | b) > 0.5)


def _is_child(name: str, stats: Stats) -> bool:
    parent = name.rpartition(".")[0]
    return bool(parent) and parent in stats.features and stats.features[parent].type == "struct"
