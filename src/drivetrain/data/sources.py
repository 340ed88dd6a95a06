"""Every kind of data as a stream of Arrow batches: files, folders, globs, frames, tables, dicts (spec 17 §4)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import InvalidValue, MissingFile
from ..base.extras import require
from .batch import Batch
from .dialect import Csv
from .stats import Rejected

PACKED = (".gz", ".bz2", ".zst")
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
SOURCES = (
    "a path, a glob, a folder, Csv(...), a pyarrow Table, RecordBatchReader or Dataset, a pandas or polars frame, "
    "a dict of columns, a torch Dataset or DataLoader, or an iterable of dicts"
)


class Reader(Protocol):
    """A source that is being read; `rejected` and `notes` grow on the way."""

    rejected: Rejected
    notes: dict[str, list[str]]

    def batches(self) -> Iterator[Batch]:
        """The rows, in order."""
        ...


def open_source(
    source: Any,
    *,
    columns: list[str] | None = None,
    batch_rows: int = 131_072,
    types: dict[str, str] | None = None,
    threads: int = 2,
) -> Any:
    """A reader for any source of data.

    Args:
        source: a path, glob or folder (csv, tsv, parquet, arrow, feather, jsonl; csv and jsonl also packed),
        `Csv(...)`, "-"
            for CSV on standard input, a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, a pandas or polars
            frame, a dict of columns, a list of such, or an iterable of dicts.
        columns: which columns to read; None for all.
        batch_rows: most rows of a batch.
        types: types of CSV columns known beforehand; they may still widen.
        threads: for parsing.

    Raises:
        MissingFile: no such file, or nothing of a known format in a folder.
        InvalidValue: an unknown kind of source or file, or a column that isn't there.
    """
    if isinstance(source, str | Path | Csv):
        return _open_files([source], columns, batch_rows, types, threads)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | Path | Csv) for item in source):
        return _open_files(list(source), columns, batch_rows, types, threads)
    require("pyarrow", extra="data")
    import pyarrow as pa

    from .examples import ExampleReader
    from .tables import TableReader, arrow_batches, pandas_batches

    # Nothing of torch's kind can come without torch having been imported by whoever made it.
    if "torch" in sys.modules and _is_torch(source):
        from .loaders import LoaderReader

        return LoaderReader(source, columns=columns)
    if isinstance(source, Mapping):
        source = pa.table({str(name): _column(values) for name, values in source.items()})
    module = type(source).__module__.partition(".")[0]
    if module == "polars":
        source = source.collect().to_arrow() if hasattr(source, "collect") else source.to_arrow()
    if module == "pandas":
        return TableReader(lambda reader: pandas_batches(reader, source, columns, batch_rows))
    if isinstance(source, pa.Table | pa.RecordBatch | pa.RecordBatchReader) or hasattr(source, "scanner"):
        return TableReader(lambda reader: arrow_batches(source, "", columns, batch_rows))
    if hasattr(source, "__arrow_c_stream__") and not isinstance(source, Iterator):
        return open_source(pa.RecordBatchReader.from_stream(source), columns=columns, batch_rows=batch_rows)
    if isinstance(source, Iterable) and not isinstance(source, str | bytes):
        return ExampleReader(source, columns=columns, batch_rows=batch_rows)
    raise InvalidValue(f"data: can't read a {type(source).__name__}", hint=f"wanted: {SOURCES}")


def list_files(source: str | Path) -> list[str]:
    """The data files of a path, glob or folder, sorted.

    Raises:
        MissingFile: there is none.
    """
    path = Path(source)
    if str(source) == "-" or path.is_file():
        return [str(source)]
    if path.is_dir():
        found = sorted(str(p) for p in path.rglob("*") if p.is_file() and not _hidden(p, path) and _format(str(p)))
        if not found:
            raise MissingFile(f"data: {source}: no data files in this folder", hint=f"wanted: {', '.join(FORMATS)}")
        return found
    if any(sign in str(source) for sign in "*?["):
        anchor = Path(path.anchor or ".")
        pattern = str(path.relative_to(path.anchor) if path.anchor else path)
        found = sorted(str(p) for p in anchor.glob(pattern) if p.is_file())
        if not found:
            raise MissingFile(f"data: {source}: no file matches", hint=f"from folder {Path.cwd()}")
        return found
    raise MissingFile(f"data: {source}: no such file or folder")


def _open_files(
    sources: list[Any], columns: list[str] | None, batch_rows: int, types: dict[str, str] | None, threads: int
) -> Any:
    from .csv_reader import CsvReader
    from .json_reader import JsonReader
    from .tables import TableReader, binary_batches

    files: list[str | Csv] = []
    for source in sources:
        files += [source] if isinstance(source, Csv) else list_files(source)
    kinds = {"csv" if isinstance(file, Csv) or file == "-" else _format(file) for file in files}
    if None in kinds:
        bad = next(file for file in files if isinstance(file, str) and file != "-" and not _format(file))
        raise InvalidValue(f"data: {bad}: unknown kind of file", hint=f"wanted a name ending in {', '.join(FORMATS)}")
    if kinds == {"csv"}:
        tables = [file if isinstance(file, Csv) else Csv(file) for file in files]
        return CsvReader(tables, columns=columns, types=types, batch_rows=batch_rows, threads=threads)
    if kinds == {"json"}:
        return JsonReader([str(file) for file in files], columns=columns, batch_rows=batch_rows)
    if "csv" in kinds or "json" in kinds:
        raise InvalidValue(
            f"data: text and binary files together: {', '.join(map(str, files[:4]))}",
            hint="analyze each kind by itself and join the statistics: a | b",
        )
    return TableReader(lambda reader: binary_batches([str(file) for file in files], columns, batch_rows, threads))


def _is_torch(source: Any) -> bool:
    from torch.utils.data import DataLoader, Dataset

    return isinstance(source, Dataset | DataLoader)


def _column(values: Any) -> Any:
    import pyarrow as pa

    from .examples import column_of

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    array = getattr(values, "__array__", None)
    if array is not None and getattr(values, "ndim", 0) == 1:
        return pa.array(array())
    return column_of(list(values))[0]


def _format(file: str) -> str | None:
    path = Path(file)
    if path.suffix in PACKED:
        inner = FORMATS.get(Path(path.stem).suffix)
        return inner if inner in ("csv", "json") else None
    return FORMATS.get(path.suffix)


def _hidden(path: Path, base: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(base).parts)


__all__ = ["Csv", "Reader", "list_files", "open_source"]
