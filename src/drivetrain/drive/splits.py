"""The training and test splits: where they lie, how one file is cut into two, and how both become tensors.

A split is a file (any format of `drivetrain.data`) or a user's "module:attribute" that gives a torch Dataset of (x, y).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue
from drivetrain.base.files import atomic_path, sha256_bytes, sha256_file
from drivetrain.base.modules import explain_failure, fingerprint, is_spec
from drivetrain.base.seeds import numpy_generator

from .encode import fit_encoding
from .stage import Drive

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = "splits.json"


@dataclass(frozen=True)
class TensorSplits:
    """Both splits as tensors, and how they came to be.

    Attributes:
        train_x, test_x: [N, ...]; train_y, test_y: [N].
        shape: `in_features` and `num_classes` (1 for a regression), for models that ask for them.
        encoding: the table's encoding as plain values; empty for a user's own Dataset.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    shape: dict[str, int]
    encoding: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return {name: getattr(self, name) for name in ("train_x", "train_y", "test_x", "test_y")}


def read_table(source: str | Path) -> pa.Table:
    """A whole file, folder or glob as one Arrow table."""
    import pyarrow as pa

    from drivetrain.data.sources import open_source

    batches = [batch.table for batch in open_source(str(source)).batches()]
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    return pa.concat_tables(tables, promote_options="permissive")


def split_file(source: Path, work: Path, *, test_fraction: float, seed: int) -> None:
    """Cut one file into `work/train.parquet` and `work/test.parquet`, rows chosen by the seed, each in file order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = read_table(source)
    cut = round(len(table) * test_fraction)
    if not 0 < cut < len(table):
        raise InvalidValue(f"data: {source} has {len(table)} rows, too few to set aside {test_fraction:.0%} of them")
    order = numpy_generator(seed, "split").permutation(len(table))
    for name, rows in (("test", order[:cut]), ("train", order[cut:])):
        with atomic_path(work / f"{name}.parquet") as beside:
            pq.write_table(table.take(pa.array(sorted(rows.tolist()))), beside)


def open_split(value: str, drive: Drive, *key: str) -> Any:
    """What `analyze` takes for a split: the path of its file, or the user's Dataset."""
    if not is_spec(value):
        return str(drive.path(value))
    found = drive.load(value, *key)
    if isinstance(found, torch.utils.data.Dataset):
        return found
    try:
        return found()
    except Exception as error:
        raise InvalidValue(f"data: {value} failed", hint=explain_failure(error), where=drive.locate(*key)) from error


def fingerprint_of_test(drive: Drive) -> str:
    """What names the test split for good: the hash of its file, or of the user's module and its labels."""
    folder = drive.artifacts("data")
    places = json.loads((folder / SPLITS).read_text())
    if is_spec(places["test"]):
        labels = sha256_file(drive.artifacts("train") / "labels.npy")
        return sha256_bytes(f"{fingerprint(places['test'], drive.folder)} {labels}".encode())
    return sha256_file(folder / places["test"] if places["inside"] else drive.path(places["test"]))


def read_tensors(drive: Drive, *, features: Sequence[str] | None, regression: bool) -> TensorSplits:
    """Both splits of the finished [data] stage as tensors.

    Raises:
        InvalidValue: a column without an encoding, labels outside the training classes, a Dataset of the wrong shape.
    """
    folder = drive.artifacts("data")
    places = json.loads((folder / SPLITS).read_text())
    if is_spec(places["train"]):
        train, test = (open_split(places[name], drive, "data", name) for name in ("train", "test"))
        return _from_datasets(train, test, regression)
    return _from_tables(drive, folder, places, features, regression)


def _from_tables(
    drive: Drive, folder: Path, places: dict[str, str], features: Sequence[str] | None, regression: bool
) -> TensorSplits:
    from drivetrain.data import Schema, Stats

    stats, schema = Stats.load(folder / "train-stats.json"), Schema.load(folder / "schema.toml")
    try:
        encoding = fit_encoding(stats, schema, label=places["label"], features=features, regression=regression)
    except DrivetrainError as error:
        raise InvalidValue(error.message, hint=error.hint, where=drive.locate("train", "features")) from None
    tables = {}
    for name in ("train", "test"):
        place = folder / places[name] if places["inside"] else drive.path(places[name])
        tables[name] = read_table(place)
    shape = {"in_features": encoding.width, "num_classes": len(encoding.classes) or 1}
    train, test = tables["train"], tables["test"]
    return TensorSplits(
        encoding.features(train), encoding.labels(train), encoding.features(test), encoding.labels(test),
        shape, encoding.to_dict(),
    )  # fmt: skip


def _from_datasets(train: Any, test: Any, regression: bool) -> TensorSplits:
    train_x, train_y = _stack(train, regression)
    test_x, test_y = _stack(test, regression)
    classes = 1 if regression else int(max(train_y.max(), test_y.max())) + 1
    shape = {"in_features": train_x[0].numel(), "num_classes": classes}
    return TensorSplits(train_x, train_y, test_x, test_y, shape, {})


def _stack(dataset: Any, regression: bool) -> tuple[Tensor, Tensor]:
    try:
        pairs = [dataset[index] for index in range(len(dataset))]
        x = torch.stack([torch.as_tensor(x) for x, _ in pairs])
        y = torch.tensor([y.item() if isinstance(y, Tensor) else y for _, y in pairs])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(
            f"train: {type(dataset).__name__} does not give pairs (x, y) of one shape", hint=explain_failure(error)
        ) from error
    return x.float() if x.dtype == torch.float64 else x, y.float() if regression else y.long()
