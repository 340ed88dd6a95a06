"""Benchmark 17: statistics of 1M and 10M rows beside DuckDB, Polars and a read-only pass; validation; rows; import.

    python benchmarks/17_data_validation.py [--rows 1000000] [--large 10000000] [--rounds 5]

Every measurement of an engine is a process of its own (engines_17.py); engines take turns. CPU seconds are user +
system of all threads, imports not counted. The files are generated into a temporary folder and deleted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

import table_17
from drivetrain.base.timing import Timing, interleave
from drivetrain.data import analyze, infer, validate
from drivetrain.data.domains import FloatDomain, IntDomain, StringDomain
from drivetrain.data.quantiles import QuantileSketch
from drivetrain.data.rows import rows
from harness import Benchmark

ENGINES = Path(__file__).with_name("engines_17.py")
NAMES = {
    "scan": "read only: data set scanner (CSV: open_csv)",
    "read": "read only: iter_batches, the cheapest",
    "ours": "drivetrain analyze",
    "duckdb": "DuckDB, one query",
    "polars": "Polars, streaming, exact",
}


def measure(engine: str, path: Path) -> dict[str, Any]:
    """One run in its own process."""
    done = subprocess.run([sys.executable, ENGINES, engine, path], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def compare(engines: list[str], path: Path, rounds: int, *, warmup: int = 1) -> dict[str, dict[str, Timing]]:
    """CPU, wall and memory of every engine; the order turns round from round to round."""
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for turn in range(warmup + rounds):
        for engine in engines if turn % 2 else reversed(engines):
            figures = measure(engine, path)
            if turn >= warmup:  # a first round brings the file into the cache
                runs[engine].append(figures)
    return {
        engine: {key: Timing(tuple(run[key] for run in found)) for key in ("cpu", "wall", "peak_mb")}
        for engine, found in runs.items()
    }


def report(b: Benchmark, label: str, found: dict[str, dict[str, Timing]]) -> None:
    """Rows of one file."""
    for engine, figures in found.items():
        b.row(
            f"{label} {NAMES[engine]}",
            cpu_s=figures["cpu"],
            wall_s=figures["wall"],
            ratio_to_scan=round(figures["cpu"].ratio(found["scan"]["cpu"]), 2),
            ratio_to_duckdb=round(figures["cpu"].ratio(found["duckdb"]["cpu"]), 2),
            peak_MB=round(figures["peak_mb"].high),
        )


def check_facts(path: Path) -> float:
    """Compare our statistics with numpy's of the same file; returns the greatest rank error of a decile."""
    facts = measure("ours", path)["facts"]
    worst = 0.0
    for field in pa.parquet.read_schema(path):
        column = pa.parquet.read_table(path, columns=[field.name]).column(0)
        found = facts[field.name]
        assert found[0] == len(column) - column.null_count, field.name
        if pa.types.is_string(field.type):
            assert found[1] == len(column.unique().drop_null()), field.name
            continue
        values = np.sort(column.drop_null().cast(pa.float64()).to_numpy())
        assert np.isclose(found[1], values.mean(), rtol=1e-12, atol=1e-12 * np.abs(values).max()), field.name
        assert np.isclose(found[2], values.std(), rtol=1e-9), field.name
        assert (found[3], found[4], found[5]) == (values[0], values[-1], int((values == 0).sum())), field.name
        for q, value in zip(np.linspace(0, 1, 11), found[6], strict=True):
            low = np.searchsorted(values, value, "left") / len(values)
            high = np.searchsorted(values, value, "right") / len(values)
            worst = max(worst, low - q, q - high)
    return worst


def validation(b: Benchmark, rounds: int) -> None:
    """Validate 1,000 features against a schema inferred from another batch, drift included."""
    rng = np.random.default_rng(17)

    def batch() -> pa.Table:
        columns: dict[str, Any] = {}
        for index in range(250):
            columns[f"int{index}"] = rng.integers(0, 100, 2_000)
            columns[f"float{index}"] = rng.normal(size=2_000)
            columns[f"text{index}"] = pa.array([f"v{v}" for v in rng.integers(0, 20, 2_000)])
            columns[f"flag{index}"] = rng.random(2_000) < 0.5
        return pa.table(columns)

    stats, previous = analyze(batch()), analyze(batch())
    schema = infer(previous)
    work = {"validate": lambda: validate(stats, schema)}
    found = interleave(work, rounds=max(11, rounds), warmup=2, clock="cpu")["validate"]
    b.row("validate, 1,000 features", cpu_s=found)
    b.target("validate 1,000 features, ms of CPU", measured=found.median * 1e3, goal=10.0)


def offending_rows(b: Benchmark, path: Path, rounds: int) -> None:
    """`rows()` beside pandera on polars: the same checks of 17 columns, on data in memory, 100 offenders to find."""
    table = pa.parquet.read_table(path)
    names = [name for name in table.column_names if name not in ("id", "string4")]
    table = table.select(names)
    schema = infer(analyze(table))
    for name, feature in schema.features.items():
        column = table[name]
        if feature.type == "string":
            feature.domain = StringDomain(sorted(column.unique().to_pylist()))
        elif not pa.types.is_boolean(column.type):
            numbers = np.sort(column.drop_null().to_numpy())
            # One number in the table is too large for each range.
            bounds = (numbers[0].item(), numbers[-2].item())
            feature.domain = IntDomain(*bounds) if feature.type == "int" else FloatDomain(*bounds)
    competitors = {"ours": lambda: list(islice(rows(table, schema), 10_000))}
    try:
        competitors["pandera"] = pandera_check(table, schema)
    except ImportError:
        b.fact("pandera", "not installed: pip install 'pandera[polars]==0.35.0'")
    found = interleave(competitors, rounds=rounds, clock="cpu")
    for name, timing in found.items():
        label = (
            f"rows, {len(names)} columns: {name if name == 'ours' else 'pandera ' + version('pandera') + ' on polars'}"
        )
        b.row(label, cpu_s=timing)
    if "pandera" in found:
        b.target("rows(): CPU to pandera", measured=found["ours"].ratio(found["pandera"]), goal=2.0)


def pandera_check(table: pa.Table, schema: Any) -> Any:
    """The checks of the schema as a lazy pandera validation of a polars frame."""
    import pandera.polars as pandera
    import polars

    frame = polars.from_arrow(table)
    columns = {}
    for name, feature in schema.features.items():
        domain = feature.domain
        checks = []
        if isinstance(domain, StringDomain):
            checks = [pandera.Check.isin(domain.values)]
        elif isinstance(domain, IntDomain | FloatDomain) and domain.max is not None:
            checks = [pandera.Check.in_range(domain.min, domain.max)]
        columns[name] = pandera.Column(frame.schema[name], checks=checks, nullable=True)
    wanted = pandera.DataFrameSchema(columns)

    def run() -> None:
        try:
            wanted.validate(frame, lazy=True)
        except pandera.errors.SchemaErrors:
            return
        raise AssertionError("pandera found nothing")

    return run


def fuzzing(b: Benchmark, rounds: int) -> None:
    """Examples a second for a schema of 20 features; the step does nothing, so this is the generator alone."""
    try:
        from drivetrain.data.fuzz import fuzz
    except ImportError:
        b.fact("fuzz", "not measured")
        return
    rng = np.random.default_rng(17)
    columns: dict[str, Any] = {f"int{i}": rng.integers(0, 9, 500) for i in range(7)}
    columns |= {f"float{i}": rng.normal(size=500) for i in range(7)}
    columns |= {f"text{i}": pa.array([f"v{v}" for v in rng.integers(0, 9, 500)]) for i in range(6)}
    schema, examples = infer(analyze(columns)), 1_000
    found = interleave(
        {"fuzz": lambda: fuzz(schema, lambda batch: 0.0, examples=examples)}, rounds=min(3, rounds), clock="cpu"
    )
    rate = examples / found["fuzz"].median
    b.row("fuzz, 20 features", cpu_s=found["fuzz"], examples_per_s=round(rate))
    b.target("fuzz: examples a second, 20 features", measured=rate, goal=500.0, better="higher")


def sketches(b: Benchmark, rounds: int) -> None:
    """The quantile summary beside a KLL sketch of like error, on eight batches of 131,072 floats."""
    import datasketches

    values = np.random.default_rng(17).lognormal(size=131_072)

    def ours() -> None:
        sketch = QuantileSketch()
        for _ in range(8):
            sketch.update(values)

    def kll() -> None:
        sketch = datasketches.kll_doubles_sketch(350)
        for _ in range(8):
            sketch.update(values)

    found = interleave({"ours": ours, "kll": kll}, rounds=max(7, rounds), clock="cpu")
    scale = 1e9 / (8 * len(values))
    b.row("quantile summary, ns a value", cpu_s="", ns=round(found["ours"].median * scale, 1))
    b.row("KLL of datasketches, k=350, ns a value", cpu_s="", ns=round(found["kll"].median * scale, 1))


def import_time(b: Benchmark, rounds: int) -> None:
    """CPU seconds that `import drivetrain.data` takes, interpreter start not counted."""

    def start(code: str) -> float:
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        done = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.ru_utime + done.ru_stime - begun.ru_utime - begun.ru_stime

    samples = [start("import drivetrain.data") - start("pass") for _ in range(rounds)]
    b.row("import drivetrain.data", cpu_s=Timing(tuple(samples)))
    b.target("import drivetrain.data, s of CPU", measured=Timing(tuple(samples)).median, goal=0.5)


def main() -> None:
    """Run everything; `--large 0` leaves the large file out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    b = Benchmark(
        "17",
        "data_validation",
        title="17 data validation",
        setting=f"{options.rows:,} and {options.large:,} rows x 19 columns, 2 threads",
    )
    b.fact("versions", {name: version(name) for name in ("pyarrow", "duckdb", "polars", "numpy")})
    with tempfile.TemporaryDirectory(prefix="drivetrain-17-") as folder:
        parquet, csv = table_17.write(Path(folder), options.rows)
        b.fact("file MB", {path.suffix: round(path.stat().st_size / 1e6) for path in (parquet, csv)})
        b.fact("greatest rank error of a decile", check_facts(parquet))
        small = compare(["scan", "read", "ours", "duckdb", "polars"], parquet, options.rounds)
        text = compare(["scan", "ours", "duckdb", "polars"], csv, options.rounds)
        report(b, "Parquet", small)
        report(b, "CSV", text)
        offending_rows(b, parquet, options.rounds)
        large = None
        if options.large:
            path, _ = table_17.write(Path(folder), options.large, csv=False)
            large = compare(["scan", "read", "ours", "duckdb"], path, max(2, options.rounds // 2), warmup=0)
            report(b, f"Parquet {options.large // 1_000_000}M", large)
    validation(b, options.rounds)
    fuzzing(b, options.rounds)
    sketches(b, options.rounds)
    import_time(b, options.rounds)
    cpu = {name: figures["cpu"] for name, figures in small.items()}
    b.target("Parquet: CPU to a scanner's read-only pass", measured=cpu["ours"].ratio(cpu["scan"]), goal=1.5)
    b.target("Parquet: CPU to the cheapest read-only pass", measured=cpu["ours"].ratio(cpu["read"]), goal=1.5)
    b.target("Parquet: CPU to DuckDB's query", measured=cpu["ours"].ratio(cpu["duckdb"]), goal=1.0)
    b.target("CSV: CPU to DuckDB's query", measured=text["ours"]["cpu"].ratio(text["duckdb"]["cpu"]), goal=1.0)
    for label, found in (("1M Parquet", small), ("1M CSV", text), ("10M Parquet", large)):
        if found:
            b.target(f"{label}: peak memory, MB", measured=found["ours"]["peak_mb"].high, goal=500.0)
    b.finish()


if __name__ == "__main__":
    main()
