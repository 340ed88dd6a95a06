"""Every kind of source gives the same statistics, and bad input a clear answer with file and line."""

from __future__ import annotations

import gzip
import io
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from drivetrain import DrivetrainError
from drivetrain.data import analyze, csv_blocks
from drivetrain.data.dialect import Csv
from drivetrain.data.sources import open_source

ROWS = 5_000


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(7)
    return pa.table(
        {
            "id": np.arange(ROWS),
            "fare": pa.array(np.round(rng.lognormal(2, 1, ROWS), 4), mask=rng.random(ROWS) < 0.05),
            "company": pa.array([None if i % 11 == 0 else f"company, {i % 13}" for i in range(ROWS)]),
        }
    )


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 2 kB, so that a small file has many."""
    monkeypatch.setattr(csv_blocks, "BLOCK", 2_048)


def facts(stats):
    return {
        name: (
            f.type,
            f.common.num_missing,
            f.numeric and (f.numeric.min, f.numeric.max, f.numeric.num_zeros, round(f.numeric.mean, 9)),
            f.text and f.text.counts,
        )
        for name, f in stats.features.items()
    }


def writers(table, folder):
    pa.csv.write_csv(table, folder / "t.csv")
    with gzip.open(folder / "t.csv.gz", "wb") as packed:
        packed.write((folder / "t.csv").read_bytes())
    pa.parquet.write_table(table, folder / "t.parquet", row_group_size=700)
    pa.feather.write_feather(table, folder / "t.feather")
    with pa.OSFile(str(folder / "t.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    pl.from_arrow(table).write_ndjson(folder / "t.jsonl")


def test_all_sources_agree(table, tmp_path):
    writers(table, tmp_path)
    expected = facts(analyze(table))
    for suffix in ("csv", "csv.gz", "parquet", "feather", "arrow", "jsonl"):
        assert facts(analyze(tmp_path / f"t.{suffix}")) == expected, suffix
    sources = {
        "reader": table.to_reader(max_chunksize=900),
        "batch": table.to_batches()[0],
        "dataset": pa.dataset.dataset(tmp_path / "t.parquet"),
        "pandas": table.to_pandas(),
        "polars": pl.from_arrow(table),
        "lazy polars": pl.from_arrow(table).lazy(),
        "columns": {name: table[name] for name in table.column_names},
        "dicts": table.to_pylist(),
        "generator": iter(table.to_pylist()),
    }
    for kind, source in sources.items():
        assert facts(analyze(source, batch_rows=1_000)) == expected, kind


def test_folders_globs_and_lists(table, tmp_path):
    for index in range(4):
        pa.parquet.write_table(table.slice(index * 1_250, 1_250), tmp_path / f"part-{index}.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".hidden.csv").write_text("x\n1\n")
    expected = facts(analyze(table))
    assert facts(analyze(tmp_path)) == expected
    assert facts(analyze(str(tmp_path / "part-*.parquet"))) == expected
    assert facts(analyze([tmp_path / f"part-{index}.parquet" for index in range(4)])) == expected


def test_agreement_with_pandas_and_duckdb(table, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    stats = analyze(table)
    frame = table.to_pandas()
    fare = stats.features["fare"].numeric
    assert fare.mean == pytest.approx(frame.fare.mean(), rel=1e-12)
    assert fare.std_dev == pytest.approx(frame.fare.std(ddof=0), rel=1e-12)
    assert stats.features["company"].text.counts == frame.company.value_counts().to_dict()
    query = "SELECT count(fare), min(fare), max(fare), count(DISTINCT company), quantile_disc(fare, 0.5) FROM frame"
    count, low, high, unique, _ = duckdb.sql(query).fetchall()[0]
    assert (fare.n, fare.min, fare.max, stats.features["company"].text.unique) == (count, low, high, unique)
    ordered = np.sort(frame.fare.dropna())
    for q in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert abs(np.searchsorted(ordered, fare.quantile(q)) / len(ordered) - q) <= 0.01


def test_columns_and_sample(table, tmp_path):
    writers(table, tmp_path)
    for suffix in ("csv", "parquet", "feather", "jsonl"):
        assert list(analyze(tmp_path / f"t.{suffix}", columns=["fare", "id"]).features) == ["fare", "id"], suffix
        with pytest.raises(DrivetrainError, match="column 'fair' is unknown") as error:
            analyze(tmp_path / f"t.{suffix}", columns=["fair"])
        assert "did you mean 'fare'" in str(error.value)
    sampled = analyze(table, sample=0.2)
    # Binomial(5000, 0.2): six deviations are 170.
    assert abs(sampled.num_examples - 1_000) < 170
    assert sampled.num_examples == analyze(table, sample=0.2).num_examples


def test_missing_empty_and_nan_are_three_things():
    stats = analyze([{"x": [1.0, float("nan")]}, {"x": []}, {"x": None}, {}]).features["x"]
    assert (stats.common.num_non_missing, stats.common.num_missing, stats.common.num_empty) == (2, 2, 1)
    assert (stats.common.min_num_values, stats.common.max_num_values, stats.common.tot_num_values) == (0, 2, 2)
    assert (stats.numeric.num_values, stats.numeric.num_nan, stats.numeric.n) == (2, 1, 1)


def test_a_feature_that_appears_late_has_missed_what_came_before():
    rows = [{"x": 1}] * 5 + [{"x": 1, "y": 2, "s": {"a": 1}}] + [{"y": 3}]
    stats = analyze(rows, batch_rows=2).features
    assert (stats["y"].num_non_missing, stats["y"].num_missing) == (2, 5)
    assert (stats["x"].num_non_missing, stats["x"].num_missing) == (6, 1)
    assert (stats["s"].num_missing, stats["s.a"].num_missing) == (6, 0)
    rows = [{"s": {"a": 1}}] * 3 + [{"s": None}, {"s": {"a": 1, "b": 2}}]
    assert analyze(rows, batch_rows=2).features["s.b"].num_missing == 3
    rows = [{"l": [{"a": 1}, {"a": 2}]}] * 2 + [{"l": [{"a": 1, "b": 2}, None]}]
    b = analyze(rows, batch_rows=2).features["l.b"]
    assert (b.num_missing, b.num_non_missing) == (4, 1)


def test_batches_know_their_place(table, tmp_path, small_blocks):
    writers(table, tmp_path)
    for suffix in ("csv", "parquet", "feather", "jsonl"):
        source = tmp_path / f"t.{suffix}"
        for batch in open_source(source, batch_rows=33).batches():
            first = batch.table["id"][0].as_py()
            assert batch.first_row == first
            # The header is line 1 of the CSV file.
            place = {"csv": f":{first + 2}", "jsonl": f":{first + 1}"}.get(suffix, f" row {first}")
            assert batch.where(0) == f"{source}{place}"


def test_nested_lists_and_structs():
    rows = [{"a": {"b": 1, "c": [[1, 2], []]}}, {"a": {"b": None, "c": None}}, {"a": None}]
    stats = analyze(rows).features
    assert list(stats) == ["a", "a.b", "a.c"]
    assert (stats["a"].type, stats["a"].num_missing) == ("struct", 1)
    assert (stats["a.b"].num_non_missing, stats["a.b"].num_missing) == (1, 1)
    outer, inner = stats["a.c"].common.levels
    assert (outer.num_non_missing, outer.num_missing, outer.max_num_values) == (1, 1, 2)
    assert (inner.num_non_missing, inner.num_empty, inner.max_num_values) == (2, 1, 2)


def test_types_of_arrow():
    import datetime

    table = pa.table(
        {
            "flag": [True, False, None],
            "day": pa.array([datetime.date(2024, 1, i) for i in (1, 2, 3)]),
            "blob": [b"\x00\xff", b"", None],
            "big": pa.array([2**63, 2**64 - 1, 0], pa.uint64()),
            "none": pa.nulls(3),
            "half": pa.array(np.array([1, 2, 3], np.float16)),
            "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )
    stats = analyze(table).features
    assert {name: f.type for name, f in stats.items()} == {
        "flag": "int",
        "day": "int",
        "blob": "bytes",
        "big": "int",
        "none": "null",
        "half": "float",
        "dictionary": "string",
    }
    assert (stats["flag"].logical, stats["flag"].numeric.max) == ("bool", 1)
    assert stats["day"].logical == "date32[day]"
    assert stats["big"].numeric.max == 2**64 - 1
    assert (stats["blob"].bytes.min_num_bytes, stats["blob"].bytes.max_num_bytes) == (0, 2)
    assert stats["dictionary"].text.counts == {"a": 2, "b": 1}


# CSV: types that widen, and what can be wrong with a file


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_int_widens_to_float_in_a_late_block(tmp_path, small_blocks):
    values = [*range(3_000), 0.5, *range(10)]
    stats = analyze(write(tmp_path, "x\n" + "\n".join(map(str, values)) + "\n")).features["x"]
    assert (stats.type, stats.numeric.n) == ("float", len(values))
    assert stats.numeric.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert stats.notes == [f"{tmp_path / 't.csv'}:3002: '0.5' is not an integer: read as float"]


@pytest.mark.parametrize("at", [1, 600, 2_999])
def test_text_in_a_late_block_makes_the_whole_column_text(tmp_path, small_blocks, at):
    """The numbers read before must come back as the text they were: '007' is not 7."""
    values = ["007"] * 3_000
    values[at] = "n. a."
    path = write(tmp_path, "x,y\n" + "".join(f"{v},{i}\n" for i, v in enumerate(values)))
    stats = analyze(path, slices=["y=5"])
    x, y = stats.features["x"], stats.features["y"]
    assert (x.type, x.numeric) == ("string", None)
    assert x.text.counts == {"007": 2_999, "n. a.": 1}
    assert (x.num_non_missing, x.num_missing, stats.num_examples) == (3_000, 0, 3_000)
    assert (y.type, y.numeric.n, y.numeric.max) == ("int", 3_000, 2_999)
    assert stats.slices["y=5"].features["x"].text.counts == {"007": 1}
    assert f"t.csv:{at + 2}: 'n. a.' is not an integer" in " ".join(x.notes) or at < 500


def test_two_columns_that_turn_to_text_at_different_places(tmp_path, small_blocks):
    rows = [f"{'a' if i == 1_000 else i},{'b' if i == 2_500 else i},{i}\n" for i in range(3_000)]
    stats = analyze(write(tmp_path, "x,y,z\n" + "".join(rows)), weight="z")
    for name in ("x", "y"):
        assert stats.features[name].text.unique == 3_000
        assert stats.features[name].num_non_missing == 3_000
        assert stats.features[name].common.weighted_num_non_missing == sum(range(3_000))


def test_a_column_that_begins_empty_gets_its_type_later(tmp_path, small_blocks):
    rows = "".join(f"{'' if i < 2_000 else i},{i}\n" for i in range(3_000))
    x = analyze(write(tmp_path, "x,y\n" + rows)).features["x"]
    assert (x.type, x.num_missing, x.numeric.min) == ("int", 2_000, 2_000)


def test_all_null_header_only_and_empty(tmp_path):
    stats = analyze(write(tmp_path, "x,y\n,1\n,2\n")).features["x"]
    assert (stats.type, stats.num_missing) == ("null", 2)
    header = analyze(write(tmp_path, "x,y\n"))
    assert (header.num_examples, list(header.features)) == (0, ["x", "y"])
    with pytest.raises(DrivetrainError, match=r"t.csv:1: the file is empty"):
        analyze(write(tmp_path, ""))


def test_ragged_rows_are_counted_and_kept_with_their_line(tmp_path, small_blocks):
    lines = [f"{i},b{i},c" for i in range(1_000)]
    lines[500], lines[998] = "500,b", '998,"b,2",c,d'
    stats = analyze(write(tmp_path, "x,y,z\n" + "\n".join(lines) + "\n"))
    assert (stats.num_examples, stats.rejected.count) == (998, 2)
    places = [(row.where, row.reason) for row in stats.rejected.samples]
    assert places == [
        (f"{tmp_path / 't.csv'}:502", "2 values where the header has 3"),
        (f"{tmp_path / 't.csv'}:1000", "4 values where the header has 3"),
    ]
    assert stats.rejected.samples[0].text == "500,b"


def test_quoted_line_breaks_and_stray_quotes(tmp_path, small_blocks):
    rows = [f'{i},"two\nlines, {i % 3}"\n' for i in range(500)] + [f'{i},5" pipe\n' for i in range(500, 900)]
    stats = analyze(write(tmp_path, "x,y\n" + "".join(rows)))
    assert (stats.num_examples, stats.rejected.count) == (900, 0)
    assert stats.features["y"].text.counts['5" pipe'] == 400
    assert stats.features["y"].text.unique == 4


def test_lines_of_rows(tmp_path):
    path = write(tmp_path, 'x,y\n1,a\n\n2,"b\nb"\n3\n4,d\n')
    (batch,) = open_source(path).batches()
    assert [batch.where(row) for row in range(batch.table.num_rows)] == [f"{path}:{line}" for line in (2, 4, 7)]


def test_wrong_delimiter_duplicate_names_utf16(tmp_path):
    with pytest.raises(DrivetrainError, match=r"is the delimiter ';', not ','\?"):
        analyze(write(tmp_path, "a;b;c\n1;2;3\n"))
    assert analyze(Csv(tmp_path / "t.csv", delimiter=";")).features["b"].numeric.max == 2
    with pytest.raises(DrivetrainError, match=r"two columns are named 'a' \(columns 1 and 3\)"):
        analyze(write(tmp_path, "a,b,a\n1,2,3\n"))
    with pytest.raises(DrivetrainError, match="UTF-16"):
        analyze(write(tmp_path, "a,b\n1,2\n".encode("utf-16")))
    with pytest.raises(DrivetrainError, match="two columns are named 'a'"):
        analyze(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]))
    with pytest.raises(DrivetrainError, match="two columns are named 'a'"):
        analyze(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_undecodable_bytes_stay_and_are_told(tmp_path):
    stats = analyze(write(tmp_path, b"x,y\n1,caf\xe9\n2,caf\xc3\xa9\n"))
    text = stats.features["y"].text
    assert (text.num_values, text.invalid_utf8) == (2, 1)
    assert text.counts == {"café": 1, "caf\\xe9": 1}
    assert stats.notes == [f"{tmp_path / 't.csv'}:2: byte 0xe9 is not UTF-8"]
    assert stats.features["x"].notes == []


def test_numbers_at_the_edges(tmp_path):
    path = write(
        tmp_path, "big,huge,odd,when\n9007199254740993,1,inf,2024-01-01\n-5,36893488147419103232,nan,2024-01-02\n"
    )
    stats = analyze(path).features
    assert (stats["big"].type, stats["big"].numeric.max) == ("int", 9007199254740993)
    assert (stats["huge"].type, stats["huge"].numeric.max) == ("float", 2.0**65)
    assert (stats["odd"].numeric.num_nan, stats["odd"].numeric.num_pos_inf) == (1, 1)
    assert stats["when"].type == "string"
    late = "x\n" + "1\n" * 600 + "36893488147419103232\n"
    (note,) = analyze(write(tmp_path, late)).features["x"].notes
    assert "t.csv:602: 36893488147419103232 is beyond 64 bits" in note


def test_na_is_missing_among_numbers_and_a_value_among_texts(tmp_path):
    stats = analyze(write(tmp_path, "x,country\n1,NA\nNA,DE\n3,\n")).features
    assert (stats["x"].type, stats["x"].num_missing) == ("int", 1)
    assert (stats["country"].text.counts, stats["country"].num_missing) == ({"DE": 1, "NA": 1}, 1)


def test_schema_gives_the_types(tmp_path):
    from drivetrain.data.schema import Feature, Schema

    schema = Schema({n: Feature(n, type=t) for n, t in (("zip", "string"), ("x", "float"), ("y", "int"))})
    stats = analyze(write(tmp_path, "zip,x,y\n02139,1,a\n10001,2,b\n"), schema=schema).features
    assert stats["zip"].text.counts == {"02139": 1, "10001": 1}
    assert (stats["x"].type, stats["y"].type) == ("float", "string")


def test_standard_input_is_read_once(monkeypatch, small_blocks):
    text = "x\n" + "1\n" * 2_000 + "one\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    stats = analyze("-").features["x"]
    assert stats.text.counts == {"1": 2_000, "one": 1}


def test_crlf_bom_and_no_last_line_break(tmp_path):
    stats = analyze(write(tmp_path, b"\xef\xbb\xbfx,y\r\n1,a\r\n2,b"))
    assert list(stats.features) == ["x", "y"]
    assert stats.features["y"].text.counts == {"a": 1, "b": 1}


def test_dialect_of_uci_adult(shared_data):
    names = tuple(f"c{i}" for i in range(15))
    stats = analyze(Csv(shared_data / "tables" / "adult-train.csv", names=names, nulls=(" ?", "?")))
    assert stats.num_examples == 32_561
    assert stats.features["c0"].numeric.min == 17
    assert stats.features["c1"].num_missing == 1_836


def test_json_lines(tmp_path, small_blocks):
    lines = ['{"x": 1, "s": "2024-01-01", "l": [1, 2]}'] * 100 + ["not json", "[1]", '{"x": "one"}', '{"x": 2.5}']
    stats = analyze(write(tmp_path, "\n".join(lines), "t.jsonl"))
    assert (stats.num_examples, stats.rejected.count) == (102, 2)
    assert [row.where.rpartition(":")[2] for row in stats.rejected.samples] == ["101", "102"]
    assert stats.features["s"].text.counts == {"2024-01-01": 100}
    assert stats.features["s"].num_missing == 2
    assert stats.features["l"].common.max_num_values == 2
    assert any("mixed" in note for note in stats.features["x"].notes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.csv", "no such file or folder"),
        ("absent-*.csv", "no file matches"),
        ("t.xyz", "unknown kind of file"),
        ("empty", "no data files in this folder"),
        ("bad.parquet", "can't be read as Parquet"),
        ("bad.csv.gz", "can't be read"),
        (42, "can't read a int"),
    ],
)
def test_bad_sources(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path, "x", "t.xyz")
    write(tmp_path, "not parquet", "bad.parquet")
    write(tmp_path, gzip.compress(b"x\n" + b"1\n" * 100_000)[:-20], "bad.csv.gz")
    with pytest.raises(DrivetrainError, match=message):
        analyze(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "sample=0"),
        ({"top": 0}, "top=0"),
        ({"histogram": 0}, "histogram=0"),
        ({"batch_rows": 0}, "batch_rows=0"),
        ({"weight": "w"}, "weight column 'w' is unknown"),
        ({"slices": ["z"]}, "slice by column 'z' is unknown"),
        ({"slices": ["=1"]}, "a term without a feature name"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(DrivetrainError, match=message):
        analyze({"x": [1, 2]}, **options)


def test_mixed_objects_become_text_and_are_told():
    stats = analyze([{"x": 1}, {"x": "a"}]).features["x"]
    assert stats.text.counts == {"1": 1, "a": 1}
    assert "int and str mixed" in stats.notes[0]
    frame = pd.DataFrame({"x": [1, "a", None]})
    assert analyze(frame).features["x"].text.counts == {"1": 1, "a": 1}
