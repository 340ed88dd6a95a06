"""The report's data section: the verdict of every batch, what moved, and each feature's distribution."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parts import Bars, Facts, Histogram, Line, LinePlot, Part, Table, Text

if TYPE_CHECKING:
    from drivetrain.data import FeatureStats, Stats
    from drivetrain.data.numeric import NumericStats

MOST_PLOTS = 12
MOST_LINES = 5
BINS = 32


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
            title, edges = _edges(name, seen.numeric, other.numeric)
            yield Histogram(title, _shares(seen.numeric, edges), _shares(other.numeric, edges))
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


def _edges(name: str, one: NumericStats, other: NumericStats) -> tuple[str, list[float]]:
    """Common edges of both histograms; where a few far values would flatten all others, of the middle 98 %."""
    low, high = (
        pick(float(end(stats)) for stats in (one, other))
        for pick, end in ((min, lambda stats: stats.quantile(0.0)), (max, lambda stats: stats.quantile(1.0)))
    )
    inner = [float(stats.quantile(q)) for stats in (one, other) for q in (0.01, 0.99)]
    if high - low > 3 * (max(inner) - min(inner)) > 0:
        low, high, name = min(inner), max(inner), f"{name} (the middle 98 %)"
    whole = float(low).is_integer() and float(high).is_integer() and high - low < BINS
    if whole:  # a bin for each whole number, centred on it
        return name, [low - 0.5 + step for step in range(int(high - low) + 2)]
    return name, [low + (high - low) * step / BINS for step in range(BINS + 1)]


def _shares(numeric: NumericStats, edges: list[float]) -> list[tuple[float, float, float]]:
    """Share of the values in each bin; the first holds its lower edge too."""
    below = [0.0 if step == 0 else float(numeric.cdf(edge)) for step, edge in enumerate(edges)]
    return [(low, high, max(0.0, b - a)) for low, high, a, b in zip(edges, edges[1:], below, below[1:], strict=False)]
