"""Accepting an anomaly edits the schema file where it stands: comments, order and layout stay."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.base.errors import DrivetrainError, MissingFile
from drivetrain.data import Edit, Schema, accept, analyze, infer, update, validate
from drivetrain.data.accept import edit_toml
from drivetrain.data.edits import apply_edits
from drivetrain.data.schema_toml import schema_from_toml

FILE = """# our schema
environments = ["TRAINING"]

[feature.company]   # owner: Ann
type = "string"
presence = {min_fraction = 1.0, min_count = 1}  # always
domain = [
    "a",  # the first
    "b",
]

# a short one
[feature.pay]
type = "string"
domain = ["x"]

[feature.fare]
type = "float"
range = [0.0, 1.0]
"""
DATA = {
    "company": ["a", "c", "d", None],
    "pay": ["y", "x", "x", "x"],
    "fare": [0.5, 2.0, 0.1, 0.2],
    "new": [5, 6, 7, 8],
}


@pytest.fixture
def files(tmp_path):
    """A schema file and the report of data that breaks it."""
    (tmp_path / "schema.toml").write_text(FILE)
    report = validate(analyze(DATA), Schema.load(tmp_path / "schema.toml"))
    report.save(tmp_path / "report.json")
    return tmp_path


def test_everything_accepted_keeps_the_layout(files):
    accept(files / "schema.toml", files / "report.json")
    text = (files / "schema.toml").read_text()
    assert (
        text
        == """# our schema
environments = ["TRAINING"]

[feature.company]   # owner: Ann
type = "string"
presence = {min_fraction = 0.75, min_count = 1} # always; accepted FEATURE_TYPE_LOW_FRACTION_PRESENT: \
missing in 1 of 4 (~25%)
domain = [
    "a",  # the first
    "b",
    "c",
    "d",
] # accepted ENUM_TYPE_UNEXPECTED_STRING_VALUES: unexpected values c (~33%), d (~33%)

# a short one
[feature.pay]
type = "string"
domain = ["x", "y"] # accepted ENUM_TYPE_UNEXPECTED_STRING_VALUES: unexpected values y (~25%)

[feature.fare]
type = "float"
range = [0.0, 2.0] # accepted FLOAT_TYPE_BIG_FLOAT: 2 (~25% of the values out of range)

[feature.new]
# accepted SCHEMA_NEW_COLUMN: a new column of type INT
type = "int"
presence = {min_fraction = 1.0, min_count = 1}
shape = [1]
"""
    )
    assert validate(analyze(DATA), Schema.load(files / "schema.toml")).anomalies == []


def test_one_accepted_leaves_the_rest(files):
    edits = accept(files / "schema.toml", files / "report.json", ["pay"])
    assert [str(edit) for edit in edits] == ['[feature.pay] domain += ["y"]']
    left = validate(analyze(DATA), Schema.load(files / "schema.toml"))
    assert {a.id for a in left.anomalies} == {"company", "fare", "new"}
    accept(files / "schema.toml", files / "report.json", ["pay"])  # twice is once
    assert Schema.load(files / "schema.toml").domain("pay").values == ["x", "y"]


def test_a_pbtxt_schema_is_edited_too(files):
    Schema.load(files / "schema.toml").save(files / "schema.pbtxt")
    accept(files / "schema.pbtxt", files / "report.json", ["pay"])
    assert Schema.load(files / "schema.pbtxt").domain("pay").values == ["x", "y"]


def test_an_edit_that_no_longer_fits_leaves_the_file_alone(files):
    changed = FILE.replace('domain = ["x"]', 'domain = "shared"')
    (files / "schema.toml").write_text(changed)
    with pytest.raises(DrivetrainError, match="not a list"):
        accept(files / "schema.toml", files / "report.json")
    assert (files / "schema.toml").read_text() == changed


def test_bad_input(files, tmp_path):
    with pytest.raises(DrivetrainError, match="did you mean 'pay'"):
        accept(files / "schema.toml", files / "report.json", ["pai"])
    with pytest.raises(MissingFile):
        accept(files / "schema.toml", files / "no.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(DrivetrainError, match="is no report"):
        accept(files / "schema.toml", tmp_path / "bad.json")


words = st.sampled_from(["a", "b", "c d", 'quote "', "é"])
columns = st.fixed_dictionaries(
    {},
    optional={
        "x": st.lists(words | st.none(), min_size=3, max_size=3),
        "y z": st.lists(st.floats(-5, 5) | st.none(), min_size=3, max_size=3),
        "s": st.lists(st.fixed_dictionaries({"p": words}, optional={"q": st.integers(0, 3)}), min_size=3, max_size=3),
        "l": st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=3, max_size=3),
    },
).filter(bool)


@settings(max_examples=60, deadline=None)
@given(columns, columns)
def test_editing_the_text_is_editing_the_schema(first, second):
    schema = infer(analyze(first), ranges=True)
    report = validate(analyze(second), schema)
    edits = [edit for anomaly in report.anomalies for edit in anomaly.edit]
    data = schema.to_dict()
    apply_edits(data, edits)
    edited = schema_from_toml(edit_toml(schema.to_toml(), [(edit, "reason") for edit in edits]))
    assert edited == Schema.from_dict(data)
    assert validate(analyze(second), edited).anomalies == []


def test_a_range_passed_at_both_ends_is_widened_to_both_though_one_is_zero():
    schema = infer(analyze({"x": [2, 2, 2]}), ranges=True)
    seen = analyze({"x": [0, 2, 3]})
    wider = update(schema, validate(seen, schema))
    assert (wider.domain("x").min, wider.domain("x").max) == (0, 3)
    assert validate(seen, wider).anomalies == []


def test_edits_read_like_the_file():
    assert (
        str(Edit("set", ("feature", "a b", "presence", "min_fraction"), 0.5))
        == '[feature."a b"] presence.min_fraction = 0.5'
    )
    assert str(Edit("add", ("domain", "c", "values"), ["x"])) == '[domain.c] values += ["x"]'
    assert str(Edit("remove", ("feature", "x", "range"))) == "[feature.x] remove range"
    assert str(Edit("set", ("dataset", "min_examples"), 3)) == "[dataset] min_examples = 3"
    back = Edit.from_json(Edit("set", ("feature", "x", "range"), [float("-inf"), 1]).to_json())
    assert back == Edit("set", ("feature", "x", "range"), [float("-inf"), 1])
