"""What must hold for any data and any schema: inferred and updated schemas accept, one mutation is one anomaly."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from drivetrain.data import FloatDomain, IntDomain, Schema, analyze, infer, sample, update, validate
from drivetrain.data.strategies import examples

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
words = st.sampled_from(["a", "b", "true", "false", "1", "0", "12", "-3", "x y", "", "é", "1.5"])
ints = st.integers(-3, 3) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1])
floats = st.floats(allow_nan=True, allow_infinity=True)


def columns_of(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Columns of scalars with nulls, of lists, of nested lists."""
    lists = st.lists(value, max_size=3)
    return st.sampled_from([value | st.none(), value, lists | st.none(), st.lists(lists, max_size=2)]).flatmap(
        lambda one: st.lists(one, min_size=1, max_size=6)
    )


@st.composite
def tables(draw: Any) -> dict[str, list[Any]]:
    kinds = [ints, floats, words, st.booleans(), st.none(), st.fixed_dictionaries({"p": ints, "q": words | st.none()})]
    names = draw(st.lists(st.sampled_from(["x", "y", "z", "a.b", "day of week"]), min_size=1, max_size=4, unique=True))
    made = {name: draw(columns_of(draw(st.sampled_from(kinds)))) for name in names}
    rows = draw(st.integers(1, min(map(len, made.values()))))
    return {name: column[:rows] for name, column in made.items()}


@QUICK
@given(tables(), st.booleans())
def test_what_was_inferred_accepts_its_own_data(table: dict[str, list[Any]], ranges: bool) -> None:
    stats = analyze(table)
    assert validate(stats, infer(stats, ranges=ranges)).anomalies == []


@QUICK
@given(tables(), tables(), st.booleans())
@example({"x": [0.0]}, {"x": [2**53 + 1]}, True)  # a float range can't reach it exactly
def test_an_updated_schema_accepts_the_data(
    first: dict[str, list[Any]], second: dict[str, list[Any]], ranges: bool
) -> None:
    before, stats = analyze(first), analyze(second)
    schema = infer(before, previous=before, ranges=ranges)
    report = validate(stats, schema, previous=before)
    updated = update(schema, report)
    assert validate(stats, updated, previous=before).anomalies == []
    assert Schema.from_dict(updated.to_dict()) == updated


@QUICK
@given(tables(), st.randoms(use_true_random=False))
def test_infer_does_not_depend_on_the_order_of_rows(table: dict[str, list[Any]], shuffler: random.Random) -> None:
    order = list(range(len(next(iter(table.values())))))
    shuffler.shuffle(order)
    shuffled = {name: [column[row] for row in order] for name, column in table.items()}
    assert infer(analyze(shuffled)) == infer(analyze(table))


@QUICK
@given(tables())
def test_both_file_forms_keep_everything(table: dict[str, list[Any]]) -> None:
    from drivetrain.data.schema_toml import schema_from_toml

    stats = analyze(table)
    schema = infer(stats, previous=stats, ranges=True)
    assert schema_from_toml(schema.to_toml()) == schema
    assert Schema.from_pbtxt(schema.to_pbtxt()) == schema


ALWAYS = {"min_fraction": 1.0, "min_count": 1}
NUMBERS = st.tuples(st.integers(-5, 5), st.integers(0, 20)).map(lambda pair: [pair[0], pair[0] + pair[1]])
FEATURES = st.one_of(
    st.builds(lambda r: {"type": "int", "presence": ALWAYS, "range": r}, NUMBERS),
    st.builds(
        lambda r: {"type": "float", "presence": ALWAYS, "range": list(map(float, r)), "allow_nan": False}, NUMBERS
    ),
    st.builds(
        lambda d: {"type": "string", "presence": ALWAYS, "domain": d},
        st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=4, unique=True),
    ),
    st.just({"type": "int", "presence": ALWAYS, "bool": True}),
    st.just({"type": "string", "presence": ALWAYS, "bool": {"true": "yes", "false": "no"}}),
    st.just({"type": "string", "presence": {"min_count": 2}, "parse": "int", "range": [0, 9]}),
    st.builds(
        lambda r, low: {"type": "int", "presence": ALWAYS, "range": r, "values": {"min": low, "max": low + 2}},
        NUMBERS,
        st.integers(1, 3),
    ),
    st.builds(
        lambda r: {
            "type": "float",
            "presence": ALWAYS,
            "range": list(map(float, r)),
            "allow_nan": False,
            "shape": [2, 3],
        },
        NUMBERS,
    ),
    st.just({"type": "string", "presence": {"min_fraction": 0.5}}),
    st.just(
        {"type": "struct", "presence": ALWAYS, "fields": {"p": {"type": "int", "presence": ALWAYS, "range": [0, 3]}}}
    ),
)
SCHEMAS = st.lists(FEATURES, min_size=1, max_size=4).map(
    lambda found: Schema.from_dict({"feature": {f"f{place}": feature for place, feature in enumerate(found)}})
)


@settings(QUICK, max_examples=25)
@given(SCHEMAS, st.integers(0, 3))
def test_a_sample_of_a_schema_is_valid(schema: Schema, seed: int) -> None:
    rows = sample(schema, 12, seed=seed)
    assert len(rows) == 12
    assert validate(analyze(rows), schema).anomalies == []


def mutate(rows: list[dict[str, Any]], name: str, schema: Schema) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every way to break one promise about a feature in one row, with the anomaly it must give."""
    feature = schema.features[name]
    domain = feature.domain
    old = rows[0][name]
    ways: list[tuple[str, Any]] = []
    if feature.presence.min_fraction == 1.0:
        ways.append(("FEATURE_TYPE_LOW_FRACTION_PRESENT", None))
    scalar = not isinstance(old, list | dict | None)
    kind = "INT" if isinstance(domain, IntDomain) else "FLOAT"
    if scalar and isinstance(domain, IntDomain | FloatDomain) and domain.max is not None and domain.min is not None:
        form = str if feature.type == "string" else type(old)
        ways.append((f"{kind}_TYPE_BIG_{kind}", form(domain.max + 1)))
        ways.append((f"{kind}_TYPE_SMALL_{kind}", form(domain.min - 1)))
    if scalar and feature.type == "string" and domain is not None:
        wrong = {"StringDomain": "ENUM_TYPE_UNEXPECTED_STRING_VALUES", "BoolDomain": "BOOL_TYPE_UNEXPECTED_STRING"}
        ways.append((wrong.get(type(domain).__name__, "INT_TYPE_NOT_INT_STRING"), "no such word"))
    if scalar and feature.type == "int" and type(domain).__name__ == "BoolDomain":
        ways += [("BOOL_TYPE_BIG_INT", 2), ("BOOL_TYPE_SMALL_INT", -1)]
    if scalar and feature.type == "float":
        ways.append(("FLOAT_TYPE_HAS_NAN", math.nan))
    if isinstance(old, list) and feature.values is not None:
        ways.append(("FEATURE_TYPE_HIGH_NUMBER_VALUES", [*old[:1]] * (feature.values.max + 1)))
        ways.append(("FEATURE_TYPE_LOW_NUMBER_VALUES", old[: feature.values.min - 1]))
    if isinstance(old, list) and feature.shape is not None:
        ways.append(("INVALID_FEATURE_SHAPE", old[:-1]))
    broken = []
    for expected, value in ways:
        changed = copy.deepcopy(rows)
        changed[0][name] = value
        broken.append((expected, changed))
    return broken


@settings(QUICK, max_examples=40)
@given(st.data())
def test_one_mutation_gives_exactly_its_anomaly(data: Any) -> None:
    schema = data.draw(SCHEMAS)
    rows = data.draw(st.lists(examples(schema, complete=True), min_size=3, max_size=3))
    name = data.draw(st.sampled_from(list(schema.features)))
    for expected, changed in mutate(rows, name, schema):
        report = validate(analyze(changed), schema)
        assert [(a.feature, a.types) for a in report.anomalies] == [(name, (expected,))]
        assert validate(analyze(changed), update(schema, report)).anomalies == []


@settings(QUICK, max_examples=30)
@given(st.data())
def test_a_column_taken_out_or_put_in_is_named(data: Any) -> None:
    schema = data.draw(SCHEMAS)
    assume(len(schema.features) > 1)
    rows = data.draw(st.lists(examples(schema, complete=True), min_size=3, max_size=3))
    name = data.draw(st.sampled_from(list(schema.features)))
    less = [{key: value for key, value in row.items() if key != name} for row in rows]
    report = validate(analyze(less), schema)
    assert [(a.feature, a.types) for a in report.anomalies] == [(name, ("SCHEMA_MISSING_COLUMN",))]
    report = validate(analyze([{**row, "extra": 1} for row in rows]), schema)
    assert [(a.feature, a.types) for a in report.anomalies] == [("extra", ("SCHEMA_NEW_COLUMN",))]
