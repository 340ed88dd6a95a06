"""Validation as a whole: the specification's known answers, environments, order, merging, two batches, reports."""

from __future__ import annotations

import json
import math

import pytest

from drivetrain.base.errors import DrivetrainError
from drivetrain.data import (
    Comparator,
    DataAnomalies,
    Schema,
    StringDomain,
    analyze,
    domain_coverage,
    infer,
    update,
    validate,
)
from drivetrain.data.report import report_from_json, share_text


@pytest.fixture(scope="module")
def taxi(shared_data):
    """Rows 1 to 10,000 and the rest, as two tables of one reading."""
    import pyarrow.csv

    table = pyarrow.csv.read_csv(
        shared_data / "tables" / "taxi.csv",
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
    )
    return table.slice(0, 10_000), table.slice(10_000)


def test_taxi_gives_exactly_the_company_anomaly(taxi):
    first, rest = taxi
    schema = infer(analyze(first))
    assert len(schema.domain("payment_type").values) == 7
    assert len(schema.domain("company").values) == 56
    report = validate(analyze(rest), schema)
    assert [(a.feature, a.types) for a in report.anomalies] == [("company", ("ENUM_TYPE_UNEXPECTED_STRING_VALUES",))]
    company = report["company"]
    assert [value for value, _ in company.examples] == [
        "3897 - Ilie Malec",
        "5074 - Ahzmi Inc",
        "585 - Valley Cab Co",
        "5864 - Thomas Owusu",
        "5997 - AW Services Inc.",
    ]
    assert all(share_text(share) == "<1%" for _, share in company.examples)
    assert validate(analyze(rest), update(schema, report)).anomalies == []


def test_taxi_drift_is_what_tfdv_reports(taxi):
    first, rest = map(analyze, taxi)
    schema = infer(first)
    schema.feature("payment_type").drift = Comparator(linf=0.01, js=0.001)
    report = validate(rest, schema, previous=first)
    measured = next(m for m in report.drift if m.feature == "payment_type")
    assert measured.distances["linf"] == pytest.approx(0.039822031187524976, abs=1e-15)
    assert measured.distances["js"] == pytest.approx(0.0016966782337781967, abs=1e-14)
    assert measured.moved[0] == "Credit Card" and measured.passed == ("linf", "js")
    assert "below sampling noise (0.033 at alpha=0.01 for n=10,000, m=5,002, K=7)" in measured.notes[0]
    assert {"COMPARATOR_L_INFTY_HIGH", "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"} == set(report["payment_type"].types)
    miles = next(m for m in report.drift if m.feature == "trip_miles")
    assert miles.distances["ks"] == pytest.approx(0.076, abs=0.002)
    assert miles.distances["js"] < 0.03, "TFDV reports 0.763, because one trip of 1,710 miles stretches its buckets"


def test_taxi_with_five_faults_gives_five_anomalies(taxi):
    import pyarrow as pa
    import pyarrow.compute as pc

    first, rest = taxi
    cash = pc.if_else(pc.equal(rest["payment_type"], "Cash"), "cash", rest["payment_type"])
    broken = rest.set_column(rest.column_names.index("payment_type"), "payment_type", cash)
    miles = pc.binary_join_element_wise(rest["trip_miles"].cast(pa.string()), "mi", " ")
    broken = broken.set_column(rest.column_names.index("trip_miles"), "trip_miles", miles)
    broken = broken.drop_columns(["fare"]).append_column("surge", pa.array([1.5] * len(rest)))
    report = validate(analyze(broken), infer(analyze(first)))
    found = {a.feature: a.type for a in report.anomalies}
    assert found == {
        "payment_type": "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        "trip_miles": "UNEXPECTED_DATA_TYPE",
        "fare": "SCHEMA_MISSING_COLUMN",
        "surge": "SCHEMA_NEW_COLUMN",
        "company": "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
    }
    assert "cash (~68%)" in report["payment_type"].description
    assert "FLOAT" in report["trip_miles"].expected and "STRING" in report["trip_miles"].seen
    assert report.anomalies[-1].feature == "company", "the least share comes last"


def test_penguins_one_cell_is_a_range_finding_and_no_skew(shared_data):
    labelled, skewed = (analyze(shared_data / "tables" / f"penguins-{name}.csv") for name in ("labelled", "skewed"))
    schema = infer(labelled, previous=labelled, ranges=True)
    for feature in schema.features.values():
        feature.skew, feature.drift = feature.drift, None
    report = validate(skewed, schema, serving=labelled)
    assert [(a.feature, a.types) for a in report.anomalies] == [("culmen_length_mm", ("FLOAT_TYPE_SMALL_FLOAT",))]
    assert "-1" in report.anomalies[0].seen


def test_environments():
    schema = Schema.from_dict(
        {
            "environments": ["TRAINING", "SERVING"],
            "feature": {
                "x": {"type": "int", "presence": {"min_fraction": 1.0}},
                "label": {"type": "int", "presence": {"min_fraction": 1.0}, "not_in": ["SERVING"]},
                "trace": {
                    "type": "int",
                    "presence": {"min_count": 1},
                    "in": ["DEBUG"],
                    "not_in": ["TRAINING", "SERVING"],
                },
            },
        }
    )
    served = analyze({"x": [1]})
    assert validate(served, schema, environment="SERVING").ok
    assert validate(served, schema, environment="TRAINING")["label"].type == "SCHEMA_MISSING_COLUMN"
    assert {a.feature for a in validate(served, schema).anomalies} == {"label", "trace"}
    missing = analyze({"x": [1, 2], "label": [None, 3]})
    assert validate(missing, schema, environment="SERVING").ok, "presence isn't promised here, values are"
    wrong = analyze({"x": [1], "label": ["a"]})
    assert validate(wrong, schema, environment="SERVING")["label"].type == "UNEXPECTED_DATA_TYPE"
    with pytest.raises(DrivetrainError, match="did you mean 'SERVING'"):
        validate(served, schema, environment="SERVNG")


@pytest.mark.parametrize("stage", ["PLANNED", "ALPHA", "DEBUG_ONLY", "DEPRECATED", "DISABLED"])
def test_features_at_these_stages_are_not_validated(stage):
    schema = Schema.from_dict({"feature": {"x": {"type": "int", "presence": {"min_count": 1}, "stage": stage}}})
    assert validate(analyze({"y": [1]}), schema).anomalies[0].feature == "y"
    assert validate(analyze({"x": ["wrong"]}), schema).anomalies == []


@pytest.mark.parametrize("stage", ["BETA", "PRODUCTION"])
def test_features_at_these_stages_are(stage):
    schema = Schema.from_dict({"feature": {"x": {"type": "int", "presence": {"min_count": 1}, "stage": stage}}})
    assert validate(analyze({"x": ["wrong"]}), schema)["x"].type == "UNEXPECTED_DATA_TYPE"


def test_one_anomaly_per_feature_most_severe_then_widest_first():
    schema = Schema.from_dict(
        {
            "feature": {
                "few": {"type": "string", "domain": ["a"]},
                "many": {"type": "string", "domain": ["z"], "presence": {"min_fraction": 1.0}},
                "soft": {"type": "string", "domain": ["z"], "severity": "warning"},
            }
        }
    )
    columns = {"few": ["a", "a", "a", "b"], "many": ["x", "x", None, "y"], "soft": ["q"] * 4}
    report = validate(analyze(columns), schema)
    assert [a.feature for a in report.anomalies] == ["many", "few", "soft"]
    assert report["many"].types == ("FEATURE_TYPE_LOW_FRACTION_PRESENT", "ENUM_TYPE_UNEXPECTED_STRING_VALUES")
    assert report["soft"].severity == "WARNING" and not report.ok
    assert validate(
        analyze({"soft": ["q"]}), Schema.from_dict({"feature": {"soft": schema.to_dict()["feature"]["soft"]}})
    ).ok


def test_min_domain_mass_lets_a_share_pass():
    schema = Schema.from_dict({"feature": {"x": {"type": "string", "domain": ["a"], "min_domain_mass": 0.75}}})
    assert validate(analyze({"x": ["a", "a", "a", "b"]}), schema).ok
    report = validate(analyze({"x": ["a", "a", "b", "c"]}), schema)
    assert report["x"].share == 0.5 and report["x"].count == 2


def test_an_integer_passes_for_a_float_but_not_the_other_way():
    floats = Schema.from_dict({"feature": {"x": {"type": "float", "range": [0.0, 2.0]}}})
    assert validate(analyze({"x": [0, 1]}), floats).ok
    assert validate(analyze({"x": [3]}), floats)["x"].type == "FLOAT_TYPE_BIG_FLOAT"
    whole = Schema.from_dict({"feature": {"x": {"type": "int"}}})
    assert validate(analyze({"x": [0.5]}), whole)["x"].type == "UNEXPECTED_DATA_TYPE"


def test_one_missing_of_very_many_is_not_hidden_by_rounding():
    n = 200_001
    schema = Schema.from_dict({"feature": {"x": {"type": "int", "presence": {"min_fraction": 1.0}}}})
    stats = analyze({"x": [1] * (n - 1) + [None]})
    report = validate(stats, schema)
    assert report["x"].count == 1 and report["x"].edit[0].value == 0.9999
    assert validate(stats, update(schema, report)).ok


def test_many_new_strings_lower_the_mass_in_place_of_a_long_list():
    schema = Schema.from_dict({"feature": {"x": {"type": "string", "domain": ["a"]}}})
    stats = analyze({"x": ["a"] * 200 + [f"id {i}" for i in range(200)]})
    report = validate(stats, schema)
    assert [str(edit) for edit in report["x"].edit] == ["[feature.x] min_domain_mass = 0.5"]
    assert validate(stats, update(schema, report)).ok


def test_a_shared_list_is_edited_where_it_stands():
    schema = Schema.from_dict(
        {
            "domain": {"c": {"values": ["a"]}},
            "feature": {"x": {"type": "string", "domain": "c"}, "y": {"type": "string", "domain": "c"}},
        }
    )
    stats = analyze({"x": ["a", "b"], "y": ["a", "d"]})
    updated = update(schema, validate(stats, schema))
    assert updated.domains["c"] == StringDomain(["a", "b", "d"])
    assert validate(stats, updated).ok


def test_update_accepts_some_and_refuses_unknown_ids():
    schema = Schema.from_dict({"feature": {"x": {"type": "int"}, "y": {"type": "int"}}})
    report = validate(analyze({"x": ["a"], "y": ["b"]}), schema)
    updated = update(schema, report, accept=["x"])
    assert (updated.feature("x").type, updated.feature("y").type) == ("string", "int")
    with pytest.raises(DrivetrainError, match="'z' is unknown"):
        update(schema, report, accept=["z"])


def test_structs_are_checked_inside():
    rows = [{"trip": {"km": 1.5, "from": "a"}}, {"trip": {"km": 2.0, "from": "b"}}, {"trip": None}]
    schema = infer(analyze(rows))
    assert schema.feature("trip.from").domain == StringDomain(["a", "b"])
    worse = [{"trip": {"km": 1.0, "from": "c", "to": "x"}}, {"trip": {"km": None, "from": "a", "to": "y"}}]
    report = validate(analyze(worse), schema)
    assert {a.feature: a.type for a in report.anomalies} == {
        "trip.km": "FEATURE_TYPE_LOW_FRACTION_PRESENT",
        "trip.from": "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        "trip.to": "SCHEMA_NEW_COLUMN",
    }
    updated = update(schema, report)
    assert validate(analyze(worse), updated).anomalies == []
    assert updated.feature("trip.to").type == "string"


def test_a_missing_struct_is_one_anomaly_not_one_for_every_field():
    schema = infer(analyze([{"trip": {"km": 1.5, "from": "a"}, "x": 1}]))
    report = validate(analyze([{"x": 1}]), schema)
    assert [(a.feature, a.types) for a in report.anomalies] == [("trip", ("SCHEMA_MISSING_COLUMN",))]
    report = validate(analyze([{"x": 1, "trip": "km 1.5"}]), schema)
    assert [(a.feature, a.types) for a in report.anomalies] == [("trip", ("UNEXPECTED_DATA_TYPE",))]


def test_three_pairs_of_batches_have_comparators_of_their_own():
    schema = Schema.from_dict(
        {"feature": {"x": {"type": "string", "drift": {"linf": 0.1}, "skew": {"linf": 0.6}, "scored": {"linf": 0.2}}}}
    )
    now, other = analyze({"x": ["a", "b"] * 50}), analyze({"x": ["a"] * 100})
    for argument, kind, high in (("previous", "drift", True), ("serving", "skew", False), ("scored", "scored", True)):
        report = validate(now, schema, **{argument: other})
        assert [m.kind for m in report.drift] == [kind]
        assert report.drift[0].exceeded == high == (not report.ok)
        assert report.drift[0].distances["linf"] == 0.5
    assert validate(now, schema).ok, "no other batch, no alarm"
    schema.feature("x").drift = None
    report = validate(now, schema, previous=other)
    assert report.ok and report.drift[0].distances["linf"] == 0.5, "no threshold: measured, but no alarm"


def test_proposed_thresholds_are_three_times_the_noise():
    stats = analyze({"x": ["a", "b"] * 500})
    drift = infer(stats, previous=stats).feature("x").drift
    floor = math.sqrt(math.log(2 * 2 / 0.01) * 2000 / (2 * 1000 * 1000))
    assert drift.linf == pytest.approx(3 * floor, abs=1e-4)


def test_good_turing_coverage():
    seen = analyze({"x": ["a"] * 6 + ["b"] * 2 + ["c", "d"]}).features["x"]
    coverage = domain_coverage(seen)
    assert (coverage.distinct, coverage.singletons, coverage.unseen) == (4, 2, 0.2)
    comment = infer(analyze({"x": ["a"] * 9_999 + ["b"]})).feature("x").comment
    assert "1 of 2 values were seen once" in comment and "min_domain_mass = 0.9995" in comment


def test_similar_lists_share_a_name_if_asked():
    many = [f"v{i}" for i in range(12)]
    stats = analyze({"x": many, "y": [*many[:10], "p", "q"], "z": ["a"] * 12})
    schema = infer(stats, share_domains=True)
    assert schema.domain("x") is schema.domain("y") and len(schema.domain("x").values) == 14
    assert validate(stats, schema).ok and infer(stats).domains == {}


@pytest.mark.parametrize(
    ("values", "domain"),
    [
        (["true", "false"], {"bool": {"true": "true", "false": "false"}}),
        (["0 ", "1 "], {"parse": "int"}),
        (["TRUE"], {"bool": {"true": "TRUE", "false": "FALSE"}}),
        (["", "true"], {"domain": ["", "true"]}),
        (["true", "0"], {"domain": ["0", "true"]}),
        (["1", "22"], {"parse": "int"}),
        (["1", "x"], {"domain": ["1", "x"]}),
        ([f"v{i}" for i in range(100)], {"domain": sorted(f"v{i}" for i in range(100))}),
        ([f"v{i}" for i in range(101)], {}),
        ([0, 1], {"bool": True}),
        ([0, 2], {}),
        ([True, True], {"bool": True}),
        ([1.0, 0.0], {}),
    ],
)
def test_inferred_domains(values, domain):
    feature = infer(analyze({"x": values})).to_dict()["feature"]["x"]
    found = {key: feature[key] for key in ("bool", "parse", "domain", "range") if key in feature}
    assert found == domain


def test_inferred_presence_and_valency():
    rows = {"all": [1, 2], "some": [1, None], "none": [None, None], "pair": [[1, 2], [3, 4]], "list": [[1], [2, 3]]}
    features = infer(analyze(rows)).features
    assert (features["all"].presence.min_fraction, features["all"].presence.min_count) == (1.0, 1)
    assert (features["some"].presence.min_fraction, features["some"].presence.min_count) == (None, 1)
    assert (features["none"].presence.min_count, features["none"].type) == (0, None)
    assert features["all"].shape == [1] and features["some"].values.max == 1
    assert features["pair"].shape == [2] and (features["list"].values.min, features["list"].values.max) == (1, None)


def test_a_report_goes_to_json_and_back_and_raises(tmp_path):
    schema = Schema.from_dict(
        {"feature": {"x": {"type": "float", "range": [0.0, 1.0], "drift": {"ks": 0.1}}, "y": {"type": "int"}}}
    )
    stats = analyze({"x": [0.5, math.inf, 7.0], "y": ["a", "b", "c"]})
    report = validate(stats, schema, previous=analyze({"x": [0.5, 0.6], "y": [1, 2]}))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(data["anomalies"][0]) >= {
        *("id", "feature", "type", "severity", "expected", "seen", "count", "share", "examples", "description", "edit")
    }
    back = report_from_json(data)
    assert back.to_json() == report.to_json()
    assert update(schema, back) == update(schema, report)
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == data
    with pytest.raises(DataAnomalies, match="2 features break the schema"):
        report.raise_if_error()
    validate(analyze({"x": [0.5], "y": [1]}), schema).raise_if_error()


def test_the_html_page_is_self_contained_and_escapes(tmp_path):
    schema = Schema.from_dict({"feature": {"<b>x</b>": {"type": "string", "domain": ["a"], "drift": {"linf": 0.1}}}})
    stats = analyze({"<b>x</b>": ["<script>alert(1)</script>"] * 3})
    page = validate(stats, schema, previous=analyze({"<b>x</b>": ["a"]})).to_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == page
    assert "<script" not in page and "<b>x" not in page and "&lt;script&gt;" in page
    assert "http" not in page and "ENUM_TYPE_UNEXPECTED_STRING_VALUES" in page and "COMPARATOR_L_INFTY_HIGH" in page


def test_shares_are_written_as_the_on_call_person_reads_them():
    assert [share_text(share) for share in (0.0001, 0.0099, 0.01, 0.29, 0.686, 1.0)] == [
        *("<1%", "<1%", "~1%", "~29%", "~68%", "~100%")
    ]
