"""Slices: named parts of a data set that get statistics of their own (spec 17 §2.2).

"payment_type"                        one slice for each value
"payment_type=Cash"                   one slice
"payment_type=Cash & company"         a conjunction; one slice for each company among the cash payers
sql("trip_miles > 10 AND tips = 0")   rows for which a DuckDB expression is true; as text "sql: trip_miles > 10"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import InvalidValue, unknown_name
from ..base.extras import require

MOST = 1_000  # slices of one data set; more is a sign of a slice by an identifier


@dataclass(frozen=True)
class FeatureSlice:
    """A conjunction of `feature` (any value) and `feature = value` terms."""

    terms: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> list[str] | None:
        """The columns it looks at."""
        return [name for name, _ in self.terms]

    def parts(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.BooleanArray]]:
        """Name and rows of each slice that occurs in a batch; a list belongs to the slice of each of its values."""
        yield from self._parts(batch, list(self.terms), [])

    def _parts(self, batch: pa.RecordBatch, terms: list[Any], masks: list[Any]) -> Iterator[tuple[str, Any]]:
        if not terms:
            yield "", reduce(pc.and_, masks)
            return
        (name, value), rest = terms[0], terms[1:]
        if name not in batch.schema.names:
            return
        for found, mask in _values(batch[name], value):
            for label, rows in self._parts(batch, rest, [*masks, mask]):
                yield f"{name}={found}" + (f" & {label}" if label else ""), rows


@dataclass(frozen=True)
class SqlSlice:
    """Rows for which a DuckDB expression over the columns is true."""

    expression: str
    name: str

    @property
    def columns(self) -> list[str] | None:
        """None: it may look at any column."""
        return None

    def parts(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.BooleanArray]]:
        """Name and rows of the slice."""
        duckdb = require("duckdb", extra="data")
        with duckdb.connect() as connection:
            connection.register("batch", pa.Table.from_batches([batch]))
            try:
                query = f"SELECT ({self.expression})::BOOLEAN AS chosen FROM batch"  # the user's own expression
                chosen = connection.sql(query).to_arrow_table()["chosen"]
            except duckdb.Error as error:
                raise InvalidValue(
                    f"data: slice {self.name!r}: {error}", hint=f"columns: {', '.join(batch.schema.names[:20])}"
                ) from error
        rows = pc.fill_null(chosen, False).combine_chunks()
        if pc.any(rows).as_py():
            yield self.name, rows


Slice = FeatureSlice | SqlSlice


def sql(expression: str, name: str | None = None) -> SqlSlice:
    """A slice by a DuckDB expression, named after it unless a name is given."""
    return SqlSlice(expression, name or expression)


def parse_slices(slices: str | Slice | Sequence[str | Slice]) -> list[Slice]:
    """Slices from their text forms.

    Raises:
        InvalidValue: an empty term.
    """
    given = [slices] if isinstance(slices, str | FeatureSlice | SqlSlice) else slices
    return [parse_slice(item) if isinstance(item, str) else item for item in given]


def parse_slice(text: str) -> Slice:
    """One slice from its text form."""
    if text.strip().lower().startswith("sql:"):
        return sql(text.strip()[4:].strip())
    terms: list[tuple[str, str | None]] = []
    for term in text.split("&"):
        name, equals, value = term.partition("=")
        if not name.strip():
            raise InvalidValue(
                f"data: slice {text!r}: a term without a feature name",
                hint='wanted "feature", "feature=value", "a=x & b", or "sql: EXPRESSION"',
            )
        terms.append((name.strip(), value.strip() if equals else None))
    return FeatureSlice(tuple(terms))


def check_slices(slices: list[Slice], names: list[str]) -> None:
    """Refuse slices by columns that aren't there.

    Raises:
        InvalidValue: names the nearest column.
    """
    for part in slices:
        for name in part.columns or []:
            if name not in names:
                raise unknown_name("data: slice by column", name, names)


def _values(column: pa.Array, wanted: str | None) -> Iterator[tuple[str, Any]]:
    """Each value of a column, as text, with the rows that have it; only the wanted one if there is one."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        parents, leaves = pc.list_parent_indices(column), pc.list_flatten(column)
        for label, mask in _values(leaves, wanted):
            rows = pc.unique(parents.filter(pc.fill_null(mask, False)))
            yield label, pc.is_in(pa.array(range(len(column)), rows.type), value_set=rows)
        return
    texts = _texts(column)
    if wanted is not None:
        yield wanted, pc.fill_null(pc.equal(texts, wanted), False)
        return
    found = pc.unique(texts).drop_null()
    if len(found) > MOST:
        raise too_many()
    for value in found:
        yield value.as_py(), pc.fill_null(pc.equal(texts, value), False)


def too_many() -> InvalidValue:
    """The error for more slices than anybody can read."""
    return InvalidValue(
        f"data: more than {MOST:,} slices", hint='slice by a feature of few values, or name the values: "feature=value"'
    )


def _texts(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_string(column.type) else column.cast(pa.string())
