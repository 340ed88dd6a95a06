"""Counts of strings: exact up to the cap, bounded beyond."""

from __future__ import annotations

import numpy as np
import pytest

from drivetrain.data import analyze
from drivetrain.data import counts as counts_module
from drivetrain.data.counts import ValueCounts
from drivetrain.data.text import StringStats


@pytest.fixture
def small_cap(monkeypatch):
    monkeypatch.setattr(counts_module, "CAP", 2_000)
    monkeypatch.setattr(counts_module, "KEPT", 500)


def labels(n=60_000):
    """Zipf-like: a few frequent, thousands of rare ones."""
    codes = (8_000 ** np.random.default_rng(3).random(n)).astype(int)
    return [f"v{code}" for code in codes]


def test_known_answers():
    stats = StringStats.of({"b": 2, "a": 2, "7": 1, " -3 ": 1, "1.5": 1, "é": 1})
    assert stats.top_values[:2] == [("a", 2), ("b", 2)], "ties go by label"
    assert (stats.num_values, stats.unique, stats.exact) == (8, 6, True)
    assert (stats.num_int, stats.num_float) == (2, 3)
    assert stats.avg_length == (2 + 2 + 1 + 4 + 3 + 2) / 8, "bytes of UTF-8"


def test_rank_histogram_keeps_a_thousand_and_the_rest_as_other():
    stats = StringStats.of({f"{i:04d}": 1 + (i < 10) for i in range(1_500)})
    assert len(stats.rank_histogram) == 1_000
    assert stats.rank_histogram[0] == ("0000", 2)
    assert stats.other == 500
    assert sum(count for _, count in stats.rank_histogram) + stats.other == stats.num_values


def test_beyond_the_cap_the_frequent_keep_their_counts(small_cap):
    values = labels()
    truth = {value: values.count(value) for value in ("v1", "v2", "v3", "v10")}
    stats = analyze({"s": values}, batch_rows=5_000).features["s"].text
    assert not stats.exact
    assert stats.counts is None
    assert stats.num_values == len(values)
    assert stats.unique == pytest.approx(len(set(values)), rel=0.03)
    found = dict(stats.rank_histogram)
    for value, count in truth.items():
        assert count - stats.values.undercount <= found[value] <= count
    # Each trim takes the 501st count off 501 values at least.
    assert 0 < stats.values.undercount <= len(values) / 501
    assert (stats.num_int, stats.avg_length) == (0, pytest.approx(np.mean([len(v) for v in values])))


def test_merging_beyond_the_cap(small_cap):
    values = labels()
    parts = [analyze({"s": values[i::4]}, batch_rows=3_000) for i in range(4)]
    merged = (parts[0] | parts[1]) | (parts[2] | parts[3])
    text = merged.features["s"].text
    assert text.unique == pytest.approx(len(set(values)), rel=0.03)
    assert values.count("v1") - text.values.undercount <= dict(text.rank_histogram)["v1"] <= values.count("v1")
    assert text.reading.num_bytes == sum(map(len, values))
    again = StringStats.from_json(text.to_json())
    assert (again.unique, again.rank_histogram, again.values.undercount) == (
        text.unique,
        text.rank_histogram,
        text.values.undercount,
    )


def test_exact_and_trimmed_parts_join(small_cap):
    few, many = ValueCounts(), ValueCounts()
    few.update({b"x": 5})
    many.update({f"{i}".encode(): 1 for i in range(2_001)})
    assert few.exact
    assert not many.exact
    assert few.merge(many).unique == pytest.approx(2_002, rel=0.03)
    assert few.merge(many).table[b"x"] == 5


def test_a_dictionary_that_holds_a_label_twice():
    import pyarrow as pa

    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["a", "b", "a"]))
    text = analyze(pa.table({"s": column})).features["s"]
    assert text.text.counts == {"a": 2, "b": 1}
    assert text.num_missing == 1


def test_bytes_are_measured_not_kept():
    stats = analyze({"b": [b"\xff" * i for i in range(100)] + [b"\xff"]}).features["b"].bytes
    assert (stats.min_num_bytes, stats.max_num_bytes, stats.num_values) == (0, 99, 101)
    assert stats.unique == pytest.approx(100, abs=2)
    assert stats.avg_num_bytes == pytest.approx((99 * 50 + 1) / 101)
