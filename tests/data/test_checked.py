"""Loaders that check their batches."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from drivetrain.base.errors import DrivetrainError
from drivetrain.data import BadBatch, Schema, analyze, checked, infer, validate
from drivetrain.data.checked import selected

SCHEMA = Schema.from_dict(
    {
        "feature": {
            "0": {
                "type": "float",
                "shape": [2],
                "range": [0.0, 1.0],
                "allow_nan": False,
                "presence": {"min_fraction": 1.0},
            },
            "1": {"type": "int", "range": [0, 9]},
        }
    }
)


def loader(bad: dict[int, float]) -> DataLoader:
    x = torch.full((12, 2), 0.5)
    for row, value in bad.items():
        x[row, 1] = value
    return DataLoader(TensorDataset(x, torch.arange(12) % 10), batch_size=4)


def test_good_batches_pass_unchanged_and_add_up():
    inside = loader({})
    outside = checked(inside, SCHEMA)
    for ours, theirs in zip(outside, inside, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len(outside) == len(inside) == 3 and outside.batch_size == 4
    assert outside.stats.num_examples == 12 and outside.report().ok
    whole = analyze(inside)
    assert outside.stats.features["0"].numeric.mean == whole.features["0"].numeric.mean


def test_raise_names_batch_row_and_value():
    seen = []
    with pytest.raises(BadBatch, match="batch 1 breaks the schema") as raised:
        for batch in checked(loader({6: 7.0}), SCHEMA):
            seen.append(batch)
    assert len(seen) == 1 and raised.value.batch == 1
    assert "row 2 of the batch: 0 is" in str(raised.value) and raised.value.offenders[0].row == 2
    assert "FLOAT_TYPE_BIG_FLOAT" in raised.value.report.anomalies[0].types


def test_warn_passes_everything_on():
    outside = checked(loader({6: float("nan")}), SCHEMA, on_error="warn")
    with pytest.warns(UserWarning, match="batch 1 breaks"):
        batches = list(outside)
    assert len(batches) == 3 and outside.bad_batches == 1 and outside.stats.num_examples == 12


def test_quarantine_takes_the_bad_rows_out():
    outside = checked(loader({6: 7.0, 8: -1.0, 9: 2.0, 10: 2.0, 11: 2.0}), SCHEMA, on_error="quarantine")
    batches = list(outside)
    assert [len(batch[0]) for batch in batches] == [4, 3]
    assert outside.dropped == 5 and outside.bad_batches == 2 and outside.stats.num_examples == 7
    assert [item[:4] for item in outside.quarantined][:2] == [
        (1, 2, "0", "FLOAT_TYPE_BIG_FLOAT"),
        (2, 0, "0", "FLOAT_TYPE_SMALL_FLOAT"),
    ]
    assert outside.report().ok


def test_a_batch_that_is_bad_as_a_whole_is_left_out():
    wrong = [{"x": torch.zeros(2, 3)}, {"x": torch.zeros(2, 2)}]
    schema = Schema.from_dict({"feature": {"x": {"type": "float", "shape": [2]}}})
    outside = checked(wrong, schema, on_error="quarantine")
    assert [batch["x"].shape for batch in outside] == [(2, 2)] and outside.dropped == 2


def test_promises_about_the_whole_wait_for_the_end():
    """Half the batches may lack what the whole must have: no false alarm on a batch."""
    batches = [{"c": ["a", "a"]}, {"c": ["b", "b"]}]
    schema = infer(analyze({"c": ["a", "a", "b", "b"]}))
    schema.feature("c").min_domain_mass = 0.9
    schema.dataset.min_examples = 4
    outside = checked([*batches, {"c": ["z", "a"]}], schema)
    assert len(list(outside)) == 3
    assert outside.report()["c"].type == "ENUM_TYPE_UNEXPECTED_STRING_VALUES"


def test_statistics_serve_for_drift_later():
    first, second = checked(loader({}), SCHEMA), checked(loader({0: 0.9, 1: 0.9}), SCHEMA)
    list(first), list(second)
    report = validate(second.stats, SCHEMA, previous=first.stats)
    assert {m.feature for m in report.drift} == {"0", "1"}


def test_selecting_rows_keeps_the_form_of_a_batch():
    keep = [0, 2]
    x = torch.arange(3)
    batch = {"t": x, "words": ["a", "b", "c"], "pair": (x, [x, x])}
    left = selected(batch, keep)
    assert left["t"].tolist() == [0, 2] and left["words"] == ["a", "c"]
    assert left["pair"][1][0].tolist() == [0, 2] and isinstance(left["pair"], tuple)


def test_an_unknown_mode_is_refused():
    with pytest.raises(DrivetrainError, match="did you mean 'quarantine'"):
        checked([], SCHEMA, on_error="quarantin")


def test_a_checked_loader_can_be_pickled_before_use():
    assert len(pickle.loads(pickle.dumps(checked(loader({}), SCHEMA)))) == 3
