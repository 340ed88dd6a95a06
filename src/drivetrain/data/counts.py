"""How often each value occurs: exact up to 100,000 distinct values, bounded beyond (spec 17 §2.2).

Past the cap the table of counts is trimmed by the Misra-Gries rule in its mergeable form (Agarwal et al., "Mergeable
Summaries", §2): subtract the (k+1)-th largest count from all and drop what is not positive. A kept count is then too
low by at most `undercount` <= n / (k + 1) a trim. Distinct values are from then on counted by a HyperLogLog sketch
(datasketches).
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base.extras import require

CAP = 100_000  # distinct values counted exactly
KEPT = 20_000  # values kept in the table once the cap is passed
PRECISION = 14  # log2 of the HyperLogLog registers: 0.8 % standard error


class DistinctSketch:
    """Number of distinct values, by HyperLogLog."""

    def __init__(self, state: bytes | None = None) -> None:
        datasketches = require("datasketches", extra="data")
        self._new = datasketches.hll_union
        self._type = datasketches.tgt_hll_type.HLL_8
        self._sketch = (
            datasketches.hll_sketch.deserialize(state)
            if state
            else datasketches.hll_sketch(PRECISION, datasketches.tgt_hll_type.HLL_8)
        )

    def update(self, values: Iterable[bytes]) -> None:
        """Add values."""
        add = self._sketch.update
        for value in values:
            add(value.decode("latin-1"))  # the sketch takes texts; every byte has a letter in Latin-1

    def merge(self, other: DistinctSketch) -> DistinctSketch:
        """A sketch of both."""
        union = self._new(PRECISION)
        union.update(self._sketch)
        union.update(other._sketch)
        merged = DistinctSketch()
        merged._sketch = union.get_result(self._type)
        return merged

    @property
    def estimate(self) -> int:
        """Distinct values seen, to about 1 %."""
        return round(self._sketch.get_estimate())

    def to_bytes(self) -> bytes:
        """State, for `DistinctSketch(state)`."""
        return bytes(self._sketch.serialize_compact())


@dataclass
class ValueCounts:
    """How often each value occurs; keys are raw bytes, so that undecodable text keeps its place."""

    table: dict[bytes, float] = field(default_factory=dict)
    total: float = 0
    undercount: float = 0
    distinct: DistinctSketch | None = None
    given_unique: int | None = None  # where the table came from elsewhere, cut short

    @property
    def exact(self) -> bool:
        """True while no value was dropped."""
        return self.distinct is None and self.given_unique is None

    @property
    def unique(self) -> int:
        """Number of distinct values; an estimate where not `exact`."""
        estimate = 0 if self.distinct is None else self.distinct.estimate
        return max(len(self.table), estimate, self.given_unique or 0)

    def may_overflow(self, more: int) -> bool:
        """Whether `more` new values could pass the cap."""
        return len(self.table) + more > CAP

    def update(self, counts: Mapping[bytes, float]) -> None:
        """Add counted values (each key of a batch once)."""
        table, get = self.table, self.table.get
        for value, count in counts.items():
            table[value] = get(value, 0) + count
        self.total += sum(counts.values())
        if self.distinct is not None:
            self.distinct.update(counts)
        if len(table) > CAP:
            self._trim()

    def merge(self, other: ValueCounts) -> ValueCounts:
        """Counts of both."""
        distinct = None
        if self.distinct is not None or other.distinct is not None:
            distinct = self._sketched().merge(other._sketched())
        given = max(self.given_unique or 0, other.given_unique or 0) or None
        merged = ValueCounts(dict(self.table), self.total, self.undercount + other.undercount, distinct, given)
        for value, count in other.table.items():
            merged.table[value] = merged.table.get(value, 0) + count
        merged.total += other.total
        if len(merged.table) > CAP:
            merged._trim()
        return merged

    def ranked(self, limit: int) -> list[tuple[bytes, float]]:
        """The most frequent values, by count descending, then label."""
        items: Iterable[tuple[bytes, float]] = self.table.items()
        if len(self.table) > limit:
            counts = np.fromiter(self.table.values(), np.float64, len(self.table))
            least = np.partition(counts, -limit)[-limit]  # what the last of the ranked has
            items = [item for item in items if item[1] >= least]
        return heapq.nsmallest(limit, items, key=lambda item: (-item[1], item[0]))

    def _sketched(self) -> DistinctSketch:
        if self.distinct is not None:
            return self.distinct
        sketch = DistinctSketch()
        sketch.update(self.table)
        return sketch

    def _trim(self) -> None:
        self.distinct = self._sketched()
        floor = heapq.nlargest(KEPT + 1, self.table.values())[-1]
        self.table = {value: count - floor for value, count in self.table.items() if count > floor}
        self.undercount += floor

    def to_json(self) -> dict[str, Any]:
        """Plain data; labels that are not UTF-8 go through surrogates."""
        return {
            "labels": [value.decode("utf-8", "surrogateescape") for value in self.table],
            "counts": list(self.table.values()),
            "total": self.total,
            "undercount": self.undercount,
            "given_unique": self.given_unique,
            "distinct": None if self.distinct is None else base64.b64encode(self.distinct.to_bytes()).decode(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ValueCounts:
        """Inverse of `to_json`."""
        labels = [label.encode("utf-8", "surrogateescape") for label in data["labels"]]
        distinct = data["distinct"] and DistinctSketch(base64.b64decode(data["distinct"]))
        return cls(
            dict(zip(labels, data["counts"], strict=True)),
            data["total"],
            data["undercount"],
            distinct or None,
            data["given_unique"],
        )
