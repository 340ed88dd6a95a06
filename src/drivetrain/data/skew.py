"""Feature skew: the same example with different values in training and in serving data (spec 17 §2.6).

Both logs are joined on one or more id features by DuckDB, which reads CSV, Parquet and JSON lines itself and spills
to disk; features are then compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import InvalidValue, MissingFile, unknown_name
from ..base.extras import require


@dataclass(frozen=True)
class FeatureSkew:
    """Pairs of examples with the same id, counted for one feature.

    Attributes:
        baseline_count, test_count: pairs in which the training (serving) side has a value.
        match_count: pairs with equal values, or with none on both sides.
        mismatch_count: pairs with two different values.
        base_only, test_only: pairs with a value in training (serving) only.
        samples: up to `samples` differing pairs, as (id, training value, serving value).
    """

    feature: str
    baseline_count: int
    test_count: int
    match_count: int
    mismatch_count: int
    base_only: int
    test_only: int
    samples: tuple[tuple[Any, Any, Any], ...] = ()

    @property
    def diff_count(self) -> int:
        """Pairs that differ in any way."""
        return self.mismatch_count + self.base_only + self.test_only

    @property
    def share(self) -> float:
        """Share of the pairs that differ."""
        pairs = self.match_count + self.diff_count
        return self.diff_count / pairs if pairs else 0.0


@dataclass(frozen=True)
class SkewReport:
    """Feature skew between two logs.

    Attributes:
        joined: number of pairs with the same id.
        unmatched_train, unmatched_serving: rows without a partner, rows with a missing id among them.
        repeated_train, repeated_serving: rows left out because their id occurs again in the same log.
        features: by name, most differing first.
        only_train, only_serving: columns that the other side lacks.
    """

    joined: int
    unmatched_train: int
    unmatched_serving: int
    repeated_train: int
    repeated_serving: int
    features: dict[str, FeatureSkew] = field(default_factory=dict)
    only_train: tuple[str, ...] = ()
    only_serving: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something was joined and no feature differs."""
        return self.joined > 0 and not any(item.diff_count for item in self.features.values())

    def to_json(self) -> dict[str, Any]:
        """Plain data, complete."""
        features = []
        for item in self.features.values():
            samples = [{"id": key, "train": _plain(a), "serving": _plain(b)} for key, a, b in item.samples]
            features.append({**vars(item), "diff_count": item.diff_count, "share": item.share, "samples": samples})
        return {**vars(self), "ok": self.ok, "features": features}

    def __str__(self) -> str:
        lonely = f"{self.unmatched_train:,} rows of training and {self.unmatched_serving:,} of serving"
        lines = [f"{self.joined:,} pairs, {lonely} without a partner"]
        for item in self.features.values():
            if item.diff_count:
                lines.append(
                    f"  {item.feature}: {item.diff_count:,} differ ({item.share:.2%}), e.g. {item.samples[:2]}"
                )
        return "\n".join(lines)


def feature_skew(
    train: Any,
    serving: Any,
    on: str | Sequence[str] = ("id",),
    *,
    ignore: Sequence[str] = (),
    float_rtol: float = 0.0,
    samples: int = 10,
) -> SkewReport:
    """Join two logs on their ids and compare every feature they share.

    An id that occurs twice in a log can't be joined to one example: such rows are counted as repeated and left out.
    NaN equals NaN; missing equals missing.

    Args:
        train, serving: paths (csv, parquet, jsonl), Arrow tables, pandas or polars frames, or dicts of columns.
        on: names of the id features.
        ignore: features not to compare.
        float_rtol: numbers are equal if |a - b| <= float_rtol * max(|a|, |b|).
        samples: differing pairs to keep for each feature.

    Raises:
        MissingFile, InvalidValue: a source can't be read, an id feature is missing, no feature is shared.
    """
    duckdb = require("duckdb", extra="data")
    keys = [on] if isinstance(on, str) else list(on)
    if not keys:
        raise InvalidValue("data: feature_skew needs at least one id feature, on=[] has none")
    if float_rtol < 0:
        raise InvalidValue(f"data: float_rtol is {float_rtol}, it should be at least 0")
    with duckdb.connect(":memory:") as connection:
        columns = {}
        for side, source in (("train", train), ("serving", serving)):
            columns[side] = _open(connection, side, source, duckdb)
            for key in keys:
                if key not in columns[side]:
                    raise unknown_name(f"data: id feature of the {side} data", key, columns[side])
        return _compare(connection, columns, keys, set(ignore), float_rtol, samples)


def _open(connection: Any, side: str, source: Any, duckdb: Any) -> dict[str, str]:
    """Make a view of a source; return its columns with their types."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists() and not any(sign in str(source) for sign in "*?["):
            raise MissingFile(f"data: there is no file {source}")
        names = {
            ".csv": "read_csv",
            ".tsv": "read_csv",
            ".parquet": "read_parquet",
            ".jsonl": "read_json",
            ".json": "read_json",
        }
        suffix = Path(str(path).removesuffix(".gz")).suffix
        if suffix not in names:
            raise InvalidValue(f"data: can't read {source} here", hint=f"wanted a file ending in {', '.join(names)}")
        quoted = str(source).replace("'", "''")
        query = f"SELECT * FROM {names[suffix]}('{quoted}')"
    else:
        if isinstance(source, dict):
            import pyarrow as pa

            source = pa.table(source)
        connection.register(f"{side}_source", source)
        query = f"SELECT * FROM {side}_source"
    try:
        connection.execute(f"CREATE VIEW {side} AS {query}")
        described = connection.execute(f"DESCRIBE {side}").fetchall()
    except duckdb.Error as error:
        raise InvalidValue(f"data: can't read the {side} data: {str(error).splitlines()[0]}") from None
    return {row[0]: row[1] for row in described}


def _compare(
    connection: Any, columns: dict[str, dict[str, str]], keys: list[str], ignore: set[str], rtol: float, samples: int
) -> SkewReport:
    shared = [
        name for name in columns["train"] if name in columns["serving"] and name not in keys and name not in ignore
    ]
    if not shared:
        raise InvalidValue(
            "data: the two logs share no feature to compare", hint=f"train has {', '.join(columns['train'])}"
        )
    key_list = ", ".join(map(_quote, keys))
    there = " AND ".join(f"{_quote(key)} IS NOT NULL" for key in keys)
    counts = {}
    for side in ("train", "serving"):
        once = f"SELECT {key_list} FROM {side} WHERE {there} GROUP BY {key_list} HAVING count(*) = 1"
        connection.execute(
            f"CREATE TEMP TABLE {side}_once AS SELECT * FROM {side} SEMI JOIN ({once}) USING ({key_list})"
        )
        total, known, single = (
            connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
            for what in (side, f"{side} WHERE {there}", f"{side}_once")
        )
        counts[side] = (total, known - single, single)
    match = " AND ".join(f"t.{_quote(key)} = s.{_quote(key)}" for key in keys)
    pairs = f"train_once t JOIN serving_once s ON {match}"
    tests = {name: _differs(name, columns["train"][name], columns["serving"][name], rtol) for name in shared}
    sums = ["count(*)"]
    for name in shared:
        a, b = f"t.{_quote(name)}", f"s.{_quote(name)}"
        both = f"{a} IS NOT NULL AND {b} IS NOT NULL"
        sums += [
            f"count(*) FILTER (WHERE {both} AND {tests[name]})",
            f"count(*) FILTER (WHERE {a} IS NOT NULL AND {b} IS NULL)",
            f"count(*) FILTER (WHERE {a} IS NULL AND {b} IS NOT NULL)",
            f"count({a})",
            f"count({b})",
        ]
    joined, *numbers = connection.execute(f"SELECT {', '.join(sums)} FROM {pairs}").fetchone()
    found = []
    for place, name in enumerate(shared):
        mismatch, base_only, test_only, base, test = numbers[5 * place : 5 * place + 5]
        match_count = joined - mismatch - base_only - test_only
        kept = _samples(connection, pairs, keys, name, tests[name], samples) if match_count < joined else ()
        found.append(FeatureSkew(name, base, test, match_count, mismatch, base_only, test_only, kept))
    found.sort(key=lambda item: -item.diff_count)
    only = [
        tuple(n for n in columns[a] if n not in columns[b]) for a, b in (("train", "serving"), ("serving", "train"))
    ]
    (total_t, again_t, _), (total_s, again_s, _) = counts["train"], counts["serving"]
    unmatched = total_t - again_t - joined, total_s - again_s - joined
    return SkewReport(joined, *unmatched, again_t, again_s, {item.feature: item for item in found}, *only)


NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
)


def _differs(name: str, train_type: str, serving_type: str, rtol: float) -> str:
    """SQL that is true where two present values differ; columns of different kinds are compared as text."""
    a, b = f"t.{_quote(name)}", f"s.{_quote(name)}"
    numeric = [kind.startswith(NUMBERS) and not kind.endswith("[]") for kind in (train_type, serving_type)]
    if all(numeric):
        if rtol:
            near = f"abs({a}::DOUBLE - {b}::DOUBLE) <= {rtol!r} * greatest(abs({a}::DOUBLE), abs({b}::DOUBLE))"
            return f"({a} IS DISTINCT FROM {b} AND NOT coalesce({near}, false))"
        return f"{a} IS DISTINCT FROM {b}"
    if train_type == serving_type:
        return f"{a} IS DISTINCT FROM {b}"
    return f"{a}::VARCHAR IS DISTINCT FROM {b}::VARCHAR"


def _samples(
    connection: Any, pairs: str, keys: list[str], name: str, test: str, samples: int
) -> tuple[tuple[Any, Any, Any], ...]:
    a, b = f"t.{_quote(name)}", f"s.{_quote(name)}"
    key_list = ", ".join(f"t.{_quote(key)}" for key in keys)
    one_missing = f"({a} IS NULL) <> ({b} IS NULL)"
    rows = connection.execute(
        f"SELECT {key_list}, {a}, {b} FROM {pairs} "
        f"WHERE {one_missing} OR ({a} IS NOT NULL AND {b} IS NOT NULL AND {test}) "
        f"ORDER BY {key_list} LIMIT {int(samples)}"
    ).fetchall()
    return tuple((row[0] if len(keys) == 1 else tuple(row[:-2]), row[-2], row[-1]) for row in rows)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(value: Any) -> Any:
    return (
        value if isinstance(value, str | int | bool | type(None)) else value if isinstance(value, float) else str(value)
    )
