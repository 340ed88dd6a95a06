"""Statistics as DatasetFeatureStatisticsList of tensorflow-metadata and back, for TFDV and Facets (spec 17 §2.2)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base.errors import InvalidValue
from ..base.extras import require
from .counts import ValueCounts
from .numeric import Histogram, Moments, NumericStats, WeightedNumeric
from .presence import CommonStats, Level
from .quantiles import QuantileSketch
from .stats import FeatureStats, Stats
from .text import BytesStats, Reading, StringStats

TYPES = ("int", "float", "string", "bytes", "struct")


def to_proto(stats: Stats) -> Any:
    """A DatasetFeatureStatisticsList: the whole, then its slices.

    Raises:
        MissingExtra: tensorflow-metadata is not installed.
    """
    pb = _messages()
    result = pb.DatasetFeatureStatisticsList()
    for part in (stats, *stats.slices.values()):
        dataset = result.datasets.add(name=part.name, num_examples=part.num_examples)
        if part.weighted_num_examples is not None:
            dataset.weighted_num_examples = part.weighted_num_examples
        for feature in part.features.values():
            _write_feature(pb, dataset.features.add(), feature)
    return result


def from_proto(proto: Any) -> Stats:
    """Statistics from such a list: the first data set, the others as its slices.

    Protos hold no sketches. Quantiles are taken from the QUANTILES histogram (else the STANDARD one), and counts of
    strings from the rank histogram; both are then marked as not exact unless they tell everything.

    Raises:
        InvalidValue: a list without data sets.
    """
    parts = [_read_dataset(dataset) for dataset in proto.datasets]
    if not parts:
        raise InvalidValue("data: from_proto: a list without data sets, wanted DatasetFeatureStatisticsList with one")
    parts[0].slices = {part.name: part for part in parts[1:]}
    return parts[0]


def _messages() -> Any:
    require("tensorflow_metadata", extra="proto")
    from tensorflow_metadata.proto.v0 import statistics_pb2

    return statistics_pb2


def _write_feature(pb: Any, to: Any, feature: FeatureStats) -> None:
    to.path.step.extend(feature.name.split(".") if "." in feature.name else [feature.name])
    kind = "string" if feature.type == "null" else feature.type
    to.type = TYPES.index(kind)
    if feature.type in ("int", "float"):
        _write_common(to.num_stats.common_stats, feature.common)
        if feature.numeric is not None:
            _write_numeric(pb, to.num_stats, feature.numeric)
    elif kind == "string":
        _write_common(to.string_stats.common_stats, feature.common)
        if feature.text is not None:
            _write_text(to.string_stats, feature.text)
    elif kind == "bytes":
        _write_common(to.bytes_stats.common_stats, feature.common)
        if feature.bytes is not None:
            to.bytes_stats.unique = feature.bytes.unique
            to.bytes_stats.avg_num_bytes = feature.bytes.avg_num_bytes
            to.bytes_stats.min_num_bytes = feature.bytes.min_num_bytes or 0
            to.bytes_stats.max_num_bytes = feature.bytes.max_num_bytes or 0
    else:
        _write_common(to.struct_stats.common_stats, feature.common)


def _write_common(to: Any, common: CommonStats) -> None:
    to.num_non_missing, to.num_missing = common.num_non_missing, common.num_missing
    to.min_num_values, to.max_num_values = common.min_num_values, common.max_num_values
    to.avg_num_values, to.tot_num_values = common.avg_num_values, common.tot_num_values
    _write_histogram(to.num_values_histogram, common.num_values_histogram)
    for level in common.levels:
        to.presence_and_valency_stats.add(
            num_non_missing=level.num_non_missing,
            num_missing=level.num_missing,
            min_num_values=level.min_num_values or 0,
            max_num_values=level.max_num_values or 0,
            tot_num_values=level.tot_num_values,
        )
    if common.weighted_num_non_missing is not None:
        weighted, present = to.weighted_common_stats, common.weighted_num_non_missing
        weighted.num_non_missing, weighted.num_missing = present, common.weighted_num_missing or 0.0
        weighted.tot_num_values = common.weighted_tot_num_values or 0.0
        weighted.avg_num_values = weighted.tot_num_values / present if present else 0.0


def _write_numeric(pb: Any, to: Any, numeric: NumericStats) -> None:
    to.num_zeros = numeric.num_zeros
    if numeric.n:
        to.mean, to.std_dev, to.median = numeric.mean, numeric.std_dev, numeric.median
    if numeric.min is not None and numeric.max is not None:
        to.min, to.max = float(numeric.min), float(numeric.max)
    for histogram in numeric.histograms:
        _write_histogram(to.histograms.add(), histogram)
    if numeric.weighted is not None and numeric.weighted.moments.weight:
        weighted = numeric.weighted
        to.weighted_numeric_stats.mean, to.weighted_numeric_stats.std_dev = weighted.mean, weighted.std_dev
        to.weighted_numeric_stats.median = weighted.median


def _write_histogram(to: Any, histogram: Histogram) -> None:
    to.type = ("STANDARD", "QUANTILES").index(histogram.kind)
    to.num_nan, to.num_undefined = histogram.num_nan, histogram.num_undefined
    for bucket in histogram.buckets:
        to.buckets.add(low_value=bucket.low, high_value=bucket.high, sample_count=bucket.sample_count)


def _write_text(to: Any, text: StringStats) -> None:
    to.unique, to.avg_length, to.invalid_utf8_count = text.unique, text.avg_length, text.invalid_utf8
    for label, count in text.top_values:
        to.top_values.add(value=label, frequency=count)
    for rank, (label, count) in enumerate(text.rank_histogram):
        to.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=label, sample_count=count)
    for label, weight in text.weighted_top_values:
        to.weighted_string_stats.top_values.add(value=label, frequency=weight)


def _read_dataset(dataset: Any) -> Stats:
    features = [_read_feature(feature) for feature in dataset.features]
    weight = dataset.weighted_num_examples
    return Stats(
        name=dataset.name or "All Examples",
        num_examples=int(dataset.num_examples),
        weighted_num_examples=weight if weight and weight != dataset.num_examples else None,
        features={feature.name: feature for feature in features},
    )


def _read_feature(proto: Any) -> FeatureStats:
    name = ".".join(proto.path.step) if proto.HasField("path") else proto.name
    kind = proto.WhichOneof("stats")
    if kind is None:
        return FeatureStats(name, "null")
    body = getattr(proto, kind)
    feature = FeatureStats(name, TYPES[proto.type], _read_common(body.common_stats))
    if kind == "num_stats":
        feature.numeric = _read_numeric(body, integers=feature.type == "int")
    elif kind == "string_stats":
        feature.text = _read_text(body)
    elif kind == "bytes_stats":
        feature.bytes = BytesStats(
            int(body.common_stats.tot_num_values),
            int(body.min_num_bytes),
            int(body.max_num_bytes),
            round(body.avg_num_bytes * body.common_stats.tot_num_values),
        )
    return feature


def _read_common(proto: Any) -> CommonStats:
    def level(p: Any) -> Level:
        some = bool(p.num_non_missing)
        low, high = (int(p.min_num_values), int(p.max_num_values)) if some else (None, None)
        return Level(int(p.num_non_missing), int(p.num_missing), 0, low, high, int(p.tot_num_values))

    common = CommonStats([level(p) for p in proto.presence_and_valency_stats] or [level(proto)])
    if proto.HasField("weighted_common_stats"):
        weighted = proto.weighted_common_stats
        common.add_weights(weighted.num_non_missing, weighted.num_missing, weighted.tot_num_values)
    return common


def _read_numeric(proto: Any, *, integers: bool) -> NumericStats:
    missing_nan = max((int(h.num_nan) for h in proto.histograms), default=0)
    n = int(proto.common_stats.tot_num_values) - missing_nan
    cast: Any = int if integers else float
    numeric = NumericStats(
        num_values=n + missing_nan,
        num_nan=missing_nan,
        num_zeros=int(proto.num_zeros),
        min=cast(proto.min) if n else None,
        max=cast(proto.max) if n else None,
        moments=Moments(float(n), proto.mean, proto.std_dev**2 * n),
    )
    if n:
        numeric.sketch = _sketch_of(proto, n)
    if proto.HasField("weighted_numeric_stats"):
        weighted, weight = proto.weighted_numeric_stats, proto.common_stats.weighted_common_stats.tot_num_values
        numeric.weighted = WeightedNumeric(
            Moments(weight, weighted.mean, weighted.std_dev**2 * weight), QuantileSketch.of([weighted.median])
        )
    return numeric


def _sketch_of(proto: Any, n: int) -> QuantileSketch:
    """Points spread evenly inside the buckets of the finest histogram at hand."""
    by_type = {int(histogram.type): histogram for histogram in proto.histograms}
    histogram = by_type.get(1) or by_type.get(0)
    buckets = [b for b in histogram.buckets if b.sample_count > 0] if histogram else []
    finite = [b for b in buckets if math.isfinite(b.low_value) and math.isfinite(b.high_value)]
    if not finite:
        return QuantileSketch.constant(float(proto.median), n)
    total = sum(b.sample_count for b in finite)
    edges = np.array([finite[0].low_value, *(b.high_value for b in finite)])
    shares = np.cumsum([0.0, *(b.sample_count for b in finite)]) / total
    return QuantileSketch.from_cdf(edges, shares, n)


def _read_text(proto: Any) -> StringStats:
    total = int(proto.common_stats.tot_num_values)
    ranked = proto.rank_histogram.buckets
    table: dict[bytes, float] = {bucket.label.encode(): int(bucket.sample_count) for bucket in ranked}
    if not table:
        table = {value.value.encode(): int(value.frequency) for value in proto.top_values}
    known = int(sum(table.values()))
    values = ValueCounts(table, total)
    told = Reading.of(table)
    told.num_bytes, told.invalid_utf8 = round(proto.avg_length * total), int(proto.invalid_utf8_count)
    if known + told.invalid_utf8 < total or len(table) < proto.unique:
        values.given_unique = int(proto.unique)
    return StringStats(values, told=told)
