"""Feature skew: the join, the counts, the samples, and input that can't be joined."""

from __future__ import annotations

import pytest

from drivetrain.base.errors import DrivetrainError, MissingFile
from drivetrain.data import feature_skew

TRAIN = {"id": [1, 2, 3, 4, 5], "fare": [1.0, 2.0, 3.0, None, 5.0], "city": ["a", "b", "c", "d", None]}
SERVING = {"id": [5, 4, 3, 2, 9], "fare": [5.0, 4.0, None, 2.5, 9.0], "city": [None, "d", "x", "b", "z"]}


def test_counts_by_feature():
    report = feature_skew(TRAIN, SERVING, on="id")
    assert (report.joined, report.unmatched_train, report.unmatched_serving) == (4, 1, 1)
    fare = report.features["fare"]
    assert (fare.match_count, fare.mismatch_count, fare.base_only, fare.test_only) == (1, 1, 1, 1)
    assert (fare.baseline_count, fare.test_count, fare.diff_count) == (3, 3, 3)
    assert fare.samples == ((2, 2.0, 2.5), (3, 3.0, None), (4, None, 4.0))
    city = report.features["city"]
    assert (city.match_count, city.mismatch_count, city.diff_count) == (3, 1, 1)  # missing on both sides is a match
    assert list(report.features) == ["fare", "city"] and not report.ok


def test_equal_logs_are_ok_in_any_order():
    shuffled = {name: values[::-1] for name, values in TRAIN.items()}
    report = feature_skew(TRAIN, shuffled)
    assert report.ok and report.joined == 5


def test_floats_within_the_relative_tolerance_match():
    a, b = {"id": [1, 2], "x": [100.0, -1.0]}, {"id": [1, 2], "x": [100.5, -1.1]}
    assert feature_skew(a, b).features["x"].mismatch_count == 2
    assert feature_skew(a, b, float_rtol=0.01).features["x"].mismatch_count == 1
    assert feature_skew(a, b, float_rtol=0.2).ok


def test_nan_equals_nan_also_with_a_tolerance():
    a = {"id": [1], "x": [float("nan")]}
    assert feature_skew(a, a).ok
    assert feature_skew(a, a, float_rtol=0.1).ok


def test_ids_of_several_features_and_repeated_ids():
    a = {"day": [1, 1, 2, 2, None], "user": ["u", "v", "u", "u", "u"], "x": [1, 2, 3, 4, 5]}
    b = {"day": [1, 1, 2], "user": ["v", "u", "u"], "x": [2, 7, 3]}
    report = feature_skew(a, b, on=["day", "user"])
    assert report.joined == 2
    assert report.repeated_train == 2 and report.repeated_serving == 0
    assert report.unmatched_train == 1 and report.unmatched_serving == 1
    assert report.features["x"].samples == (((1, "u"), 1, 7),)


def test_columns_of_one_side_are_told_and_ignored_ones_left_out():
    report = feature_skew({**TRAIN, "old": [1] * 5}, {**SERVING, "new": [1] * 5}, ignore=["city"])
    assert report.only_train == ("old",) and report.only_serving == ("new",)
    assert list(report.features) == ["fare"]


def test_numbers_of_different_width_match_and_text_is_compared_as_text():
    report = feature_skew({"id": [1, 2], "x": [1, 2]}, {"id": [1, 2], "x": [1.0, 2.5]})
    assert report.features["x"].mismatch_count == 1
    report = feature_skew({"id": [1, 2], "x": [1, 2]}, {"id": [1, 2], "x": ["1", "two"]})
    assert report.features["x"].mismatch_count == 1


def test_files_are_read_and_names_may_hold_quotes(tmp_path):
    (tmp_path / "a's.csv").write_text('id,"say ""hi"""\n1,2\n')
    (tmp_path / "b.csv").write_text('id,"say ""hi"""\n1,3\n')
    report = feature_skew(tmp_path / "a's.csv", tmp_path / "b.csv")
    assert report.features['say "hi"'].samples == ((1, 2, 3),)


@pytest.mark.parametrize(
    ("train", "serving", "on", "words"),
    [
        (TRAIN, SERVING, "ids", "did you mean 'id'"),
        (TRAIN, SERVING, [], "at least one id"),
        ({"id": [1], "a": [1]}, {"id": [1], "b": [1]}, "id", "share no feature"),
        ("data.xlsx", SERVING, "id", "no file data.xlsx"),
    ],
)
def test_what_cannot_be_joined_is_told(train, serving, on, words):
    with pytest.raises(DrivetrainError, match=words):
        feature_skew(train, serving, on=on)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(MissingFile):
        feature_skew(tmp_path / "no.csv", SERVING)
