"""Rows that break the schema: places, masks of every kind, agreement with the statistics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.data import Schema, analyze, infer, rows, validate


def schema_of(**features):
    return Schema.from_dict({"feature": features})


@pytest.mark.parametrize(
    ("promise", "values", "kind", "bad"),
    [
        ({"type": "int", "presence": {"min_fraction": 1.0}}, [1, None, 3], "FEATURE_TYPE_LOW_FRACTION_PRESENT", [1]),
        ({"type": "int", "range": [0, 2]}, [1, -1, 3, None], "INT_TYPE_SMALL_INT", [1]),
        ({"type": "int", "range": [-9, 2]}, [1, -1, 3, None], "INT_TYPE_BIG_INT", [2]),
        ({"type": "float", "range": [0.0, 1.0]}, [0.5, 7.0, math.inf, -0.1 + 1], "FLOAT_TYPE_BIG_FLOAT", [1, 2]),
        ({"type": "float", "allow_nan": False}, [0.5, math.nan], "FLOAT_TYPE_HAS_NAN", [1]),
        ({"type": "float", "allow_inf": False}, [-math.inf, 0.5], "FLOAT_TYPE_HAS_INF", [0]),
        ({"type": "string", "domain": ["a"]}, ["a", "b", None], "ENUM_TYPE_UNEXPECTED_STRING_VALUES", [1]),
        ({"type": "string", "parse": "int"}, ["1", "x", None], "INT_TYPE_NOT_INT_STRING", [1]),
        ({"type": "string", "parse": "float", "range": [0.0, 1.0]}, ["0.5", "x", "9"], "FLOAT_TYPE_BIG_FLOAT", [2]),
        ({"type": "string", "bool": {"true": "y", "false": "n"}}, ["y", "q"], "BOOL_TYPE_UNEXPECTED_STRING", [1]),
        ({"type": "int", "bool": True}, [0, 1, 2], "BOOL_TYPE_BIG_INT", [2]),
        ({"type": "float", "bool": True}, [0.0, 0.5], "BOOL_TYPE_UNEXPECTED_FLOAT", [1]),
        ({"type": "int"}, ["1", "x"], "UNEXPECTED_DATA_TYPE", [1]),
        ({"type": "int"}, [1.0, 1.5], "UNEXPECTED_DATA_TYPE", [1]),
        ({"type": "string"}, [1, 2], "UNEXPECTED_DATA_TYPE", [0, 1]),
        ({"type": "int", "values": {"min": 1}}, [[1], [], None], "FEATURE_TYPE_LOW_NUMBER_VALUES", [1]),
        ({"type": "int", "values": {"max": 1}}, [[1], [1, 2]], "FEATURE_TYPE_HIGH_NUMBER_VALUES", [1]),
        ({"type": "int", "shape": [2]}, [[1, 2], [1]], "INVALID_FEATURE_SHAPE", [1]),
        ({"type": "int", "range": [0, 2]}, [[1, 5], [1], [9, 9]], "INT_TYPE_BIG_INT", [0, 2]),
        ({"type": "int", "range": [0, 2]}, [[[1], [5]], [[1]]], "INT_TYPE_BIG_INT", [0]),
    ],
)
def test_a_mask_finds_just_the_bad_rows(promise, values, kind, bad):
    found = [item.row for item in rows({"x": values}, schema_of(x=promise)) if item.type == kind]
    assert found == bad


def test_values_and_paths_of_structs():
    schema = schema_of(s={"type": "struct", "fields": {"a": {"type": "int", "range": [0, 3]}}})
    found = list(rows([{"s": {"a": 1}}, {"s": None}, {"s": {"a": -5}}], schema))
    assert [(item.row, item.feature, item.value) for item in found] == [(2, "s.a", -5)]


def test_places_in_files(tmp_path):
    (tmp_path / "t.csv").write_text("x,c\n1,a\n9,b\n2,z\n")
    schema = schema_of(x={"type": "int", "range": [0, 5]}, c={"type": "string", "domain": ["a", "b"]})
    found = list(rows(tmp_path / "t.csv", schema))
    assert [(str(item.row).rpartition("/")[2], item.feature, item.value) for item in found] == [
        ("t.csv:3", "x", 9),
        ("t.csv:4", "c", "z"),
    ]


def test_a_wrong_word_in_a_column_of_numbers_is_found_with_its_line(tmp_path):
    (tmp_path / "t.csv").write_text("x\n" + "1\n" * 50 + "oops\n2\n")
    found = list(rows(tmp_path / "t.csv", schema_of(x={"type": "int"})))
    assert [(item.type, item.value) for item in found] == [("UNEXPECTED_DATA_TYPE", "oops")]
    assert str(found[0].row).endswith("t.csv:52")


def test_limit_and_environment():
    schema = schema_of(x={"type": "int", "presence": {"min_fraction": 1.0}, "not_in": ["SERVING"]})
    assert len(list(rows({"x": [None] * 9}, schema, limit=4))) == 4
    assert list(rows({"x": [None] * 9}, schema, environment="SERVING")) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-5, 5) | st.none(), min_size=1, max_size=20),
    st.lists(st.sampled_from("abcd") | st.none(), min_size=20, max_size=20),
)
def test_rows_find_something_where_statistics_do(x, c):
    """The two ways of looking agree: types of anomaly, and the number of offenders of each."""
    table = {"x": x, "c": c[: len(x)]}
    always = {"min_fraction": 1.0}
    schema = schema_of(
        x={"type": "int", "range": [-2, 2], "presence": always}, c={"type": "string", "domain": ["a", "b"]}
    )
    report = validate(analyze(table), schema)
    told = {(a.feature, reason.type): reason.count for a in report.anomalies for reason in a.reasons}
    counted: dict[tuple[str, str], int] = {}
    for item in rows(table, schema):
        counted[item.feature, item.type] = counted.get((item.feature, item.type), 0) + 1
    told = {
        key: count for key, count in told.items() if key[1] not in ("FEATURE_TYPE_NOT_PRESENT", "UNEXPECTED_DATA_TYPE")
    }
    if None not in (*told.values(),) and any(value is not None for value in x):
        assert counted == told


def test_inferred_schemas_have_no_offenders():
    table = {"x": [1, 2, None], "c": ["a", "b", "c"], "l": [[1.0], [2.0, 3.0], []]}
    assert list(rows(table, infer(analyze(table), ranges=True))) == []
