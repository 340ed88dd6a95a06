"""Presence and valency: in how many examples a feature is there, and with how many values (spec 17 §2.1).

A level counts one step of nesting. Level 0 looks at examples: null is missing, a list of no values is present and
empty. Level 1 looks at the lists inside the lists, and so on. A scalar column has one level, of one value each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numeric import Bucket, Histogram
from .quantiles import QuantileSketch

SHAPES_KEPT = 16


@dataclass
class Level:
    """Presence and number of values at one level of nesting."""

    num_non_missing: int = 0
    num_missing: int = 0
    num_empty: int = 0
    min_num_values: int | None = None
    max_num_values: int | None = None
    tot_num_values: int = 0

    def merge(self, other: Level) -> Level:
        """Both streams."""
        lows = [level.min_num_values for level in (self, other) if level.min_num_values is not None]
        highs = [level.max_num_values for level in (self, other) if level.max_num_values is not None]
        return Level(
            self.num_non_missing + other.num_non_missing,
            self.num_missing + other.num_missing,
            self.num_empty + other.num_empty,
            min(lows, default=None),
            max(highs, default=None),
            self.tot_num_values + other.tot_num_values,
        )

    def add_scalars(self, present: int, missing: int) -> None:
        """Add examples with one value or none."""
        self.num_non_missing += present
        self.num_missing += missing
        self.tot_num_values += present
        if present:
            self.min_num_values = 1 if self.min_num_values is None else min(1, self.min_num_values)
            self.max_num_values = max(1, self.max_num_values or 0)

    def add_lists(self, lengths: NDArray[np.integer[Any]], missing: int) -> None:
        """Add lists of the given lengths (the missing ones not among them)."""
        self.num_missing += missing
        if len(lengths):
            low, high = int(lengths.min()), int(lengths.max())
            self.num_non_missing += len(lengths)
            self.num_empty += int((lengths == 0).sum())
            self.tot_num_values += int(lengths.sum())
            self.min_num_values = low if self.min_num_values is None else min(low, self.min_num_values)
            self.max_num_values = high if self.max_num_values is None else max(high, self.max_num_values)


@dataclass
class CommonStats:
    """Presence and number of values of a feature; the plain names are those of level 0.

    `weighted_*` count an example by its weight; None where no weight was given. `lengths` summarises the number of
    values per example, for list features; `num_null_values` are nulls inside lists.
    """

    levels: list[Level] = field(default_factory=lambda: [Level()])
    weighted_num_non_missing: float | None = None
    weighted_num_missing: float | None = None
    weighted_tot_num_values: float | None = None
    lengths: QuantileSketch | None = None
    num_null_values: int = 0

    @classmethod
    def of(
        cls,
        non_missing: int,
        missing: int,
        *,
        min_values: int = 1,
        max_values: int = 1,
        tot_values: int | None = None,
        weighted_missing: float | None = None,
    ) -> CommonStats:
        """Common statistics of given counts."""
        level = Level(non_missing, missing)
        if non_missing:
            level.min_num_values, level.max_num_values = min_values, max_values
            level.tot_num_values = non_missing * min_values if tot_values is None else tot_values
        return cls([level], weighted_num_missing=weighted_missing)

    num_non_missing = property(lambda self: self.levels[0].num_non_missing)
    num_missing = property(lambda self: self.levels[0].num_missing)
    num_empty = property(lambda self: self.levels[0].num_empty)
    tot_num_values = property(lambda self: self.levels[0].tot_num_values)

    @property
    def min_num_values(self) -> int:
        """Least number of values of an example that has the feature; 0 where none has."""
        return self.levels[0].min_num_values or 0

    @property
    def max_num_values(self) -> int:
        """Greatest number of values; 0 where no example has the feature."""
        return self.levels[0].max_num_values or 0

    @property
    def avg_num_values(self) -> float:
        """Mean number of values where present."""
        return self.tot_num_values / self.num_non_missing if self.num_non_missing else 0.0

    @property
    def num_values_histogram(self) -> Histogram:
        """Number of values per example, in 10 buckets of equal count."""
        if not self.num_non_missing:
            return Histogram("QUANTILES", [])
        if self.lengths is None:
            edges = np.full(11, float(self.min_num_values))
        else:
            edges = self.lengths.quantile(np.linspace(0.0, 1.0, 11))
            edges[0], edges[-1] = self.min_num_values, self.max_num_values
        share = self.num_non_missing / 10
        return Histogram("QUANTILES", [Bucket(float(a), float(b), share) for a, b in pairwise(edges)])

    def level(self, depth: int) -> Level:
        """The level at `depth`, made if new."""
        while len(self.levels) <= depth:
            self.levels.append(Level())
        return self.levels[depth]

    def add_weights(self, present: float, missing: float, values: float) -> None:
        """Add the weights of a batch: of its present and missing examples, and of its values."""
        self.weighted_num_non_missing = (self.weighted_num_non_missing or 0.0) + present
        self.weighted_num_missing = (self.weighted_num_missing or 0.0) + missing
        self.weighted_tot_num_values = (self.weighted_tot_num_values or 0.0) + values

    def merge(self, other: CommonStats) -> CommonStats:
        """Both streams."""
        depth = max(len(self.levels), len(other.levels))
        pairs = [(_at(self.levels, i), _at(other.levels, i)) for i in range(depth)]
        lengths = None
        if self.lengths is not None or other.lengths is not None:
            lengths = self.constant_lengths().merge(other.constant_lengths())
        return CommonStats(
            [a.merge(b) for a, b in pairs],
            _sum(self.weighted_num_non_missing, other.weighted_num_non_missing),
            _sum(self.weighted_num_missing, other.weighted_num_missing),
            _sum(self.weighted_tot_num_values, other.weighted_tot_num_values),
            lengths,
            self.num_null_values + other.num_null_values,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; merging needs no more than this."""
        return {
            **vars(self),
            "levels": [vars(level) for level in self.levels],
            "lengths": self.lengths and self.lengths.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CommonStats:
        """Inverse of `to_json`."""
        levels = [Level(**level) for level in data["levels"]]
        lengths = data["lengths"] and QuantileSketch.from_json(data["lengths"])
        return cls(**{**data, "levels": levels, "lengths": lengths})

    def constant_lengths(self) -> QuantileSketch:
        """The sketch, or for a scalar column as many ones as it has values."""
        if self.lengths is not None or not self.num_non_missing:
            return self.lengths or QuantileSketch()
        return QuantileSketch.constant(float(self.min_num_values), self.num_non_missing)


@dataclass
class TensorStats:
    """dtypes and shapes of a feature that holds tensors, with counts; the 16 most frequent shapes are kept."""

    dtypes: dict[str, int] = field(default_factory=dict)
    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)
    other_shapes: int = 0

    def add(self, dtype: str, shape: tuple[int, ...], times: int = 1) -> None:
        """Count `times` tensors."""
        self.dtypes[dtype] = self.dtypes.get(dtype, 0) + times
        if shape in self.shapes or len(self.shapes) < SHAPES_KEPT:
            self.shapes[shape] = self.shapes.get(shape, 0) + times
        else:
            self.other_shapes += times

    def merge(self, other: TensorStats) -> TensorStats:
        """Both streams."""
        merged = TensorStats(dict(self.dtypes), dict(self.shapes), self.other_shapes + other.other_shapes)
        for dtype, times in other.dtypes.items():
            merged.dtypes[dtype] = merged.dtypes.get(dtype, 0) + times
        for shape, times in other.shapes.items():
            merged.shapes[shape] = merged.shapes.get(shape, 0) + times
        ranked = sorted(merged.shapes.items(), key=lambda item: (-item[1], item[0]))
        merged.shapes = dict(ranked[:SHAPES_KEPT])
        merged.other_shapes += sum(times for _, times in ranked[SHAPES_KEPT:])
        return merged

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "shapes": [[list(shape), times] for shape, times in self.shapes.items()]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TensorStats:
        """Inverse of `to_json`."""
        return cls(data["dtypes"], {tuple(shape): times for shape, times in data["shapes"]}, data["other_shapes"])


def _at(levels: list[Level], depth: int) -> Level:
    return levels[depth] if depth < len(levels) else Level()


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None and b is None else (a or 0.0) + (b or 0.0)
