"""Columns that belong together: values with their indices (sparse features) or weights (weighted features)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np


@dataclass
class PairedStats:
    """How often a value column and its partners are there without each other, or of different lengths.

    Attributes:
        partners: partner column -> [examples with the value only, with the partner only, with different lengths].
    """

    kind: ClassVar[str] = "paired"
    name: str
    value: str
    partners: dict[str, list[int]] = field(default_factory=dict)
    num_examples: int = 0

    @property
    def missing_value(self) -> int:
        """Greatest number of examples that have a partner but no value."""
        return max((counts[1] for counts in self.partners.values()), default=0)

    @property
    def missing_partner(self) -> dict[str, int]:
        """Examples that have the value but not the partner."""
        return {name: counts[0] for name, counts in self.partners.items()}

    @property
    def length_mismatch(self) -> dict[str, int]:
        """Examples in which value and partner have different numbers of values."""
        return {name: counts[2] for name, counts in self.partners.items()}

    def update(self, table: Any) -> None:
        """Add a batch."""
        there, lengths = _lengths(table, self.value)
        for partner, counts in self.partners.items():
            other_there, other_lengths = _lengths(table, partner)
            counts[0] += int((there & ~other_there).sum())
            counts[1] += int((~there & other_there).sum())
            counts[2] += int((there & other_there & (lengths != other_lengths)).sum())
        self.num_examples += table.num_rows

    def merge(self, other: PairedStats) -> PairedStats:
        """Both streams."""
        names = self.partners | other.partners
        zero = [0, 0, 0]
        partners = {
            n: [a + b for a, b in zip(self.partners.get(n, zero), other.partners.get(n, zero), strict=True)]
            for n in names
        }
        return PairedStats(self.name, self.value, partners, self.num_examples + other.num_examples)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, **vars(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PairedStats:
        """Inverse of `to_json`."""
        return cls(**{key: value for key, value in data.items() if key != "kind"})


def _lengths(table: Any, name: str) -> tuple[Any, Any]:
    """Which examples have the column, and with how many values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from .views import as_numpy

    if name not in table.schema.names:
        return np.zeros(table.num_rows, bool), np.zeros(table.num_rows, np.int64)
    column = table[name]
    there = as_numpy(column.is_valid())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return there, as_numpy(pc.fill_null(pc.list_value_length(column), 0))
    return there, there.astype(np.int64)
