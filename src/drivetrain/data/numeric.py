"""Statistics of numbers: moments, extremes and histograms that merge exactly (spec 17 §2.2).

Mean and squared deviations are joined by the formula of Chan, Golub and LeVeque (1983); a sum of squares, which loses
all digits when the mean is large, is never formed. Extremes of integers stay Python integers, exact beyond 2^53.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .quantiles import QuantileSketch
from .scratch import scratch

Number = int | float
FINEST = 10_000  # most buckets a histogram may be asked for


@dataclass
class Moments:
    """Weight, mean and weighted sum of squared deviations of finite numbers.

    `tail` is what the mean lacks to be exact beyond double precision: merging subtracts means, and with a mean of 1e9
    and a deviation of 1 its last digit alone would cost the deviation seven of its own.
    """

    weight: float = 0.0
    mean: float = 0.0
    deviations: float = 0.0
    tail: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any], weights: NDArray[np.float64] | None = None) -> Moments:
        """Moments of one batch, in two passes; numpy's pairwise sums (np.dot would wake the threads of BLAS)."""
        weight = float(len(values)) if weights is None else float(weights.sum())
        if len(values) == 0 or weight == 0.0:
            return cls()
        centred = scratch("centred", len(values), np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # sums of numbers near 1e308
            np.copyto(centred, values)
            mean = float((centred if weights is None else centred * weights).sum()) / weight
            if not math.isfinite(mean):
                mean = float((centred * ((1.0 if weights is None else weights) / weight)).sum())
            centred -= mean
            tail = float((centred if weights is None else centred * weights).sum()) / weight
            centred *= centred
            deviations = float((centred if weights is None else centred * weights).sum()) - weight * tail * tail
        if not math.isfinite(deviations):  # squares beyond 1e308
            return cls(weight, mean, math.inf)
        return cls(weight, mean, max(0.0, deviations), tail)

    def merge(self, other: Moments) -> Moments:
        """Moments of both (Chan et al.)."""
        weight = self.weight + other.weight
        if other.weight == 0.0:
            return self
        if self.weight == 0.0:
            return other
        delta = (other.mean - self.mean) + (other.tail - self.tail)
        share = other.weight / weight
        if not math.isfinite(delta * delta):
            return Moments(weight, self.mean * (1.0 - share) + other.mean * share, math.inf)
        shift = self.tail + delta * share
        mean = self.mean + shift
        tail = shift - (mean - self.mean)
        deviations = self.deviations + other.deviations + delta * delta * self.weight * share
        return Moments(weight, mean, deviations, tail)

    @property
    def std_dev(self) -> float:
        """Population standard deviation."""
        return math.sqrt(self.deviations / self.weight) if self.weight else math.nan


@dataclass(frozen=True)
class Bucket:
    """`low <= value < high` (the last bucket includes `high`); the count is estimated where the sketch is not exact."""

    low: float
    high: float
    sample_count: float


@dataclass(frozen=True)
class Histogram:
    """A histogram of kind STANDARD (equal width) or QUANTILES (equal count)."""

    kind: str
    buckets: list[Bucket]
    num_nan: int = 0
    num_undefined: int = 0


@dataclass
class WeightedNumeric:
    """Moments and quantiles in which an example counts by its weight."""

    moments: Moments = field(default_factory=Moments)
    sketch: QuantileSketch = field(default_factory=QuantileSketch)

    mean = property(lambda self: self.moments.mean if self.moments.weight else math.nan)
    std_dev = property(lambda self: self.moments.std_dev)
    median = property(lambda self: self.sketch.quantile(0.5))


@dataclass
class NumericStats:
    """What is known of the numbers of a feature.

    `min` and `max` leave out NaN but not the infinities; `mean`, `std_dev` and the quantiles are of the finite values.
    """

    num_values: int = 0
    num_nan: int = 0
    num_pos_inf: int = 0
    num_neg_inf: int = 0
    num_zeros: int = 0
    min: Number | None = None
    max: Number | None = None
    moments: Moments = field(default_factory=Moments)
    sketch: QuantileSketch = field(default_factory=QuantileSketch)
    weighted: WeightedNumeric | None = None
    buckets: int = 10

    @classmethod
    def of(cls, values: ArrayLike, weights: ArrayLike | None = None) -> NumericStats:
        """Statistics of some numbers, NaN and infinities included."""
        stats = cls()
        stats.update(np.asarray(values), None if weights is None else np.asarray(weights, np.float64))
        return stats

    @property
    def n(self) -> int:
        """Number of finite values."""
        return self.num_values - self.num_nan - self.num_pos_inf - self.num_neg_inf

    @property
    def mean(self) -> float:
        return self.moments.mean if self.n else math.nan

    @property
    def std_dev(self) -> float:
        """Population standard deviation of the finite values."""
        return self.moments.std_dev

    @property
    def median(self) -> float:
        return float(self.quantile(0.5))

    def quantile(self, q: ArrayLike) -> Any:
        """Value(s) at share(s) q of the finite values; 0 and 1 give the exact extremes."""
        low, high = self._finite_range()
        shares = np.asarray(q, np.float64)
        inner = np.asarray(self.sketch.quantile(shares))
        values = np.where(shares <= 0.0, low, np.where(shares >= 1.0, high, inner))
        return float(values) if values.ndim == 0 else values

    def cdf(self, x: ArrayLike) -> Any:
        """Share of the finite values <= x."""
        return self.sketch.cdf(x)

    @property
    def standard_histogram(self) -> Histogram:
        """Equal-width buckets over the finite range, counted in the sketch."""
        return self._histogram("STANDARD", self.sketch, float(self.n))

    @property
    def quantiles_histogram(self) -> Histogram:
        """Buckets of equal count."""
        return self._histogram("QUANTILES", self.sketch, float(self.n))

    @property
    def histograms(self) -> list[Histogram]:
        """Both histograms, in TFDV's order."""
        return [self.standard_histogram, self.quantiles_histogram]

    def update(self, values: NDArray[Any], weights: NDArray[np.float64] | None = None) -> None:
        """Add a batch; float arrays may hold NaN and infinities."""
        self.num_values += len(values)
        if weights is not None:
            self._update_weighted(values, weights)
        ordered = scratch("ordered", len(values), values.dtype)
        np.copyto(ordered, values)
        ordered.sort()  # gives extremes, zeros, infinities and NaN (last) by bisection
        start, stop = 0, len(ordered)
        if ordered.dtype.kind == "f":
            stop = int(np.searchsorted(ordered, np.nan)) if stop and math.isnan(ordered[-1]) else stop
            self.num_nan += len(ordered) - stop
            ordered = ordered[:stop]
            start = int(np.searchsorted(ordered, -np.inf, side="right"))
            stop = int(np.searchsorted(ordered, np.inf))
            self.num_neg_inf += start
            self.num_pos_inf += len(ordered) - stop
        if len(ordered) == 0:
            return
        self.min = _least(self.min, ordered[0].item())
        self.max = _greatest(self.max, ordered[-1].item())
        finite = ordered[start:stop]
        zero = finite.dtype.type(0)
        self.num_zeros += int(np.searchsorted(finite, zero, side="right") - np.searchsorted(finite, zero))
        self.moments = self.moments.merge(Moments.of(finite))
        self.sketch.update(finite, presorted=True)

    def merge(self, other: NumericStats) -> NumericStats:
        """Statistics of both streams."""
        weighted = self.weighted or other.weighted
        if self.weighted and other.weighted:
            weighted = WeightedNumeric(
                self.weighted.moments.merge(other.weighted.moments), self.weighted.sketch.merge(other.weighted.sketch)
            )
        return NumericStats(
            self.num_values + other.num_values,
            self.num_nan + other.num_nan,
            self.num_pos_inf + other.num_pos_inf,
            self.num_neg_inf + other.num_neg_inf,
            self.num_zeros + other.num_zeros,
            _least(self.min, other.min),
            _greatest(self.max, other.max),
            self.moments.merge(other.moments),
            self.sketch.merge(other.sketch),
            weighted,
            max(self.buckets, other.buckets),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; merging needs no more than this."""
        data = {key: value for key, value in vars(self).items() if key not in ("moments", "sketch", "weighted")}
        data["min"], data["max"] = _plain(self.min), _plain(self.max)
        data |= {"moments": vars(self.moments), "sketch": self.sketch.to_json(), "weighted": None}
        if self.weighted:
            data["weighted"] = {"moments": vars(self.weighted.moments), "sketch": self.weighted.sketch.to_json()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NumericStats:
        """Inverse of `to_json`."""
        weighted = data["weighted"]
        rest = {key: value for key, value in data.items() if key not in ("moments", "sketch", "weighted")}
        rest["min"], rest["max"] = _number(data["min"]), _number(data["max"])
        return cls(
            **rest,
            moments=Moments(**data["moments"]),
            sketch=QuantileSketch.from_json(data["sketch"]),
            weighted=weighted
            and WeightedNumeric(Moments(**weighted["moments"]), QuantileSketch.from_json(weighted["sketch"])),
        )

    def _update_weighted(self, values: NDArray[Any], weights: NDArray[np.float64]) -> None:
        self.weighted = self.weighted or WeightedNumeric()
        keep = np.isfinite(values) & (weights > 0.0)
        self.weighted.moments = self.weighted.moments.merge(Moments.of(values[keep], weights[keep]))
        self.weighted.sketch.update(values[keep], weights[keep])

    def _finite_range(self) -> tuple[float, float]:
        if self.n == 0:
            return math.nan, math.nan
        points = self.sketch.support()[0]
        low = float(points[0]) if self.min is None or math.isinf(self.min) else float(self.min)
        high = float(points[-1]) if self.max is None or math.isinf(self.max) else float(self.max)
        return low, high

    def _histogram(self, kind: str, sketch: QuantileSketch, total: float) -> Histogram:
        if self.n == 0:
            return Histogram(kind, [], self.num_nan)
        low, high = self._finite_range()
        if kind == "QUANTILES":
            edges = self.quantile(np.linspace(0.0, 1.0, self.buckets + 1))
            counts = np.full(self.buckets, total / self.buckets)
        elif low == high:
            return Histogram(kind, [Bucket(low, high, total)], self.num_nan)
        else:
            edges = low + (high / self.buckets - low / self.buckets) * np.arange(self.buckets + 1)
            edges[-1] = high
            points, weights = sketch.support()
            place = np.clip(np.searchsorted(edges, points, side="right") - 1, 0, self.buckets - 1)
            counts = np.bincount(place, weights, minlength=self.buckets) * (total / weights.sum())
        buckets = [Bucket(float(a), float(b), float(c)) for a, b, c in zip(edges, edges[1:], counts, strict=False)]
        return Histogram(kind, buckets, self.num_nan)


def _least(a: Number | None, b: Number | None) -> Number | None:
    return b if a is None else a if b is None else min(a, b)


def _greatest(a: Number | None, b: Number | None) -> Number | None:
    return b if a is None else a if b is None else max(a, b)


def _plain(value: Number | None) -> Number | str | None:
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _number(value: Number | str | None) -> Number | None:
    return float(value) if isinstance(value, str) else value
