"""Which rows break the schema: offenders with their places, by vectorised masks over Arrow batches.

`validate` says from statistics that something is wrong; `rows` reads the data again and says where. Only promises
about single
examples are looked at: types, presence in all examples, number of values, domains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..base.extras import require
from .domains import StructDomain
from .schema import Feature, Schema


class Offender(NamedTuple):
    """One broken promise about one row.

    Attributes:
        row: place of the row: "flights.csv:17" for text files, "part.parquet row 16" for other files, else its index.
        feature, type: which promise, as in an `Anomaly`.
        value: the offending value; of a list, the first one that offends.
    """

    row: int | str
    feature: str
    type: str
    value: Any


def rows(
    source: Any, schema: Schema, *, environment: str | None = None, limit: int | None = None
) -> Iterator[Offender]:
    """Read data and yield what breaks the schema, batch by batch, feature by feature.

    Args:
        source: anything that `analyze` reads from files or tables.
        schema: the promises.
        environment: features not expected in it may be missing.
        limit: stop after this many offenders.

    Raises:
        MissingFile, InvalidValue: as `analyze`.
    """
    require("pyarrow", extra="data")
    from .sources import open_source

    plan = RowChecks(schema, environment)
    types = {
        name: feature.type for name, feature in schema.features.items() if feature.type in ("int", "float", "string")
    }
    left = limit
    for batch in open_source(source, types=types).batches():
        place: Callable[[int], int | str] = batch.where if batch.origin else lambda row, b=batch: b.first_row + row  # type: ignore[misc]
        for found in plan.offenders(batch.table, place):
            yield found
            if left is not None:
                left -= 1
                if left <= 0:
                    return


class RowChecks:
    """The row-level promises of a schema, ready to be held against Arrow batches."""

    def __init__(self, schema: Schema, environment: str | None = None) -> None:
        self.schema, self.environment = schema, environment
        self.features = [(name, feature) for name, feature in schema.features.items() if feature.checked]

    def offenders(self, table: Any, place: Callable[[int], int | str]) -> Iterator[Offender]:
        """Offenders of one batch; `place` names a row."""
        for name, kind, mask_N, column in self.masks(table):
            where_M = np.flatnonzero(mask_N)
            for row, value in zip(where_M.tolist(), _values(column, where_M), strict=True):
                yield Offender(place(row), name, kind, value)

    def bad_rows(self, table: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows of a batch break any promise: bool, one per row."""
        bad_N = np.zeros(table.num_rows, np.bool_)
        for _, _, mask_N, _ in self.masks(table):
            bad_N |= mask_N
        return bad_N

    def masks(self, table: Any) -> Iterator[tuple[str, str, Any, Any]]:
        """(feature, type of anomaly, bool mask over rows, column) for every promise that any row breaks."""
        present = set(table.schema.names)
        for name, feature in self.features:
            if name in present:
                column = table.column(name)
                yield from self._feature(name, feature, column, np.arange(table.num_rows), table.num_rows)

    def _feature(
        self, path: str, feature: Feature, column: Any, rows_N: Any, total: int
    ) -> Iterator[tuple[str, str, Any, Any]]:
        """Masks of one feature; `rows_N` says which row of the batch each element belongs to."""
        import pyarrow as pa

        from .row_masks import column_masks

        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        expected = self.environment is None or feature.expected_in(self.environment, self.schema.environments)
        for kind, mask_M in column_masks(column, feature, self.schema.resolve(feature.domain), expected):
            yield path, kind, _spread(mask_M, rows_N, total), _RowsOf(column, rows_N)
        if isinstance(feature.domain, StructDomain) and pa.types.is_struct(column.type):
            valid_N = np.asarray(column.is_valid())
            for name, child in feature.domain.features.items():
                place = column.type.get_field_index(name)
                if place >= 0 and child.checked:
                    inner = column.field(place).filter(pa.array(valid_N))
                    yield from self._feature(f"{path}.{name}", child, inner, rows_N[valid_N], total)


class _RowsOf(NamedTuple):
    """A column of which only some rows have an element (the field of a struct that may be missing)."""

    column: Any
    rows_N: Any


def _spread(mask_M: Any, rows_N: Any, total: int) -> Any:
    if len(mask_M) == total:
        return mask_M
    mask_N = np.zeros(total, np.bool_)
    mask_N[rows_N[mask_M]] = True
    return mask_N


def _values(of: _RowsOf, where_M: Any) -> list[Any]:
    import pyarrow as pa

    elements = np.searchsorted(of.rows_N, where_M)
    return of.column.take(pa.array(elements)).to_pylist()
