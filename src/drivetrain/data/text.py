"""Statistics of strings and bytes, read off the counts of their values (spec 17 §2.2)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .counts import DistinctSketch, ValueCounts

RANKS = 1_000  # values in a rank histogram
INTEGER = re.compile(rb"\s*[+-]?\d+\s*")
# What int() or float() reads, underscores aside; the group is filled by integers.
NUMBER = re.compile(rb"\s*[+-]?(?:(\d+)|(?:\d+\.\d*|\.?\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)\s*", re.I)


@dataclass
class Reading:
    """What the values of a string column could be read as, in numbers of values."""

    num_bytes: int = 0
    num_int: int = 0
    num_float: int = 0
    invalid_utf8: int = 0

    @classmethod
    def of(cls, counts: Mapping[bytes, float]) -> Reading:
        """Read every distinct value once."""
        reading = cls()
        for value, count in counts.items():
            times = int(count)
            reading.num_bytes += len(value) * times
            if number := NUMBER.fullmatch(value):
                reading.num_float += times
                reading.num_int += times if number[1] else 0
            elif not value.isascii() and not _is_utf8(value):
                reading.invalid_utf8 += times
        return reading

    def __add__(self, other: Reading) -> Reading:
        return Reading(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class StringStats:
    """What is known of the strings of a feature. Labels that are not UTF-8 are shown with backslash escapes."""

    values: ValueCounts = field(default_factory=ValueCounts)
    weighted: ValueCounts | None = None
    top: int = 20
    told: Reading | None = None  # of all values, kept once the table no longer holds them all

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> StringStats:
        """Statistics of counted labels."""
        stats = cls()
        stats.update({label.encode(): count for label, count in counts.items()})
        return stats

    @property
    def num_values(self) -> int:
        return int(self.values.total)

    @property
    def exact(self) -> bool:
        """Whether `unique` and the counts are exact; otherwise `unique` is an estimate to 1 %."""
        return self.values.exact

    @property
    def unique(self) -> int:
        """Number of distinct values."""
        return self.values.unique

    @property
    def counts(self) -> dict[str, int] | None:
        """All values with their counts, most frequent first; None where there are too many to keep."""
        return dict(self._labelled(len(self.values.table))) if self.exact else None

    @property
    def top_values(self) -> list[tuple[str, int]]:
        """The `top` most frequent values."""
        return self._labelled(self.top)

    @property
    def rank_histogram(self) -> list[tuple[str, int]]:
        """Up to 1,000 most frequent values, by count descending, then label."""
        return self._labelled(RANKS)

    @property
    def other(self) -> int:
        """Number of values outside `rank_histogram`."""
        return self.num_values - sum(count for _, count in self.rank_histogram)

    @property
    def weighted_top_values(self) -> list[tuple[str, float]]:
        """The `top` values of greatest weight."""
        return [] if self.weighted is None else [(_label(v), c) for v, c in self.weighted.ranked(self.top)]

    @property
    def reading(self) -> Reading:
        """How many values read as integers, as numbers, as no UTF-8."""
        return self.told or Reading.of(self.values.table)

    @property
    def num_int(self) -> int:
        """Values that read as an integer."""
        return self.reading.num_int

    @property
    def num_float(self) -> int:
        """Values that read as a number, integers included."""
        return self.reading.num_float

    @property
    def invalid_utf8(self) -> int:
        """Values that are not UTF-8."""
        return self.reading.invalid_utf8

    @property
    def avg_length(self) -> float:
        """Mean length in bytes of UTF-8."""
        return self.reading.num_bytes / self.num_values if self.num_values else 0.0

    def update(self, counts: Mapping[bytes, float], weighted: Mapping[bytes, float] | None = None) -> None:
        """Add counted values of a batch."""
        if self.told is not None:
            self.told = self.told + Reading.of(counts)
        elif self.values.may_overflow(len(counts)):
            self.told = Reading.of(self.values.table) + Reading.of(counts)
        self.values.update(counts)
        if weighted is not None:
            self.weighted = self.weighted or ValueCounts()
            self.weighted.update(weighted)

    def merge(self, other: StringStats) -> StringStats:
        """Statistics of both streams."""
        weighted = self.weighted or other.weighted
        if self.weighted and other.weighted:
            weighted = self.weighted.merge(other.weighted)
        values = self.values.merge(other.values)
        told = None if values.exact else self.reading + other.reading
        return StringStats(values, weighted, max(self.top, other.top), told)

    def to_json(self) -> dict[str, Any]:
        """Plain data; merging needs no more than this."""
        return {
            "values": self.values.to_json(),
            "weighted": self.weighted and self.weighted.to_json(),
            "top": self.top,
            "told": self.told and vars(self.told),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StringStats:
        """Inverse of `to_json`."""
        return cls(
            ValueCounts.from_json(data["values"]),
            data["weighted"] and ValueCounts.from_json(data["weighted"]),
            data["top"],
            data["told"] and Reading(**data["told"]),
        )

    def _labelled(self, limit: int) -> list[tuple[str, int]]:
        return [(_label(value), int(count)) for value, count in self.values.ranked(limit)]


@dataclass
class BytesStats:
    """Sizes of binary values; `unique` is an estimate to 1 %."""

    num_values: int = 0
    min_num_bytes: int | None = None
    max_num_bytes: int | None = None
    total_num_bytes: int = 0
    distinct: DistinctSketch | None = None

    @property
    def unique(self) -> int:
        """Number of distinct values, estimated."""
        return self.distinct.estimate if self.distinct else 0

    @property
    def avg_num_bytes(self) -> float:
        return self.total_num_bytes / self.num_values if self.num_values else 0.0

    def update(self, values: list[bytes]) -> None:
        """Add binary values."""
        if not values:
            return
        sizes = [len(value) for value in values]
        self.distinct = self.distinct or DistinctSketch()
        self.distinct.update(values)
        self.num_values += len(sizes)
        self.total_num_bytes += sum(sizes)
        self.min_num_bytes = min(sizes + ([] if self.min_num_bytes is None else [self.min_num_bytes]))
        self.max_num_bytes = max(sizes + ([] if self.max_num_bytes is None else [self.max_num_bytes]))

    def merge(self, other: BytesStats) -> BytesStats:
        """Statistics of both streams."""
        lows = [s.min_num_bytes for s in (self, other) if s.min_num_bytes is not None]
        highs = [s.max_num_bytes for s in (self, other) if s.max_num_bytes is not None]
        distinct = self.distinct or other.distinct
        if self.distinct and other.distinct:
            distinct = self.distinct.merge(other.distinct)
        return BytesStats(
            self.num_values + other.num_values,
            min(lows, default=None),
            max(highs, default=None),
            self.total_num_bytes + other.total_num_bytes,
            distinct,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; merging needs no more than this."""
        state = self.distinct and base64.b64encode(self.distinct.to_bytes()).decode()
        return {**vars(self), "distinct": state}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BytesStats:
        """Inverse of `to_json`."""
        state = data["distinct"]
        return cls(**{**data, "distinct": DistinctSketch(base64.b64decode(state)) if state else None})


def _label(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
