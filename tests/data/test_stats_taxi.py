"""The Chicago taxi sample: statistics known from TFDV and from DuckDB's exact queries."""

from __future__ import annotations

import pytest

from drivetrain.data import Stats, analyze


@pytest.fixture(scope="module")
def taxi(shared_data):
    return analyze(shared_data / "tables" / "taxi.csv")


def test_types_and_presence(taxi):
    assert taxi.num_examples == 15_002
    assert taxi.rejected.count == 0
    assert {f.type for f in taxi.features.values()} == {"int", "float", "string"}
    assert taxi.features["trip_miles"].type == "float"
    assert taxi.features["pickup_census_tract"].num_non_missing == 1
    assert taxi.features["payment_type"].text.unique == 7
    assert taxi.features["trip_miles"].numeric.max == 1_710


def test_every_column_agrees_with_duckdb(taxi, shared_data):
    duckdb = pytest.importorskip("duckdb")
    path = shared_data / "tables" / "taxi.csv"
    for name, feature in taxi.features.items():
        query = (
            f'SELECT count("{name}"), count(*) - count("{name}"), count(DISTINCT "{name}") FROM read_csv(\'{path}\')'
        )
        present, missing, unique = duckdb.sql(query).fetchall()[0]
        assert (feature.num_non_missing, feature.num_missing) == (present, missing), name
        if feature.text:
            assert feature.text.unique == unique, name
            continue
        facts = f'avg("{name}"), stddev_pop("{name}"), min("{name}"), max("{name}"), count(*) FILTER ("{name}" = 0)'
        mean, std, low, high, zeros = duckdb.sql(f"SELECT {facts} FROM read_csv('{path}')").fetchall()[0]
        numeric = feature.numeric
        assert (numeric.min, numeric.max, numeric.num_zeros) == (low, high, zeros), name
        assert numeric.mean == pytest.approx(mean, rel=1e-12), name
        assert numeric.std_dev == pytest.approx(std, rel=1e-9, abs=1e-6), name


def test_proto_round_trip(taxi):
    pytest.importorskip("tensorflow_metadata")
    again = Stats.from_proto(taxi.to_proto())
    assert list(again.features) == list(taxi.features)
    for name, feature in taxi.features.items():
        other = again.features[name]
        assert (other.type, other.num_missing, other.num_non_missing) == (
            feature.type,
            feature.num_missing,
            feature.num_non_missing,
        )
        if feature.text:
            assert other.text.counts == feature.text.counts
        else:
            assert other.numeric.mean == pytest.approx(feature.numeric.mean)
            assert other.numeric.num_zeros == feature.numeric.num_zeros
    proto = taxi.to_proto().datasets[0]
    (fare,) = [f for f in proto.features if list(f.path.step) == ["fare"]]
    assert len(fare.num_stats.histograms) == 2
    assert sum(b.sample_count for b in fare.num_stats.histograms[0].buckets) == pytest.approx(15_002)


def test_equal_width_buckets_count_every_value(taxi):
    miles = taxi.features["trip_miles"].numeric.standard_histogram
    assert len(miles.buckets) == 10
    # One trip of 1,710 miles stretches the buckets: all but a handful fall into the first.
    assert miles.buckets[0].sample_count > 14_900
    assert sum(b.sample_count for b in miles.buckets) == pytest.approx(15_002)
