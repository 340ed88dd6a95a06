"""Every rule of the table fires, alone, on the least case that breaks it, and its edit makes that case valid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from drivetrain.data import RULES, Schema, Stats, analyze, update, validate
from drivetrain.data.rules import rules_page, rules_table


def feature(**keys: Any) -> dict[str, Any]:
    """A schema with one feature `x`."""
    return {"feature": {"x": keys}}


INT = {"type": "int", "presence": {"min_count": 1}}
FLOAT = {"type": "float"}
TEXT = {"type": "string"}
ALWAYS = {"min_fraction": 1.0, "min_count": 1}
PAIR = {"feature": {"x": INT, "y": INT}}
SPARSE = {**PAIR, "sparse": {"s": {"value": "x", "index": ["y"]}}}
WEIGHTED = {**PAIR, "weighted": {"w": {"feature": "x", "weight": "y"}}}


def token(word: str, **bounds: float) -> dict[str, Any]:
    """A schema that constrains one token of the text `x`."""
    return feature(**TEXT, text={"tokens": [{"token": word, **bounds}]})


# type of anomaly: (schema, columns, columns of the batch before or None)
CASES: dict[str, tuple[dict[str, Any], dict[str, list[Any]], dict[str, list[Any]] | None]] = {
    "SCHEMA_NEW_COLUMN": (feature(**INT), {"x": [1], "y": [2]}, None),
    "SCHEMA_MISSING_COLUMN": ({"feature": {"x": INT, "y": INT}}, {"x": [1]}, None),
    "FEATURE_MISSING_TYPE": (feature(presence={"min_count": 1}), {"x": [1]}, None),
    "UNEXPECTED_DATA_TYPE": (feature(**INT), {"x": ["a", "b"]}, None),
    "FEATURE_TYPE_NOT_PRESENT": (feature(**INT), {"x": [None, None]}, None),
    "FEATURE_TYPE_LOW_FRACTION_PRESENT": (feature(type="int", presence=ALWAYS), {"x": [1, None]}, None),
    "FEATURE_TYPE_LOW_NUMBER_PRESENT": (feature(type="int", presence={"min_count": 3}), {"x": [1, 2, None]}, None),
    "FEATURE_TYPE_LOW_NUMBER_VALUES": (feature(**INT, values={"min": 2}), {"x": [[1, 2], [3]]}, None),
    "FEATURE_TYPE_HIGH_NUMBER_VALUES": (feature(**INT, values={"max": 1}), {"x": [[1, 2], [3]]}, None),
    "VALUE_NESTEDNESS_MISMATCH": (feature(**INT, values={"min": 1}), {"x": [[[1], [2]], [[3]]]}, None),
    "INVALID_FEATURE_SHAPE": (feature(**INT, shape=[2]), {"x": [[1, 2], [3]]}, None),
    "ENUM_TYPE_UNEXPECTED_STRING_VALUES": (feature(**TEXT, domain=["a"]), {"x": ["a", "b"]}, None),
    "BOOL_TYPE_SMALL_INT": (feature(type="int", bool=True), {"x": [0, -1]}, None),
    "BOOL_TYPE_BIG_INT": (feature(type="int", bool=True), {"x": [0, 2]}, None),
    "BOOL_TYPE_UNEXPECTED_STRING": (
        feature(**TEXT, bool={"true": "yes", "false": "no"}),
        {"x": ["yes", "maybe"]},
        None,
    ),
    "BOOL_TYPE_UNEXPECTED_FLOAT": (feature(**FLOAT, bool=True), {"x": [0.0, 0.5, 1.0]}, None),
    "BOOL_TYPE_INVALID_CONFIG": (feature(**TEXT, bool=True), {"x": ["a", "b"]}, None),
    "INT_TYPE_NOT_INT_STRING": (feature(**TEXT, parse="int"), {"x": ["1", "b"]}, None),
    "INT_TYPE_SMALL_INT": (feature(type="int", range=[0, math.inf]), {"x": [-1, 5]}, None),
    "INT_TYPE_BIG_INT": (feature(type="int", range=[-math.inf, 4]), {"x": [-1, 5]}, None),
    "FLOAT_TYPE_STRING_NOT_FLOAT": (feature(**TEXT, parse="float"), {"x": ["1.5", "b"]}, None),
    "FLOAT_TYPE_SMALL_FLOAT": (feature(**FLOAT, range=[0.0, math.inf]), {"x": [-0.5, 5.0]}, None),
    "FLOAT_TYPE_BIG_FLOAT": (feature(**FLOAT, range=[0.0, 1.0]), {"x": [0.5, math.inf]}, None),
    "FLOAT_TYPE_HAS_NAN": (feature(**FLOAT, allow_nan=False), {"x": [0.5, math.nan]}, None),
    "FLOAT_TYPE_HAS_INF": (feature(**FLOAT, allow_inf=False), {"x": [0.5, -math.inf]}, None),
    "FEATURE_TYPE_LOW_UNIQUE": (feature(**TEXT, unique={"min": 2}), {"x": ["a", "a"]}, None),
    "FEATURE_TYPE_HIGH_UNIQUE": (feature(**TEXT, unique={"max": 1}), {"x": ["a", "b"]}, None),
    "FEATURE_TYPE_NO_UNIQUE": (feature(**FLOAT, unique={"max": 1}), {"x": [0.5]}, None),
    "STATISTIC_MEAN_OUT_OF_RANGE": (feature(**FLOAT, statistics={"mean": [0, 1]}), {"x": [1.0, 3.0]}, None),
    "STATISTIC_STD_OUT_OF_RANGE": (feature(**FLOAT, statistics={"std": [2, 3]}), {"x": [1.0, 3.0]}, None),
    "STATISTIC_ZEROS_OUT_OF_RANGE": (feature(**FLOAT, statistics={"zeros": [0, 0.2]}), {"x": [0.0, 3.0]}, None),
    "STATISTIC_QUANTILE_OUT_OF_RANGE": (
        feature(**FLOAT, statistics={"quantile": {"0.5": [5, 6]}}),
        {"x": [1.0, 3.0]},
        None,
    ),
    "STATISTIC_SHARE_OUT_OF_RANGE": (
        feature(**TEXT, statistics={"share": {"a": [0.4, 0.6]}}),
        {"x": ["a", "a", "b"]},
        None,
    ),
    "STATS_NOT_AVAILABLE": (feature(**TEXT, statistics={"mean": [0, 1]}), {"x": ["a"]}, None),
    "DATASET_LOW_NUM_EXAMPLES": ({"dataset": {"min_examples": 2}, **feature(**INT)}, {"x": [1]}, None),
    "DATASET_HIGH_NUM_EXAMPLES": ({"dataset": {"max_examples": 1}, **feature(**INT)}, {"x": [1, 2]}, None),
    "COMPARATOR_LOW_NUM_EXAMPLES": (
        {"dataset": {"ratio_to_previous": [0.5, 2.0]}, **feature(**INT)},
        {"x": [1]},
        {"x": [1] * 3},
    ),
    "COMPARATOR_HIGH_NUM_EXAMPLES": (
        {"dataset": {"ratio_to_previous": [0.5, 2.0]}, **feature(**INT)},
        {"x": [1] * 3},
        {"x": [1]},
    ),
    "COMPARATOR_L_INFTY_HIGH": (feature(**TEXT, drift={"linf": 0.1}), {"x": ["a", "b"]}, {"x": ["a", "a"]}),
    "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH": (
        feature(**TEXT, drift={"js": 0.1}),
        {"x": ["a", "b"]},
        {"x": ["a", "a"]},
    ),
    "COMPARATOR_NORMALIZED_ABSOLUTE_DIFFERENCE_HIGH": (
        feature(**TEXT, drift={"nad": 0.1}),
        {"x": ["a", "b"]},
        {"x": ["a", "a"]},
    ),
    "COMPARATOR_KOLMOGOROV_SMIRNOV_HIGH": (feature(**FLOAT, drift={"ks": 0.1}), {"x": [1.0, 2.0]}, {"x": [1.0, 1.0]}),
    "COMPARATOR_WASSERSTEIN_HIGH": (feature(**FLOAT, drift={"w1": 0.1}), {"x": [1.0, 2.0]}, {"x": [1.0, 1.0]}),
    "COMPARATOR_CONTROL_DATA_MISSING": (feature(**TEXT, drift={"linf": 0.1}), {"x": ["a"]}, {"y": ["a"]}),
    "FEATURE_COVERAGE_TOO_LOW": (
        {"domain": {"words": {"values": ["a"]}}, **feature(**TEXT, text={"vocabulary": "words", "min_coverage": 0.9})},
        {"x": ["a b"]},
        None,
    ),
    "FEATURE_COVERAGE_TOO_SHORT_AVG_TOKEN_LENGTH": (
        feature(**TEXT, text={"min_avg_token_length": 3}),
        {"x": ["a bb"]},
        None,
    ),
    "SEQUENCE_LENGTH_TOO_SHORT": (feature(**TEXT, text={"min_sequence_length": 3}), {"x": ["a bb"]}, None),
    "SEQUENCE_LENGTH_TOO_LONG": (feature(**TEXT, text={"max_sequence_length": 1}), {"x": ["a bb"]}, None),
    "SEQUENCE_VALUE_TOO_FEW_OCCURRENCES": (token("a", min_per_sequence=1), {"x": ["a", "b"]}, None),
    "SEQUENCE_VALUE_TOO_MANY_OCCURRENCES": (token("a", max_per_sequence=1), {"x": ["a a", "b"]}, None),
    "SEQUENCE_VALUE_TOO_SMALL_FRACTION": (token("a", min_fraction=0.9), {"x": ["a a", "b"]}, None),
    "SEQUENCE_VALUE_TOO_LARGE_FRACTION": (token("a", max_fraction=0.1), {"x": ["a a", "b"]}, None),
    "LOW_SUPPORTED_IMAGE_FRACTION": (
        feature(type="bytes", image={"min_supported_fraction": 0.9}),
        {"x": [b"GIF89a", b"no image"]},
        None,
    ),
    "MAX_IMAGE_BYTE_SIZE_EXCEEDED": (feature(type="bytes", image={"max_bytes": 5}), {"x": [b"GIF89a"]}, None),
    "TIME_TYPE_UNEXPECTED_FORMAT": (feature(**TEXT, time="%Y-%m-%d"), {"x": ["2026-01-02", "2.1.2026"]}, None),
    "SPARSE_FEATURE_MISSING_VALUE": (SPARSE, {"x": [[1], None], "y": [[1], [2]]}, None),
    "SPARSE_FEATURE_MISSING_INDEX": (SPARSE, {"x": [[1], [2]], "y": [[1], None]}, None),
    "SPARSE_FEATURE_LENGTH_MISMATCH": (SPARSE, {"x": [[1], [2]], "y": [[1], [2, 3]]}, None),
    "SPARSE_FEATURE_NAME_COLLISION": (
        {**PAIR, "sparse": {"x": {"value": "x", "index": ["y"]}}},
        {"x": [[1]], "y": [[1]]},
        None,
    ),
    "WEIGHTED_FEATURE_MISSING_VALUE": (WEIGHTED, {"x": [[1], None], "y": [[1], [2]]}, None),
    "WEIGHTED_FEATURE_MISSING_WEIGHT": (WEIGHTED, {"x": [[1], [2]], "y": [[1], None]}, None),
    "WEIGHTED_FEATURE_LENGTH_MISMATCH": (WEIGHTED, {"x": [[1], [2]], "y": [[1], [2, 3]]}, None),
    "WEIGHTED_FEATURE_NAME_COLLISION": (
        {**PAIR, "weighted": {"x": {"feature": "x", "weight": "y"}}},
        {"x": [[1]], "y": [[1]]},
        None,
    ),
    "FEATURE_MISSING_NAME": ({"feature": {"": {"type": "int"}}}, {}, None),
    "INVALID_SCHEMA_SPECIFICATION": (feature(type="int", presence={"min_fraction": 1.5}), {"x": [1]}, None),
    "INVALID_DOMAIN_SPECIFICATION": (feature(**TEXT, domain="cities"), {"x": ["a"]}, None),
    "DOMAIN_INVALID_FOR_TYPE": (feature(**FLOAT, domain=["a"]), {"x": [0.5]}, None),
}


def stats_of(columns: dict[str, list[Any]] | None, schema: Schema) -> Stats | None:
    if columns is None:
        return None
    return analyze(columns, schema=schema) if columns else Stats(num_examples=1)


@pytest.mark.parametrize("kind", CASES)
def test_the_rule_fires_alone_and_its_edit_cures(kind: str) -> None:
    data, columns, before = CASES[kind]
    schema = Schema.from_dict(data)
    stats, previous = stats_of(columns, schema), stats_of(before, schema)
    assert stats is not None
    report = validate(stats, schema, previous=previous)
    assert [anomaly.types for anomaly in report.anomalies] == [(kind,)]
    anomaly = report.anomalies[0]
    assert anomaly.edit and anomaly.expected and anomaly.seen
    assert report.ok == (anomaly.severity == "WARNING")
    cured = update(schema, report)
    assert validate(stats, cured, previous=previous).anomalies == []
    assert schema == Schema.from_dict(data), "update must leave its argument alone"


def test_invalid_utf8_fires_and_drops_the_list() -> None:
    from drivetrain.data import FeatureStats
    from drivetrain.data.presence import CommonStats
    from drivetrain.data.text import StringStats

    text = StringStats()
    text.update({b"ok": 3, b"\xff": 1})
    stats = Stats(num_examples=4, features={"x": FeatureStats("x", "string", CommonStats.of(4, 0), text=text)})
    schema = Schema.from_dict(feature(**TEXT, domain=["ok"]))
    report = validate(stats, schema)
    assert report.anomalies[0].types == ("ENUM_TYPE_INVALID_UTF8",)
    assert report.anomalies[0].share == 0.25
    assert validate(stats, update(schema, report)).anomalies == []


def test_every_rule_of_the_table_has_a_case() -> None:
    elsewhere = {"ENUM_TYPE_INVALID_UTF8"}
    types = [rule.type for rule in RULES]
    assert len(types) == len(set(types))
    assert set(types) == set(CASES) | elsewhere


@pytest.mark.parametrize(
    "promise",
    [
        {"type": "string", "text": {"min_coverage": 0.5}},
        {"type": "string", "image": {"min_supported_fraction": 0.5}},
        {"type": "string", "time": "%Y"},
    ],
)
def test_what_could_not_be_checked_is_told(promise: dict[str, Any]) -> None:
    """Statistics made without the schema lack the optional ones it asks for."""
    schema = Schema.from_dict(feature(**promise))
    stats = analyze({"x": ["a"]})
    report = validate(stats, schema)
    assert report.anomalies[0].types == ("STATS_NOT_AVAILABLE",)
    assert report.ok and "schema=schema" in report.anomalies[0].seen
    assert validate(stats, update(schema, report)).anomalies == []


def test_the_page_of_rules_is_made_from_the_table(repository: Path) -> None:
    assert rules_table().count("\n") == len(RULES) + 1
    assert (repository / "docs" / "systems" / "rules-17.md").read_text() == rules_page()


@pytest.mark.parametrize(
    ("promise", "problem"),
    [
        ({"type": "int", "values": {"min": 3, "max": 1}}, "values.min <= values.max"),
        ({"type": "int", "unique": {"min": -1}}, "unique"),
        ({"type": "int", "nested_values": [{"min": 3, "max": 1}]}, "nested_values"),
        ({"type": "int", "values": {"min": 1}, "shape": [1]}, "one of shape"),
        ({"type": "int", "min_domain_mass": 0.5}, "beside a list of strings"),
        ({"type": "string", "domain": ["a"], "min_domain_mass": 2.0}, "in [0, 1]"),
        ({"type": "int", "in": ["A"], "not_in": ["A"]}, "`in` or `not_in`"),
        ({"type": "string", "domain": ["a", "a"]}, "every value once"),
        ({"type": "string", "bool": {"true": "a", "false": "a"}}, "different words"),
        ({"type": "int", "range": [5, 1]}, "low <= high"),
        ({"type": "int", "domain": ["a"]}, "fits type INT"),
    ],
)
def test_promises_that_cannot_be_meant(promise: dict[str, Any], problem: str) -> None:
    schema = Schema.from_dict(feature(**promise))
    columns = {"x": ["a"] if promise["type"] == "string" else [1]}
    report = validate(analyze(columns), schema)
    assert problem in report["x"].description
    assert "in the schema" in report["x"].description
    assert validate(analyze(columns), update(schema, report)).anomalies == []
