"""The model unit tester finds what training code assumes beyond its schema, shrinks it, and says what to do."""

from __future__ import annotations

import math

import pytest
import torch

from drivetrain.base.errors import DrivetrainError
from drivetrain.data import FloatDomain, Schema, collate_tensors, fuzz, sample
from drivetrain.data.strategies import LONG, examples

SCHEMA = {
    "feature": {
        "age": {"type": "int", "presence": {"min_fraction": 1.0}, "range": [0, 120]},
        "income": {"type": "float", "presence": {"min_fraction": 1.0}, "range": [0.0, 1e6], "allow_nan": False},
        "city": {"type": "string", "presence": {"min_fraction": 1.0}, "domain": ["a", "b", "c"]},
    }
}


def training_step():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(batch):
        x = torch.stack([batch["age"] / 120, torch.log(batch["income"])], 1)
        loss = model(x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, step


def test_a_logarithm_of_zero_is_found_shrunk_and_cured():
    schema = Schema.from_dict(SCHEMA)
    model, step = training_step()
    before = model.weight.clone()
    report = fuzz(schema, step)
    assert not report.ok and report.failure.example == {"age": 0, "income": 0.0, "city": "a"}
    assert report.failure.blamed == ("income",)
    assert "[feature.income] range" in report.failure.remedies[0] and "loss is" in report.failure.error
    assert torch.equal(model.weight, before), "the model is put back"
    schema.domain("income").min = 0.01
    assert fuzz(schema, step).ok


def test_weights_broken_by_one_batch_do_not_blame_the_next():
    """Without putting the state back, NaN weights would make every later batch fail, whatever is in it."""
    schema = Schema.from_dict(
        {"feature": {"x": {"type": "int", "presence": {"min_fraction": 1.0}, "range": [0, 1000]}}}
    )
    model = torch.nn.Linear(1, 1)

    def step(batch):
        with torch.no_grad():
            if (batch["x"] > 700).any():
                model.weight.fill_(math.nan)
        return model(batch["x"].float().unsqueeze(1)).sum()

    assert fuzz(schema, step, examples=400).failure.example == {"x": 701}


def test_a_crash_on_one_word_names_the_word():
    known = {"a": 0, "b": 1}
    report = fuzz(Schema.from_dict(SCHEMA), lambda batch: float(sum(known[city] for city in batch["city"])))
    assert report.failure.error == "KeyError: 'c'" and report.failure.example["city"] == "c"
    assert report.failure.blamed == ("city",) and "without 'c'" in report.failure.remedies[0]


def test_missing_values_are_tried_where_they_are_allowed():
    schema = Schema.from_dict({"feature": {"x": {"type": "float", "range": [0.0, 1.0], "allow_nan": False}}})
    report = fuzz(schema, lambda batch: batch["x"].sum())
    assert report.failure.example == {"x": None} and "min_fraction = 1.0" in report.failure.remedies[0]
    assert fuzz(schema, lambda batch: batch["x"][batch["x_present"]].sum()).ok


def test_nan_is_tried_unless_it_is_forbidden():
    schema = Schema.from_dict(
        {"feature": {"x": {"type": "float", "presence": {"min_fraction": 1.0}, "range": [0.0, 1.0]}}}
    )
    report = fuzz(schema, lambda batch: batch["x"].mean())
    assert math.isnan(report.failure.example["x"]) and "allow_nan = false" in report.failure.remedies[0]
    schema.feature("x").domain = FloatDomain(0.0, 1.0, disallow_nan=True)
    assert fuzz(schema, lambda batch: batch["x"].mean()).ok


def test_a_failure_that_needs_two_different_examples_keeps_the_batch():
    schema = Schema.from_dict({"feature": {"x": {"type": "int", "presence": {"min_fraction": 1.0}, "range": [0, 9]}}})
    report = fuzz(schema, lambda batch: 1.0 / float(len(batch["x"].unique()) == 1))
    assert report.failure.example is None
    assert sorted({row["x"] for row in report.failure.batch}) == [0, 1]


def test_the_same_seed_tries_the_same_examples():
    schema = Schema.from_dict(SCHEMA)
    runs = []
    for seed in (1, 1, 2):
        seen = []
        fuzz(schema, lambda rows, seen=seen: seen.extend(map(repr, rows)), collate=list, seed=seed, iterations=1)
        runs.append(seen)
    assert runs[0] == runs[1] != runs[2] and len(runs[0]) == 200


def test_the_corners_are_among_the_examples():
    schema = Schema.from_dict(
        {"feature": {"i": {"type": "int", "range": [3, 77]}, "f": {"type": "float"}, "s": {"type": "string"}}}
    )
    seen = {"i": set(), "f": set(), "s": set()}

    def step(rows):
        for row in rows:
            for name, value in row.items():
                seen[name].add(value)

    fuzz(schema, step, collate=list, examples=1500, iterations=1)
    assert {3, 77, None} <= seen["i"] and all(value is None or 3 <= value <= 77 for value in seen["i"])
    assert {0.0, 1.0, -1.0, math.inf, -math.inf} <= seen["f"] and any(value != value for value in seen["f"])
    assert {"", LONG} <= seen["s"] and any(ord(c) > 255 for value in seen["s"] if value for c in value)


def test_default_batches():
    schema = Schema.from_dict(
        {
            "feature": {
                "i": {"type": "int"},
                "m": {"type": "float", "shape": [2, 2]},
                "l": {"type": "int", "values": {"min": 0}},
                "s": {"type": "string"},
            }
        }
    )
    rows = [{"i": None, "m": [1.0, 2.0, 3.0, 4.0], "l": [1, 2], "s": "a"}, {"i": 7, "m": [5.0] * 4, "l": [], "s": None}]
    batch = collate_tensors(rows, schema)
    assert batch["i"].tolist() == [0, 7] and batch["i_present"].tolist() == [False, True]
    assert batch["m"].shape == (2, 2, 2) and "m_present" not in batch
    assert [item.tolist() for item in batch["l"]] == [[1, 2], []] and batch["s"] == ["a", None]


def test_a_sample_keeps_promised_counts():
    schema = Schema.from_dict({"feature": {"x": {"type": "int", "range": [0, 1], "presence": {"min_fraction": 0.7}}}})
    rows = sample(schema, 40, seed=3)
    assert len(rows) == 40 and sum(row["x"] is not None for row in rows) >= 28
    assert rows == sample(schema, 40, seed=3) != sample(schema, 40, seed=4)


def test_features_out_of_the_environment_or_not_checked_are_left_out():
    schema = Schema.from_dict(
        {
            "environments": ["A", "B"],
            "feature": {
                "x": {"type": "int", "not_in": ["B"]},
                "y": {"type": "int"},
                "z": {"type": "int", "stage": "PLANNED"},
            },
        }
    )
    assert set(examples(schema, "B", complete=True).wrapped_strategy.mapping) == {"y"}


@pytest.mark.parametrize("name", ["examples", "batch", "iterations"])
def test_bad_numbers_are_refused(name):
    with pytest.raises(DrivetrainError, match=f"{name} is 0"):
        fuzz(Schema.from_dict(SCHEMA), lambda batch: None, **{name: 0})
