"""The data analyzer: one pass over any source of examples to its statistics (spec 17 §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..base.extras import require
from .stats import Stats

if TYPE_CHECKING:
    from .generators import Generator
    from .schema import Schema
    from .slices import Slice


def analyze(
    source: Any,
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
) -> Stats:
    """Compute the statistics of a data set in one pass and bounded memory.

    Args:
        source: a path, glob or folder (csv, tsv, csv.gz, parquet, arrow, feather, jsonl), `Csv(...)` for another
        dialect,
            a pyarrow Table, RecordBatchReader or Dataset, a pandas or polars frame, a dict of columns, a torch Dataset
            or DataLoader, or an iterable of dicts.
        schema: gives CSV columns their types, and ints that are categorical get their values counted.
        slices: parts that get statistics of their own (slices.py): "feature", "feature=value", `sql("...")`.
        weight: the column that says how much an example counts.
        sample: share of the examples to look at, in (0, 1].
        top: most frequent values to report for a string feature.
        histogram: buckets of a histogram.
        columns: the columns to look at; all by default.
        batch_rows: rows handled at a time; memory grows with it.
        threads: threads for parsing and counting; by default up to 4.
        generators: optional statistics (generators.py), computed on the way.
        name: name of the data set in the result.

    Returns:
        Statistics; `Stats.rejected` holds the rows that could not be read.

    Raises:
        MissingFile: there is no such file.
        InvalidValue: a source, column, slice or argument that can't be; names file and line.
    """
    require("pyarrow", extra="data")
    from .analyzer import Analyzer

    analyzer = Analyzer(
        schema=schema,
        slices=slices,
        weight=weight,
        sample=sample,
        top=top,
        histogram=histogram,
        columns=columns,
        batch_rows=batch_rows,
        threads=threads,
        generators=generators,
        name=name,
    )
    analyzer.read(source)
    return analyzer.stats()
