"""Statistics of two features at a time: covariance, lift, mutual information (spec 17 §2.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

MOST_FEATURES = 50  # pairs grow with the square
MOST_PAIRS = 100_000  # values of x together with values of y
SAMPLE = 10_000  # examples kept for mutual information
BINS = 10
PLAIN = (int, float, str)


@dataclass
class CrossStats:
    """Covariance of numeric features, over the examples in which both are finite; joined as in Chan et al. (1983).

    Attributes:
        pairs: (x, y) -> [n, mean x, mean y, sum of (x - mean)², of (y - mean)², of (x - mean)(y - mean)].
    """

    kind: ClassVar[str] = "cross"
    features: list[str] | None = None
    pairs: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def covariance(self, x: str, y: str) -> float:
        """Population covariance; NaN for a pair without common examples."""
        n, *_, together = self._pair(x, y)
        return together / n if n else math.nan

    def correlation(self, x: str, y: str) -> float:
        """Pearson's correlation; NaN where a feature is constant."""
        *_, xx, yy, xy = self._pair(x, y)
        return xy / math.sqrt(xx * yy) if xx > 0.0 and yy > 0.0 else math.nan

    def update(self, table: Any) -> None:
        """Add a batch."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from .views import as_numpy

        columns: dict[str, NDArray[np.float64]] = {}
        for name in table.schema.names if self.features is None else self.features:
            kind = table.schema.field(name).type if name in table.schema.names else None
            if kind is not None and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                columns[name] = as_numpy(pc.fill_null(table[name].cast(pa.float64()), math.nan))
        names = sorted(columns)[:MOST_FEATURES]
        for i, x in enumerate(names):
            for y in names[i + 1 :]:
                self._join((x, y), _moments(columns[x], columns[y]))

    def merge(self, other: CrossStats) -> CrossStats:
        """Both streams."""
        merged = CrossStats(self.features, dict(self.pairs))
        for pair, moments in other.pairs.items():
            merged._join(pair, moments)
        return merged

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, "features": self.features, "pairs": [[*p, m] for p, m in self.pairs.items()]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CrossStats:
        """Inverse of `to_json`."""
        return cls(data["features"], {(x, y): moments for x, y, moments in data["pairs"]})

    def _pair(self, x: str, y: str) -> list[float]:
        if (x, y) in self.pairs:
            return self.pairs[x, y]
        n, my, mx, yy, xx, xy = self.pairs.get((y, x), [0.0] * 6)
        return [n, mx, my, xx, yy, xy]

    def _join(self, pair: tuple[str, str], b: list[float]) -> None:
        a = self.pairs.get(pair)
        if a is None or a[0] == 0.0:
            self.pairs[pair] = b
        elif b[0]:
            n = a[0] + b[0]
            dx, dy, share = b[1] - a[1], b[2] - a[2], a[0] * b[0] / n
            means = [a[1] + dx * b[0] / n, a[2] + dy * b[0] / n]
            squares = [a[3] + b[3] + dx * dx * share, a[4] + b[4] + dy * dy * share, a[5] + b[5] + dx * dy * share]
            self.pairs[pair] = [n, *means, *squares]


@dataclass
class LiftStats:
    """Counts of two categorical features together; `lift(x, y)` = P(y | x) / P(y). The first 100,000 pairs are kept."""

    kind: ClassVar[str] = "lift"
    x: str
    y: str
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    others: int = 0

    def lift(self, x: Any, y: Any) -> float:
        """How much more often y occurs where x does; 1 means not at all; NaN where x or y never occurs."""
        both = self.counts.get((str(x), str(y)), 0)
        with_x = sum(count for (a, _), count in self.counts.items() if a == str(x))
        with_y = sum(count for (_, b), count in self.counts.items() if b == str(y))
        total = sum(self.counts.values())
        return both * total / (with_x * with_y) if with_x and with_y else math.nan

    def update(self, table: Any) -> None:
        """Add a batch; examples that lack one of the two don't count."""
        if self.x not in table.schema.names or self.y not in table.schema.names:
            return
        pairs = zip(table[self.x].to_pylist(), table[self.y].to_pylist(), strict=True)
        for x, y in pairs:
            if x is not None and y is not None:
                self._count((str(x), str(y)), 1)

    def merge(self, other: LiftStats) -> LiftStats:
        """Both streams."""
        merged = LiftStats(self.x, self.y, dict(self.counts), self.others + other.others)
        for pair, times in other.counts.items():
            merged._count(pair, times)
        return merged

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, **vars(self), "counts": [[*pair, n] for pair, n in self.counts.items()]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LiftStats:
        """Inverse of `to_json`."""
        return cls(data["x"], data["y"], {(x, y): n for x, y, n in data["counts"]}, data["others"])

    def _count(self, pair: tuple[str, str], times: int) -> None:
        if pair in self.counts or len(self.counts) < MOST_PAIRS:
            self.counts[pair] = self.counts.get(pair, 0) + times
        else:
            self.others += times


@dataclass
class MutualInformationStats:
    """Mutual information with a label, in bits, on a sample of the examples (least random priorities, so that it
    merges).

    Numbers with more than 10 distinct values are cut at the deciles of the sample; the plug-in estimate is corrected by
    Miller and Madow's (cells - rows - columns + 1) / 2n.
    """

    kind: ClassVar[str] = "mutual information"
    label: str
    rows: list[list[Any]] = field(default_factory=list)  # [priority, values by name]
    seen: int = 0

    def bits(self, feature: str) -> float:
        """Mutual information of a feature and the label; a missing value counts as a value."""
        if not self.rows:
            return math.nan
        x = _codes([row[1].get(feature) for row in self.rows])
        y = _codes([row[1].get(self.label) for row in self.rows])
        table = np.zeros((x.max() + 1, y.max() + 1))
        np.add.at(table, (x, y), 1.0)
        p = table / table.sum()
        outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
        filled = p > 0.0
        plug_in = float((p[filled] * np.log2(p[filled] / outer[filled])).sum())
        cells = int(filled.sum()) - table.shape[0] - table.shape[1] + 1
        return max(0.0, plug_in - cells / (2 * len(self.rows) * math.log(2)))

    @property
    def all(self) -> dict[str, float]:
        """Bits of every feature, most telling first."""
        names = {name for row in self.rows for name in row[1]} - {self.label}
        return dict(sorted(((n, self.bits(n)) for n in names), key=lambda item: (-item[1], item[0])))

    def update(self, table: Any) -> None:
        """Add a batch."""
        rng = np.random.default_rng([17, self.seen, table.num_rows])
        priorities = rng.random(table.num_rows)
        kept = np.argsort(priorities)[:SAMPLE]
        if len(self.rows) == SAMPLE:
            kept = kept[priorities[kept] < self.rows[-1][0]]
        chosen = table.take(np.sort(kept)).to_pylist()
        fresh = zip(priorities[np.sort(kept)].tolist(), chosen, strict=True)
        for priority, row in fresh:
            plain = {name: value for name, value in row.items() if value is None or isinstance(value, PLAIN)}
            self.rows.append([priority, plain])
        self.rows = sorted(self.rows, key=lambda row: row[0])[:SAMPLE]
        self.seen += table.num_rows

    def merge(self, other: MutualInformationStats) -> MutualInformationStats:
        """Both samples, still uniform over all examples."""
        rows = sorted([*self.rows, *other.rows], key=lambda row: row[0])[:SAMPLE]
        return MutualInformationStats(self.label, rows, self.seen + other.seen)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the sample goes with it, since merging needs it."""
        return {"kind": self.kind, **vars(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MutualInformationStats:
        """Inverse of `to_json`."""
        return cls(data["label"], data["rows"], data["seen"])


def _moments(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[float]:
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) == 0:
        return [0.0] * 6
    mean_x, mean_y = float(x.mean()), float(y.mean())
    dx, dy = x - mean_x, y - mean_y
    return [float(len(x)), mean_x, mean_y, float((dx * dx).sum()), float((dy * dy).sum()), float((dx * dy).sum())]


def _codes(values: list[Any]) -> NDArray[np.int64]:
    """Small integers for the values: decile for numbers of many values, else one for each value."""
    gone = [value is None or value != value for value in values]
    there = [value for value, missing in zip(values, gone, strict=True) if not missing]
    if len(set(there)) > BINS and all(isinstance(value, int | float) for value in there):
        edges = np.unique(np.quantile(np.array(there, float), np.linspace(0.0, 1.0, BINS + 1)[1:-1]))
        numbers = np.array([math.nan if missing else value for value, missing in zip(values, gone, strict=True)], float)
        deciles = np.searchsorted(edges, numbers, side="right")
        return np.where(np.isnan(numbers), len(edges) + 1, deciles).astype(np.int64)
    return np.unique([repr(value) for value in values], return_inverse=True)[1].astype(np.int64)
