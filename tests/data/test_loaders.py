"""Statistics straight from torch data sets and loaders."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from drivetrain import DrivetrainError
from drivetrain.data import Stats, analyze
from drivetrain.data.loaders import batch_of


class Rows(Dataset):
    def __len__(self):
        return 600

    def __getitem__(self, index):
        return {
            "image": torch.full((3, 4, 4), float(index)),
            "label": index % 3,
            "meta": {"name": "abc"[index % 3], "seen": index % 2 == 0},
            "tokens": [index, index + 1],
        }


class Stream(IterableDataset):
    def __iter__(self):
        return (torch.tensor([i, i + 1.0]) for i in range(500))


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def test_data_set_and_loader_agree():
    one, other = analyze(Rows()), analyze(DataLoader(Rows(), batch_size=37))
    for stats in (one, other):
        assert list(stats.features) == ["image", "label", "meta.name", "meta.seen", "tokens"]
        image = stats.features["image"]
        assert image.tensor.shapes == {(3, 4, 4): 600}
        assert image.tensor.dtypes == {"float32": 600}
        assert (image.type, image.common.min_num_values, image.numeric.num_values) == ("float", 48, 600 * 48)
        assert image.numeric.mean == pytest.approx(299.5)
        assert stats.features["meta.name"].text.counts == {"a": 200, "b": 200, "c": 200}
        assert stats.features["meta.seen"].logical == "bool"
        assert stats.features["tokens"].common.max_num_values == 2
        assert stats.features["tokens"].numeric.max == 600
    assert one.num_examples == other.num_examples == 600


def test_nan_and_infinity_inside_tensors():
    data = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])
    numeric = analyze(TensorDataset(data)).features["0"].numeric
    assert (numeric.num_nan, numeric.num_pos_inf, numeric.n) == (1, 1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.bool, torch.float64])
def test_every_dtype_is_read_and_remembered(dtype):
    feature = analyze(TensorDataset(torch.ones(5, 2).to(dtype))).features["0"]
    assert feature.tensor.dtypes == {str(dtype).removeprefix("torch."): 5}
    assert feature.numeric.min == feature.numeric.max == 1


def test_positions_fields_and_lone_tensors_name_the_features():
    assert list(analyze(TensorDataset(torch.ones(4, 2), torch.ones(4))).features) == ["0", "1"]
    assert list(analyze(DataLoader([Pair(torch.ones(2), torch.ones(1))] * 4)).features) == ["x", "y"]
    stream = analyze(Stream())
    assert list(stream.features) == ["0"]
    assert stream.features["0"].numeric.max == 500.0


def test_shapes_that_differ():
    class Sizes(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return {"x": torch.zeros(1 + index % 2, 3), "y": None if index == 4 else index}

    stats = analyze(Sizes())
    x = stats.features["x"]
    assert x.tensor.shapes == {(1, 3): 5, (2, 3): 5}
    assert (x.common.min_num_values, x.common.max_num_values) == (3, 6)
    assert stats.features["y"].num_missing == 1


def test_slices_columns_and_merge_work_as_for_files(tmp_path):
    stats = analyze(Rows(), slices=["label"], columns=["image", "label"])
    assert {name: part.num_examples for name, part in stats.slices.items()} == dict.fromkeys(
        ("label=0", "label=1", "label=2"), 200
    )
    (stats | stats).save(tmp_path / "s.json")
    again = Stats.load(tmp_path / "s.json")
    assert again.features["image"].tensor.shapes == {(3, 4, 4): 1200}


def test_bad_batches():
    with pytest.raises(DrivetrainError, match="'y' of a batch has no batch dimension"):
        batch_of({"x": torch.ones(3), "y": torch.tensor(1)})
    with pytest.raises(DrivetrainError, match="2 examples of 'y' and 3"):
        batch_of({"x": torch.ones(3), "y": torch.ones(2)})
    with pytest.raises(DrivetrainError, match="'y' of a batch is a object"):
        batch_of({"x": torch.ones(3), "y": object()})
