"""One run of one engine over one file, in a process of its own: prints CPU seconds, wall seconds and peak memory as
JSON.

    python engines_17.py ENGINE FILE        ENGINE: scan, read, ours, duckdb, polars
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2
DECILES = [i / 10 for i in range(11)]


def scan(path: str) -> Callable[[], Any]:
    """Read only, through pyarrow's data set scanner (CSV: its streaming reader)."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.dataset

    pa.set_cpu_count(THREADS)
    if path.endswith(".csv"):
        return lambda: sum(batch.num_rows for batch in pa.csv.open_csv(path))
    return lambda: sum(batch.num_rows for batch in pa.dataset.dataset(path).to_batches(batch_size=131_072))


def read(path: str) -> Callable[[], Any]:
    """Read only, the cheapest way found: ParquetFile.iter_batches."""
    import pyarrow as pa
    import pyarrow.parquet

    pa.set_cpu_count(THREADS)
    return lambda: sum(batch.num_rows for batch in pa.parquet.ParquetFile(path).iter_batches(131_072))


def ours(path: str) -> Callable[[], Any]:
    """`analyze`, and every statistic read once."""
    import datasketches  # noqa: F401 (imports are not timed, for no engine)
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    import drivetrain.data.analyzer
    import drivetrain.data.csv_reader
    import drivetrain.data.examples
    import drivetrain.data.json_reader
    import drivetrain.data.tables  # noqa: F401
    from drivetrain.data import analyze

    def run() -> dict[str, Any]:
        stats = analyze(path, threads=THREADS)
        facts: dict[str, Any] = {"rows": stats.num_examples}
        for name, feature in stats.features.items():
            facts[name] = [feature.num_non_missing]
            if feature.numeric:
                numeric = feature.numeric
                facts[name] += [numeric.mean, numeric.std_dev, numeric.min, numeric.max, numeric.num_zeros]
                facts[name] += [numeric.quantile(DECILES).tolist()]
                _ = numeric.histograms
            if feature.text:
                facts[name] += [feature.text.unique, feature.text.avg_length, feature.text.top_values]
                _ = feature.text.rank_histogram
        return facts

    return run


def duckdb(path: str) -> Callable[[], Any]:
    """One SQL query for the same statistics, with DuckDB's approximate quantiles, counts and distinct counts."""
    import duckdb as engine

    connection = engine.connect()
    connection.execute(f"SET threads = {THREADS}")
    terms = ["count(*)"]
    for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall():
        column = f'"{name}"::INT' if kind == "BOOLEAN" else f'"{name}"'
        terms.append(f"count({column})")
        if kind == "VARCHAR":
            terms += [f"approx_count_distinct({column})", f"avg(strlen({column}))", f"approx_top_k({column}, 20)"]
            continue
        terms += [f"{function}({column})" for function in ("avg", "stddev_pop", "min", "max")]
        terms += [f"count(*) FILTER ({column} = 0)", f"approx_quantile({column}, {DECILES})"]
        if kind == "DOUBLE":
            terms += [f"count(*) FILTER ({test}({column}))" for test in ("isnan", "isinf")]
    return lambda: connection.execute(f"SELECT {', '.join(terms)} FROM '{path}'").fetchall()


def polars(path: str) -> Callable[[], Any]:
    """Polars' lazy engine, streaming, with exact quantiles and distinct counts."""
    import os

    os.environ["POLARS_MAX_THREADS"] = str(THREADS)
    import polars as engine

    frame = engine.scan_csv(path) if path.endswith(".csv") else engine.scan_parquet(path)
    terms = []
    for name, kind in frame.collect_schema().items():
        column = engine.col(name)
        terms.append(column.count().alias(f"{name} count"))
        if kind == engine.String:
            terms += [column.n_unique().alias(f"{name} unique"), column.str.len_bytes().mean().alias(f"{name} length")]
            terms.append(column.value_counts(sort=True).head(20).implode().alias(f"{name} top"))
            continue
        column = column.cast(engine.Int32) if kind == engine.Boolean else column
        terms += [getattr(column, f)().alias(f"{name} {f}") for f in ("mean", "min", "max")]
        terms += [column.std(ddof=0).alias(f"{name} std"), (column == 0).sum().alias(f"{name} zeros")]
        terms += [column.quantile(q).alias(f"{name} {q}") for q in DECILES]
    return lambda: frame.select(terms).collect(engine="streaming")


def peak_mb() -> float:
    """Peak resident memory; Linux's ru_maxrss would begin at what the parent had when it forked."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prepare the engine, run it once, print what it took."""
    run = globals()[sys.argv[1]](sys.argv[2])
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    figures: dict[str, Any] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    figures["peak_mb"] = peak_mb()
    if sys.argv[1] == "ours":
        figures["facts"] = result
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
