"""Slices and weights against the same numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from drivetrain import DrivetrainError
from drivetrain.data import analyze, slices
from drivetrain.data.slices import sql

ROWS = {
    "pay": ["cash", "card", "cash", None, "card", "cash"],
    "year": [2020, 2020, 2021, 2021, 2021, 2021],
    "fare": [1.0, 2.0, 3.0, 4.0, None, 6.0],
    "tags": [["a"], ["a", "b"], [], None, ["b", "b"], ["c"]],
    "weight": [1.0, 2.0, 3.0, 0.0, 5.0, 0.5],
}


def counts(spec, **options):
    return {name: part.num_examples for name, part in analyze(ROWS, slices=spec, **options).slices.items()}


def test_one_slice_for_each_value():
    assert counts("pay") == {"pay=cash": 3, "pay=card": 2}
    assert counts("year", batch_rows=2) == {"year=2020": 2, "year=2021": 4}


def test_conjunctions():
    assert counts("pay=cash & year=2021") == {"pay=cash & year=2021": 2}
    assert counts("pay=cash & year") == {"pay=cash & year=2020": 1, "pay=cash & year=2021": 2}
    assert counts("pay & year=2021") == {"pay=cash & year=2021": 2, "pay=card & year=2021": 1}


def test_an_example_is_in_the_slice_of_each_of_its_list_values():
    assert counts("tags") == {"tags=a": 2, "tags=b": 2, "tags=c": 1}


def test_sql_slices_and_their_names():
    assert counts(["sql: fare > 2 AND year = 2021", sql("pay IS NULL", name="unpaid")]) == {
        "fare > 2 AND year = 2021": 3,
        "unpaid": 1,
    }
    with pytest.raises(DrivetrainError, match="fair"):
        analyze(ROWS, slices=["sql: fair > 2"])


def test_slices_have_all_statistics_and_merge():
    whole = analyze(ROWS, slices=["pay"])
    assert whole.slices["pay=cash"].features["fare"].numeric.mean == pytest.approx(10 / 3)
    halves = [{name: values[start::2] for name, values in ROWS.items()} for start in (0, 1)]
    merged = analyze(halves[0], slices=["pay"]) | analyze(halves[1], slices=["pay"])
    assert {name: part.num_examples for name, part in merged.slices.items()} == {"pay=cash": 3, "pay=card": 2}
    assert merged.slices["pay=cash"].features["fare"].numeric.mean == pytest.approx(10 / 3)


def test_slices_see_columns_that_are_not_shown(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("pay,fare\ncash,1\ncard,2\ncash,3\n")
    stats = analyze(path, slices=["pay"], columns=["fare"])
    assert list(stats.features) == ["fare"]
    assert stats.slices["pay=cash"].num_examples == 2


def test_a_slice_by_an_identifier_is_refused(monkeypatch):
    monkeypatch.setattr(slices, "MOST", 10)
    with pytest.raises(DrivetrainError, match="more than 10 slices"):
        analyze({"id": list(range(20))}, slices=["id"])


def test_weights():
    stats = analyze(ROWS, weight="weight")
    fare, common = stats.features["fare"].numeric, stats.features["fare"].common
    values, weights = np.array([1, 2, 3, 4, 6.0]), np.array([1, 2, 3, 0, 0.5])
    mean = (values * weights).sum() / weights.sum()
    assert stats.weighted_num_examples == 11.5
    assert fare.weighted.mean == pytest.approx(mean)
    assert fare.weighted.std_dev == pytest.approx(np.sqrt((weights * (values - mean) ** 2).sum() / weights.sum()))
    assert (common.weighted_num_non_missing, common.weighted_num_missing) == (6.5, 5.0)
    assert stats.features["pay"].text.weighted_top_values == [("card", 7.0), ("cash", 4.5)]
    assert fare.mean == pytest.approx(3.2), "the plain statistics stay plain"
    assert stats.features["tags"].common.weighted_tot_num_values == 1 + 2 * 2 + 2 * 5 + 0.5


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_weights_name_the_row(bad):
    with pytest.raises(DrivetrainError, match="row 1: weight"):
        analyze({"x": [1, 2], "w": [1.0, bad]}, weight="w")
