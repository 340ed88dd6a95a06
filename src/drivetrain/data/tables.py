"""Data in Arrow's own formats as batches: Parquet, Arrow and Feather files, tables, readers, data sets, frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from ..base.errors import InvalidValue, unknown_name
from .batch import Batch
from .examples import column_of
from .stats import Rejected

PARQUET = (".parquet", ".pq")
DICTIONARY = 2 << 20  # bytes; writers give up a dictionary at about 1 MB
BUFFER = 1 << 16  # bytes read at a time from a column of a Parquet file


class TableReader:
    """Batches made by a function; what the readers of files and frames in Arrow's own formats share."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self.rejected = Rejected()
        self.notes: dict[str, list[str]] = {}

    def batches(self) -> Iterator[Batch]:
        """The rows, in order."""
        yield from self._make(self)


def binary_batches(files: list[str], columns: list[str] | None, batch_rows: int, threads: int) -> Iterator[Batch]:
    for file in files:
        try:
            if Path(file).suffix in PARQUET:
                yield from _parquet_batches(file, columns, batch_rows, threads)
            else:
                yield from _ipc_batches(file, columns, batch_rows)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            kind = "Parquet" if Path(file).suffix in PARQUET else "Arrow"
            raise InvalidValue(f"data: {file}: can't be read as {kind}: {error}") from error


def _parquet_batches(file: str, columns: list[str] | None, batch_rows: int, threads: int) -> Iterator[Batch]:

    schema = pa.parquet.read_schema(file)
    _check_names(schema.names, file)
    _check_columns(columns, schema.names, file)
    texts = _coded_texts(pa.parquet.read_metadata(file), schema)
    # Buffered, not pre-read: reading ahead would hold every row group of the file at once.
    with pa.parquet.ParquetFile(file, read_dictionary=texts, pre_buffer=False, buffer_size=BUFFER) as parquet:
        row = 0
        for batch in parquet.iter_batches(batch_rows, columns=columns, use_threads=threads > 1):
            yield Batch(batch, file, row)
            row += batch.num_rows
        if row == 0:
            wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
            yield Batch(pa.RecordBatch.from_pylist([], schema=wanted), file)


def _coded_texts(metadata: Any, schema: pa.Schema) -> list[str]:
    """Text columns that the file holds as dictionary codes: cheaper to decode, and counting is counting integers.

    Where the writer gave its dictionary up (too many values), one made by the reader would grow with the row group.
    """
    texts = {field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)}
    if metadata.num_row_groups == 0:
        return []
    group = metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    return [
        chunk.path_in_schema
        for chunk in chunks
        if chunk.path_in_schema in texts and chunk.total_uncompressed_size <= 4 * chunk.num_values + DICTIONARY
    ]


def _ipc_batches(file: str, columns: list[str] | None, batch_rows: int) -> Iterator[Batch]:
    with pa.memory_map(file) as mapped:
        try:
            opened = pa.ipc.open_file(mapped)
            stream: Iterable[pa.RecordBatch] = (opened.get_batch(i) for i in range(opened.num_record_batches))
        except pa.ArrowInvalid:
            mapped.seek(0)
            opened = pa.ipc.open_stream(mapped)
            stream = opened
        reader = pa.RecordBatchReader.from_batches(opened.schema, stream)
        yield from arrow_batches(reader, file, columns, batch_rows)


def arrow_batches(source: Any, origin: str, columns: list[str] | None, batch_rows: int) -> Iterator[Batch]:
    schema = source.schema
    _check_names(schema.names, origin or f"the {type(source).__name__}")
    _check_columns(columns, schema.names, origin)
    if isinstance(source, pa.RecordBatch):
        pieces: Iterable[pa.RecordBatch] = [source]
    elif isinstance(source, pa.Table | pa.RecordBatchReader):
        pieces = source.to_batches() if isinstance(source, pa.Table) else source
    else:
        pieces = source.to_batches(batch_size=batch_rows, columns=columns)
    row = 0
    for piece in pieces:
        chosen = piece if columns is None else piece.select(columns)
        for start in range(0, chosen.num_rows, batch_rows):
            part = chosen.slice(start, batch_rows)
            yield Batch(part, origin, row)
            row += part.num_rows
    if row == 0:
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        yield Batch(pa.RecordBatch.from_pylist([], schema=wanted), origin)


def pandas_batches(reader: TableReader, frame: Any, columns: list[str] | None, batch_rows: int) -> Iterator[Batch]:
    names = [str(name) for name in frame.columns]
    _check_names(names, "the frame")
    _check_columns(columns, names, "the frame")
    places = [i for i, name in enumerate(names) if columns is None or name in columns]
    for start in range(0, max(1, len(frame)), batch_rows):
        arrays = []
        for place in places:
            series = frame.iloc[start : start + batch_rows, place]
            try:
                array = pa.Array.from_pandas(series)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                array, what = column_of(series.where(series.notna(), None).tolist())
                reader.notes.setdefault(names[place], []).append(f"rows from {start}: {what}")
            arrays.append(array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array)
        yield Batch(pa.RecordBatch.from_arrays(arrays, names=[names[place] for place in places]), "", start)


def _check_names(names: list[str], origin: str) -> None:
    seen: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in seen:
            raise InvalidValue(
                f"data: {origin}: two columns are named {name!r} (columns {seen[name]} and {place})",
                hint="rename one of them; features are told apart by name",
            )
        seen[name] = place


def _check_columns(columns: list[str] | None, names: list[str], origin: str) -> None:
    for name in columns or []:
        if name not in names:
            raise unknown_name("data: column", name, names, where=origin or None)
