"""The schema as a file: TOML as in the specification, tensorflow-metadata's text form, and files that can't be read."""

from __future__ import annotations

import math

import pytest

from drivetrain.base.errors import DrivetrainError, MissingFile
from drivetrain.data import (
    BoolDomain,
    Bounds,
    Comparator,
    FloatDomain,
    ImageDomain,
    IntDomain,
    Presence,
    Schema,
    SchemaError,
    SharedDomain,
    StringDomain,
    StructDomain,
    TextDomain,
    TimeDomain,
    TimeOfDayDomain,
    UrlDomain,
)
from drivetrain.data.schema_toml import schema_from_toml

SPEC = """environments = ["TRAINING", "SERVING"]
[feature.payment_type]
type = "string"
presence = {min_fraction = 1.0, min_count = 1}
values = {min = 1, max = 1}
domain = ["Cash", "Credit Card", "Prcard"]
min_domain_mass = 1.0
drift = {linf = 0.01}
[feature.tips]
type = "float"
range = [0.0, inf]
not_in = ["SERVING"]
"""

EVERYTHING = """
environments = ["TRAINING"]
tags = ["trips"]
comment = "all there is"
[dataset]
min_examples = 10
max_examples = 1000
ratio_to_previous = [0.5, 2.0]
[domain.cities]
values = ["a", "ü", "tab\\there", "quote \\" and \\\\"]
[domain.age]
type = "int"
range = [0, 120]
[domain.unit]
type = "float"
range = [0.0, 1.0]
allow_nan = false
[feature."odd name.with dots"]
type = "string"
domain = "cities"
min_domain_mass = 0.9
unique = {min = 1, max = 5}
statistics = {share = {a = [0.1, 0.2]}}
[feature.i]
type = "int"
shape = [2, 3]
range = [-inf, 5]
categorical = true
statistics = {mean = [0, 1], std = [0.0, 1.0], zeros = [0, 0.5], quantile = {"0.5" = [1, 2]}}
skew = {js = 0.1, source = "standard"}
drift = {linf = 0.1, nad = 0.2, ks = 0.3, w1 = 4.0}
scored = {linf = 0.2}
in = ["A"]
not_in = ["B"]
stage = "BETA"
severity = "warning"
tags = ["t"]
comment = "careful"
[feature.f]
type = "float"
nested_values = [{min = 1}, {min = 2, max = 3}]
range = [-inf, inf]
allow_inf = false
[feature.b]
type = "int"
bool = true
[feature.words]
type = "string"
bool = {true = "yes", false = "no"}
[feature.digits]
type = "string"
parse = "int"
range = [0, 9]
[feature.text]
type = "string"
text = {vocabulary = "cities", min_coverage = 0.5, min_avg_token_length = 2.0, excluded_tokens = ["[PAD]", 0], \
oov_tokens = ["[UNK]"], tokens = [{token = "a", min_per_sequence = 1, max_fraction = 0.5}], max_sequence_length = 9}
[feature.image]
type = "bytes"
image = {min_supported_fraction = 0.9, max_bytes = 1000}
[feature.url]
type = "string"
url = true
[feature.day]
type = "string"
time = "%Y-%m-%d"
[feature.stamp]
type = "int"
time = "unix_seconds"
[feature.clock]
type = "string"
time_of_day = "%H:%M"
[feature.trip]
type = "struct"
presence = {min_count = 1}
[feature.trip.fields.km]
type = "float"
required_in_group = true
[feature.trip.fields.stops]
type = "struct"
[feature.trip.fields.stops.fields.name]
type = "string"
[sparse.s]
index = ["i"]
value = "f"
stage = "ALPHA"
[weighted.w]
feature = "i"
weight = "f"
"""


def test_the_file_of_the_specification_is_read_as_it_says():
    schema = schema_from_toml(SPEC)
    assert schema.environments == ["TRAINING", "SERVING"]
    payment = schema.feature("payment_type")
    assert payment.presence == Presence(1.0, 1) and payment.values == Bounds(1, 1)
    assert schema.domain("payment_type") == StringDomain(["Cash", "Credit Card", "Prcard"])
    assert payment.drift == Comparator(linf=0.01)
    tips = schema.feature("tips")
    assert tips.domain == FloatDomain(0.0, None) and tips.not_in_environments == ["SERVING"]
    assert not tips.expected_in("SERVING", schema.environments) and tips.expected_in("TRAINING", schema.environments)


def test_every_key_is_read_into_its_place():
    schema = schema_from_toml(EVERYTHING)
    assert schema.feature("odd name.with dots").domain == SharedDomain("cities")
    assert schema.domain("odd name.with dots") is schema.domains["cities"]
    assert schema.domain("i") == IntDomain(None, 5, True)
    assert schema.domain("f") == FloatDomain(None, None, disallow_inf=True)
    assert schema.domain("b") == BoolDomain() and schema.domain("words") == BoolDomain("yes", "no")
    assert schema.domain("digits") == IntDomain(0, 9)
    assert isinstance(schema.domain("text"), TextDomain) and schema.domain("image") == ImageDomain(0.9, 1000)
    assert schema.domain("url") == UrlDomain() and schema.domain("day") == TimeDomain("%Y-%m-%d")
    assert schema.domain("stamp") == TimeDomain(unit="unix_seconds")
    assert schema.domain("clock") == TimeOfDayDomain("%H:%M")
    assert isinstance(schema.domain("trip"), StructDomain)
    assert schema.feature("trip.stops.name").type == "string"
    assert schema.feature("i").statistics.quantile == {0.5: (1, 2)}
    assert schema.dataset.ratio_to_previous == (0.5, 2.0)


@pytest.mark.parametrize("text", [SPEC, EVERYTHING])
def test_both_file_forms_lose_nothing(tmp_path, text):
    schema = schema_from_toml(text)
    for name in ("schema.toml", "schema.pbtxt"):
        schema.save(tmp_path / name)
        assert Schema.load(tmp_path / name) == schema
        assert schema.diff(Schema.load(tmp_path / name)) == []


def test_the_usage_of_the_specification():
    schema = schema_from_toml(SPEC)
    schema.feature("tips").presence.min_fraction = 0.5
    schema.domain("payment_type").values.append("Cheque")
    changes = [str(change) for change in schema_from_toml(SPEC).diff(schema)]
    assert changes == [
        "~ feature.payment_type.domain: ['Cash', 'Credit Card', 'Prcard'] -> "
        "['Cash', 'Credit Card', 'Prcard', 'Cheque']",
        "+ feature.tips.presence = {'min_fraction': 0.5}",
    ]


def test_a_schema_of_tfdv_is_read():
    text = """
    # inferred by TFDV
    feature {
      name: "payment_type"  type: BYTES
      presence { min_fraction: 1.0 min_count: 1 }
      shape { dim { size: 1 } }
      domain: "payment_type"
      drift_comparator { infinity_norm { threshold: 0.01 } }
    }
    feature { name: "trip_miles" type: FLOAT value_count < min: 1, max: 1 > float_domain { min: 0 max: inf }
      skew_comparator { jensen_shannon_divergence { threshold: 1e-2 source { type: STANDARD } } }
      lifecycle_stage: PRODUCTION deprecated: false not_in_environment: ["SERVING", 'TEST'] }
    string_domain { name: "payment_type" value: "Ca" "sh" value: "Cr\\303\\251dit" }
    default_environment: "TRAINING"
    """
    schema = Schema.from_pbtxt(text)
    assert schema.domain("payment_type").values == ["Cash", "Crédit"]
    assert schema.feature("payment_type").shape == [1]
    miles = schema.feature("trip_miles")
    assert (miles.values, miles.domain) == (Bounds(1, 1), FloatDomain(0.0, math.inf))
    assert (miles.skew.js, miles.skew.source) == (0.01, "standard")
    assert miles.not_in_environments == ["SERVING", "TEST"] and miles.stage == "PRODUCTION"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('feature {\n  name: "x"\n  tipe: INT\n}', 3, "did you mean 'type'"),
        ('feature {\n  name: "x"\n  mid_domain {}\n}', 3, "not implemented"),
        ('feature {\n  name: "x"', 2, "the file ends inside feature"),
        ("feature {\n\n  name: 3 }", 3, "a value of type string"),
        ('feature { name: "x" type: IN }', 1, "one of TYPE_UNKNOWN"),
        ('feature { name: "x" name: "y" }', 1, "set twice"),
        ('feature "x"', 1, "needs '{'"),
        ("\n  %%", 2, "can't read"),
        ("feature { presence { min_count: 1.5 } }", 1, "of type int"),
        ('feature { name: "\\377" }', 1, "not UTF-8"),
    ],
)
def test_a_pbtxt_that_cannot_be_kept_is_refused_with_its_line(text, line, words):
    with pytest.raises(SchemaError) as raised:
        Schema.from_pbtxt(text, where="my.pbtxt")
    assert raised.value.where == f"my.pbtxt, line {line}"
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[feature.x]\ntyp = 'int'", 2, "did you mean 'type'"),
        ("[feature.x]\ntype = 'itn'", 2, "one of int, float"),
        ("[feature.x]\ntype = 'int'\nrange = [1]", 3, "two numbers"),
        ("[feature.x]\ntype = 'int'\nrange = [0.5, 1]\nparse = 'int'", 3, "two whole numbers"),
        ("[feature.x]\ntype = 'string'\nrange = [0, 1]", 1, "parse"),
        ("[feature.x]\ntype = 'string'\ndomain = [1]", 3, "a list of strings"),
        ("[feature.x]\ntype = 'string'\ndomain = ['a']\nbool = true", 4, "left out"),
        ("[feature.x]\npresence = {min_count = 0.5}", 2, "a whole number"),
        ("[feature.x]\npresence = {min = 1}", 2, "allowed: min_count, min_fraction"),
        ("[feature.x]\nstage = 'OLD'", 2, "PLANNED"),
        ("[feature.x]\ntime = 'yesterday'", 2, "strptime"),
        ("[feature.x]\nstatistics = {quantile = {'2' = [0, 1]}}", 2, "between 0 and 1"),
        ("[sparse.x]\nvalue = 'y'", 1, "is missing"),
        ("[domain.x]\ntype = 'int'", 1, "a domain"),
        ("[features.x]\ntype = 'int'", 1, "did you mean 'feature'"),
        ("x = [", 1, "not TOML"),
    ],
)
def test_a_toml_that_cannot_be_meant_is_refused_with_its_line(tmp_path, text, line, words):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(SchemaError) as raised:
        Schema.load(path)
    assert words in str(raised.value)
    assert str(path) in raised.value.where
    if words != "not TOML":
        assert raised.value.where == f"{path}, line {line}"


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(MissingFile):
        Schema.load(tmp_path / "no.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SchemaError, match="UTF-8"):
        Schema.load(tmp_path / "b.toml")


def test_an_unknown_feature_or_domain_names_the_nearest():
    schema = schema_from_toml(SPEC)
    with pytest.raises(DrivetrainError, match="did you mean 'tips'"):
        schema.feature("tip")
    schema.feature("tips").domain = None
    with pytest.raises(DrivetrainError, match="has no domain"):
        schema.domain("tips")


def test_features_can_share_a_list():
    schema = schema_from_toml(
        '[feature.a]\ntype = "string"\ndomain = ["x"]\n[feature.b]\ntype = "string"\ndomain = ["y"]'
    )
    schema.share_domain("letters", "a", "b")
    assert schema.domain("a") is schema.domain("b") and schema.domain("letters").values == ["x", "y"]
    assert schema_from_toml(schema.to_toml()) == schema
