"""The report's data section: the verdict of every batch, what moved, and each feature's distribution."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parts import Bars, Facts, Histogram, Line, LinePlot, Part, Table, Text

if TYPE_CHECKING:
    from drivetrain.data import FeatureStats, Stats

MOST_PLOTS = 12
MOST_LINES = 5


def show(folder: Path) -> Iterable[Part]:
    """Anomalies first, then drift over the batches, then the features."""
    from drivetrain.data import Stats

    reports = json.loads((folder / "reports.json").read_text())
    order = json.loads((folder / "order.json").read_text())
    train, test = (Stats.load(folder / f"{name}-stats.json") for name in ("train", "test"))
    yield Facts(
        {
            "training rows": train.num_examples,
            "test rows": test.num_examples,
            "features": len(train.features),
            "batches checked": len(order),
            "rejected rows": train.rejected.count + test.rejected.count,
        }
    )
    yield from _anomalies(reports, order)
    yield from _drift(reports, order)
    yield Text("Features of the training split", level=3)
    yield Table(
        ("feature", "type", "missing", "mean", "deviation", "least", "median", "greatest", "distinct"),
        [_row(feature) for feature in train.features.values()],
    )
    yield from _distributions(train, test)


def _anomalies(reports: dict[str, Any], order: list[str]) -> Iterable[Part]:
    rows = [
        (batch, anomaly["severity"], anomaly["feature"], anomaly["description"])
        for batch in order
        for anomaly in reports[batch]["anomalies"]
    ]
    if rows:
        yield Table(("batch", "severity", "feature", "what"), rows, title="Anomalies against the schema")
    else:
        yield Text("No anomalies: every batch keeps the schema.")


def _drift(reports: dict[str, Any], order: list[str]) -> Iterable[Part]:
    later = [name for name in order if reports[name]["drift"]]
    if not later:
        return
    paths: dict[str, list[float | None]] = {}
    for position, name in enumerate(later):
        for measured in reports[name]["drift"]:
            line = paths.setdefault(measured["feature"], [None] * len(later))
            line[position] = measured["distances"].get("linf")
    most = sorted(paths, key=lambda feature: -max(value or 0.0 for value in paths[feature]))
    at = list(range(1, len(later) + 1))
    yield LinePlot(
        "Drift from the batch before: the features that move most",
        [Line(feature, at, paths[feature]) for feature in most[:MOST_LINES]],
        f"batch ({later[0]} to {later[-1]})", "largest change of a share",
    )  # fmt: skip


def _row(feature: FeatureStats) -> tuple[Any, ...]:
    numeric, text = feature.numeric, feature.text
    total = feature.num_missing + feature.num_non_missing
    missing = f"{feature.num_missing / total:.1%}" if total and feature.num_missing else ""
    numbers = (numeric.mean, numeric.std_dev, numeric.min, numeric.median, numeric.max) if numeric else ("",) * 5
    return feature.name, feature.type, missing, *numbers, text.unique if text else ""


def _distributions(train: Stats, test: Stats) -> Iterable[Part]:
    names = [name for name in train.features if name in test.features]
    for name in names[:MOST_PLOTS]:
        seen, other = train.features[name], test.features[name]
        if seen.numeric and other.numeric and seen.numeric.n:
            yield Histogram(name, _shares(seen.numeric), _shares(other.numeric))
        elif seen.text and other.text:
            labels = [label for label, _ in seen.text.top_values[:10]]
            counts = dict(other.text.top_values)
            whole, other_whole = max(seen.text.num_values, 1), max(other.text.num_values, 1)
            yield Bars(
                name, labels, [count / whole for _, count in seen.text.top_values[:10]],
                [counts.get(label, 0) / other_whole for label in labels], ("training", "test"),
            )  # fmt: skip
    if len(names) > MOST_PLOTS:
        yield Text(f"The first {MOST_PLOTS} of {len(names)} features are drawn; all are in the table and in the files.")


def _shares(numeric: Any) -> list[tuple[float, float, float]]:
    buckets = numeric.standard_histogram.buckets
    total = sum(bucket.sample_count for bucket in buckets) or 1.0
    return [(bucket.low, bucket.high, bucket.sample_count / total) for bucket in buckets]
