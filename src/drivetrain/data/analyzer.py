"""Statistics that grow batch by batch, with slices, weights and sampling: the engine behind `analyze`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import InvalidValue, unknown_name
from ..base.seeds import numpy_generator
from .accumulate import Accumulator, FeatureAccumulator
from .batch import Batch
from .csv_reader import CsvReader
from .domains import FloatDomain, IntDomain
from .generators import Generator, from_schema
from .numeric import FINEST
from .slices import MOST, Slice, check_slices, parse_slices, too_many
from .sources import open_source
from .stats import ALL, Stats
from .views import as_numpy

if TYPE_CHECKING:
    from .schema import Schema


class Analyzer:
    """Statistics that grow: `add` batches as they come, `stats()` at any time. Arguments as of `analyze`."""

    def __init__(
        self,
        *,
        schema: Schema | None = None,
        slices: str | Slice | Sequence[str | Slice] = (),
        weight: str | None = None,
        sample: float | None = None,
        top: int = 20,
        histogram: int = 10,
        columns: Sequence[str] | None = None,
        batch_rows: int = 131_072,
        threads: int | None = None,
        generators: Sequence[Generator] = (),
        name: str | None = None,
    ) -> None:
        _check("sample", sample, sample is None or 0 < sample <= 1, "a share in (0, 1]")
        _check("top", top, top >= 1, "at least 1")
        _check("histogram", histogram, 1 <= histogram <= FINEST, f"1 to {FINEST}")
        _check("batch_rows", batch_rows, batch_rows >= 1, "at least 1")
        _check("threads", threads, threads is None or threads >= 1, "at least 1")
        self._slices = parse_slices(slices)
        self._weight, self._sample = weight, sample
        self._top, self._buckets, self._batch_rows = top, histogram, batch_rows
        self._columns = None if columns is None else list(columns)
        self.threads = threads or min(4, os.cpu_count() or 1)
        self._types, self._categorical = _from_schema(schema)
        wanted = [*from_schema(schema), *generators]
        self._generators = [(generator, generator.start()) for generator in wanted]
        self._all = Accumulator(self._feature)
        self._parts: dict[str, Accumulator] = {}
        self._result = Stats(name or ALL)
        self._notes: dict[str, list[str]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def read(self, source: Any) -> None:
        """Add all batches of a source."""
        reader = open_source(
            source, columns=self._needed(), batch_rows=self._batch_rows, types=self._types, threads=self.threads
        )
        with ThreadPoolExecutor(self.threads) as pool:
            self._pool = pool if self.threads > 1 else None
            for batch in reader.batches():
                self.add(batch)
            if isinstance(reader, CsvReader) and reader.widened:
                self._read_again(reader)
        self._pool = None
        self._result.rejected = self._result.rejected.merge(reader.rejected)
        for column, notes in reader.notes.items():
            self._notes.setdefault(column, []).extend(notes)

    def add(self, batch: Batch | pa.RecordBatch | pa.Table) -> None:
        """Add a batch of rows."""
        if isinstance(batch, pa.Table):
            for piece in batch.to_batches():
                self.add(Batch(piece))
            return
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        for name in batch.restarts:
            for accumulator in [self._all, *self._parts.values()]:
                accumulator.restart(name)
        table, weights = self._prepare(batch)
        shown = [name for name in table.schema.names if name and (self._columns is None or name in self._columns)]
        self._all.add({name: table[name] for name in shown}, table.num_rows, weights, self._pool)
        for name in batch.tensors.keys() & set(shown):
            self._all.features[name].note_tensors(batch.tensors[name])
        for accumulator, part, part_weights in self._sliced(table, weights):
            accumulator.add({name: part[name] for name in shown}, part.num_rows, part_weights, self._pool)
        for _, state in self._generators:
            state.update(table)

    def stats(self) -> Stats:
        """The statistics so far."""
        result = self._result
        result.num_examples = self._all.num_examples
        result.features = self._all.finish()
        result.weighted_num_examples = self._all.weight if self._weight else None
        for column, notes in self._notes.items():
            known = result.features[column].notes if column in result.features else result.notes
            known.extend(note for note in notes if note not in known)
        for label, part in sorted(self._parts.items()):
            weighted = part.weight if self._weight else None
            result.slices[label] = Stats(label, part.num_examples, weighted, part.finish())
        for generator, state in self._generators:
            home = result if generator.feature is None else result.features.get(generator.feature)
            if home is not None:
                home.extras[generator.key] = state
        return result

    def _prepare(self, batch: Batch) -> tuple[pa.RecordBatch, Any]:
        """The rows looked at and their weights."""
        table = batch.table
        if self._sample is not None and self._sample < 1.0:
            rng = numpy_generator(0, "sample", batch.origin, batch.first_row)
            table = table.filter(pa.array(rng.random(table.num_rows) < self._sample))
        names = table.schema.names
        if self._all.num_examples == 0:
            check_slices(self._slices, names)
            if self._weight is not None and self._weight not in names:
                raise unknown_name("data: weight column", self._weight, names)
        if self._weight is None:
            return table, None
        weights = as_numpy(pc.fill_null(table[self._weight].cast(pa.float64()), 0.0))
        if len(weights) and not (np.isfinite(weights).all() and weights.min() >= 0.0):
            bad = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0.0)))[0])
            raise InvalidValue(f"data: {batch.where(bad)}: weight {weights[bad]} in {self._weight!r}, wanted >= 0")
        return table, weights

    def _sliced(self, table: pa.RecordBatch, weights: Any) -> Any:
        for part in self._slices:
            for label, rows in part.parts(table):
                chosen = table.filter(rows)
                if chosen.num_rows == 0:
                    continue
                if label not in self._parts and len(self._parts) >= MOST:
                    raise too_many()
                accumulator = self._parts.setdefault(label, Accumulator(self._feature))
                yield accumulator, chosen, None if weights is None else weights[as_numpy(rows)]

    def _read_again(self, reader: CsvReader) -> None:
        """Columns that turned from numbers to text in mid-file: read the early part once more, as text."""
        for batch in reader.earlier(self._needed_beside(reader)):
            table, weights = self._prepare(batch)
            again = [name for name, place in reader.widened.items() if batch.part < place]
            for name in again:
                self._all.feature(name).add(table[name], weights)
            for accumulator, part, part_weights in self._sliced(table, weights):
                for name in again:
                    accumulator.feature(name).add(part[name], part_weights)

    def _needed(self) -> list[str] | None:
        if self._columns is None or any(part.columns is None for part in self._slices):
            return None
        sliced = [name for part in self._slices for name in part.columns or []]
        return list(dict.fromkeys([*self._columns, *sliced, *([self._weight] if self._weight else [])]))

    def _needed_beside(self, reader: CsvReader) -> list[str]:
        """What slices and weights need while a column is read again."""
        sliced = [name for part in self._slices for name in part.columns or list(reader.types)]
        return [*sliced, *([self._weight] if self._weight else [])]

    def _feature(self, name: str) -> FeatureAccumulator:
        return FeatureAccumulator(
            name,
            top=self._top,
            buckets=self._buckets,
            categorical=name in self._categorical,
            weighted=self._weight is not None,
        )


def _from_schema(schema: Schema | None) -> tuple[dict[str, str], set[str]]:
    """Types of columns, and which ints are categorical."""
    types: dict[str, str] = {}
    categorical: set[str] = set()
    for name, feature in schema.walk() if schema else ():
        if feature.type in ("int", "float", "string"):
            types[name] = feature.type
        domain = schema.resolve(feature.domain) if schema else None
        if isinstance(domain, IntDomain | FloatDomain) and domain.categorical:
            categorical.add(name)
    return types, categorical


def _check(name: str, value: Any, holds: bool, wanted: str) -> None:
    if not holds:
        raise InvalidValue(f"data: analyze: {name}={value!r}, wanted {wanted}")
