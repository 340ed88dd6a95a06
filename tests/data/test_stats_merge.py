"""Merging statistics of any partition equals analyzing the whole; row order doesn't matter; saving loses nothing."""

from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.data import Stats, analyze
from drivetrain.data.numeric import Moments, NumericStats

ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "int": st.none() | st.integers(-(2**63), 2**63 - 1),
            "float": st.none() | st.floats(width=64),
            "text": st.none() | st.text(max_size=3),
            "flag": st.none() | st.booleans(),
            "list": st.none() | st.lists(st.integers(-5, 5), max_size=3),
            "weight": st.floats(0, 10),
        },
    ),
    max_size=40,
)
SCHEMA = pa.schema(
    [
        ("int", pa.int64()),
        ("float", pa.float64()),
        ("text", pa.string()),
        ("flag", pa.bool_()),
        ("list", pa.list_(pa.int64())),
        ("weight", pa.float64()),
    ]
)


def table(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def exact_facts(stats: Stats):
    """Everything of which the spec says that it must be exact."""
    facts = {"examples": stats.num_examples}
    for name, feature in stats.features.items():
        numeric, text, common = feature.numeric, feature.text, feature.common
        facts[name] = (
            feature.type,
            feature.logical,
            [vars(level) for level in common.levels],
            numeric
            and [numeric.num_values, numeric.num_nan, numeric.num_pos_inf, numeric.num_neg_inf, numeric.num_zeros],
            numeric and [numeric.min, numeric.max],
            text and [text.counts, text.unique, text.num_int, text.num_float, text.avg_length],
        )
    return facts


def assert_same(parts: Stats, whole: Stats):
    assert exact_facts(parts) == exact_facts(whole)
    for name, feature in whole.features.items():
        if feature.numeric and feature.numeric.n:
            a, b = parts.features[name].numeric, feature.numeric
            largest = max(abs(float(b.sketch.support()[0][0])), abs(float(b.sketch.support()[0][-1])))
            assert a.mean == pytest.approx(b.mean, rel=1e-12, abs=1e-12 * largest)
            # Squares of numbers near 1e154 and beyond may or may not overflow, by the order of the sums.
            if largest < 1e150:
                assert a.std_dev == pytest.approx(b.std_dev, rel=1e-12, abs=1e-12 * largest)
            assert a.quantile([0.1, 0.5, 0.9]).tolist() == b.quantile([0.1, 0.5, 0.9]).tolist()


@settings(deadline=None, max_examples=60)
@given(ROWS, st.lists(st.integers(0, 40), max_size=4), st.randoms())
def test_merge_of_any_partition_equals_the_whole(rows, cuts, random):
    cuts = sorted(min(cut, len(rows)) for cut in cuts)
    parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    random.shuffle(parts)
    merged = reduce(or_, (analyze(table(part), threads=1) for part in parts))
    assert_same(merged, analyze(table(rows), threads=1))


@settings(deadline=None, max_examples=40)
@given(ROWS, st.randoms())
def test_row_order_does_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert_same(analyze(table(shuffled), threads=1), analyze(table(rows), threads=1))


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_saving_loses_nothing(tmp_path_factory, rows):
    stats = analyze(table(rows), weight="weight", slices=["flag"], threads=1)
    path = tmp_path_factory.mktemp("stats") / "s.json"
    stats.save(path)
    assert Stats.load(path) == stats


def test_merging_saved_parts_continues_the_count(tmp_path):
    data = pa.table({"x": np.random.default_rng(0).normal(size=50_000), "s": [f"v{i % 37}" for i in range(50_000)]})
    for index in range(5):
        analyze(data.slice(index * 10_000, 10_000)).save(tmp_path / f"{index}.json")
    merged = reduce(or_, (Stats.load(tmp_path / f"{index}.json") for index in range(5)))
    whole = analyze(data)
    assert merged.features["s"].text.counts == whole.features["s"].text.counts
    assert merged.features["x"].numeric.mean == pytest.approx(whole.features["x"].numeric.mean, rel=1e-12)
    ordered = np.sort(data["x"].to_numpy())
    for q in (0.01, 0.25, 0.5, 0.75, 0.99):
        rank = np.searchsorted(ordered, merged.features["x"].numeric.quantile(q)) / len(ordered)
        assert abs(rank - q) <= 0.01


def test_a_sum_of_squares_would_lose_the_deviation():
    """Mean 1e9, deviation 1: the textbook formula E[x²] - E[x]² gives 0 or noise here."""
    values = 1e9 + np.random.default_rng(1).normal(size=100_000)
    moments = reduce(Moments.merge, (Moments.of(part) for part in np.array_split(values, 313)))
    assert moments.std_dev == pytest.approx(values.std(), rel=1e-12)
    assert moments.mean == pytest.approx(values.mean(), rel=1e-15)


def test_numbers_too_large_to_square_have_a_mean_and_an_infinite_deviation():
    stats = NumericStats.of(np.array([0.0, 3e275])).merge(NumericStats.of(np.array([-1.7e308, 1.7e308])))
    assert stats.mean == pytest.approx(0.75e275)
    assert stats.std_dev == np.inf
    assert NumericStats.of(np.array([1e300, 2e300])).std_dev == np.inf


def test_integers_beyond_2_to_53_stay_exact():
    low, high = -(2**63) + 1, 2**63 - 1
    numeric = NumericStats.of(np.array([low, 0, 2**53 + 1, high]))
    assert (numeric.min, numeric.max) == (low, high)
    assert NumericStats.from_json(numeric.to_json()).max == high


def test_a_column_that_one_part_lacks_is_missing_there():
    a, b = analyze({"x": [1, 2], "y": ["a", None]}), analyze({"x": [3]})
    merged = a | b
    assert (merged.features["y"].num_non_missing, merged.features["y"].num_missing) == (1, 2)
    assert exact_facts(b | a)["y"] == exact_facts(merged)["y"]


def test_int_and_float_parts_join_as_float_and_text_leaves_a_note():
    assert (analyze({"x": [1]}) | analyze({"x": [1.5]})).features["x"].type == "float"
    mixed = (analyze({"x": [1]}) | analyze({"x": ["a"]})).features["x"]
    assert mixed.type == "string"
    assert mixed.notes == ["read as int in one part and as string in another"]
    assert (analyze({"x": [None]}) | analyze({"x": ["a"]})).features["x"].notes == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a statistics file"),
        ("[]", "format 'list'"),
        ("{}", "format None"),
        ('{"format": "drivetrain-stats-1"}', "damaged statistics file"),
    ],
)
def test_a_bad_statistics_file_is_told(tmp_path, content, message):
    from drivetrain import DrivetrainError

    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DrivetrainError, match=message):
        Stats.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Stats.load(tmp_path / "absent.json")


def test_proto_round_trip_of_every_type():
    pytest.importorskip("tensorflow_metadata")
    rows = [
        {"i": 0, "f": 1.5, "s": "a", "b": b"xyz", "l": [1, 2], "st": {"c": 1}},
        {"i": 3, "f": float("nan"), "s": "b"},
    ]
    stats = analyze(rows, slices=["s"])
    again = Stats.from_proto(stats.to_proto())
    assert (again.num_examples, list(again.slices)) == (2, ["s=a", "s=b"])
    for name, feature in stats.features.items():
        other = again.features[name]
        assert (other.type, other.num_missing, other.common.tot_num_values) == (
            feature.type,
            feature.num_missing,
            feature.common.tot_num_values,
        )
    assert again.features["i"].numeric.num_zeros == 1
    assert again.features["f"].numeric.num_nan == 1
    assert again.features["s"].text.counts == {"a": 1, "b": 1}
    assert again.features["b"].bytes.max_num_bytes == 3
