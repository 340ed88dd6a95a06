"""The table that benchmark 17 reads: 19 columns of the kinds a training log has (spec 17 §6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

CHUNK = 250_000
DISTINCT = (2, 12, 300, 4_000, 20_000)


def chunk(seed: int, start: int, rows: int) -> pa.Table:
    """Rows `start` to `start + rows`: 5 int, 8 float (0 to 7 % null), 5 string (2 to 20,000 distinct), 1 bool."""
    rng = np.random.default_rng([seed, start])
    columns: dict[str, pa.Array] = {
        "id": pa.array(np.arange(start, start + rows)),
        "hour": pa.array(rng.integers(0, 24, rows)),
        "count": pa.array(rng.poisson(3.0, rows)),
        "seconds": pa.array(rng.lognormal(6.0, 1.2, rows).astype(np.int64)),
        "delta": pa.array(rng.integers(-1_000_000, 1_000_000, rows)),
    }
    for index in range(8):
        values = [rng.normal(index, 1.0 + index, rows), rng.lognormal(1.0, index / 4, rows), rng.random(rows)][
            index % 3
        ]
        columns[f"float{index}"] = pa.array(np.round(values, 6), mask=rng.random(rows) < index / 100)
    for index, distinct in enumerate(DISTINCT):
        # Zipf-like shares, as categories have: a few are frequent, most are rare.
        codes = (distinct ** rng.random(rows)).astype(np.int32) - 1
        labels = pa.array([f"value {index}-{code:05d}" for code in range(distinct)])
        columns[f"string{index}"] = pa.DictionaryArray.from_arrays(pa.array(codes), labels).cast(pa.string())
    columns["flag"] = pa.array(rng.random(rows) < 0.3)
    return pa.table(columns)


def write(folder: Path, rows: int, *, csv: bool = True, seed: int = 17) -> tuple[Path, Path]:
    """Write the table as Parquet (pyarrow's defaults) and, if wanted, CSV; memory is that of one row group."""
    parquet_path, csv_path = folder / f"table-{rows}.parquet", folder / f"table-{rows}.csv"
    schema = chunk(seed, 0, 1).schema
    with pa.parquet.ParquetWriter(parquet_path, schema) as parquet_file:
        group = []
        for start in range(0, rows, CHUNK):
            group.append(chunk(seed, start, min(CHUNK, rows - start)))
            if len(group) == 4 or start + CHUNK >= rows:
                parquet_file.write_table(pa.concat_tables(group))
                group = []
    if csv:
        with pa.csv.CSVWriter(csv_path, schema) as csv_file:
            for start in range(0, rows, CHUNK):
                csv_file.write_table(chunk(seed, start, min(CHUNK, rows - start)))
    return parquet_path, csv_path
