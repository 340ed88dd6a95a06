"""Predicted classes of a model, and predictions from files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InvalidValue, MissingFile
from .testset import TestSet

if TYPE_CHECKING:
    from torch import nn


def predict(model: nn.Module, data: Any, *, batch_size: int = 256, device: Any = None) -> np.ndarray:
    """Predicted class of every item.

    Args:
        model: returns class scores [B, K], or one logit [B] or [B, 1] for two classes.
        data: a tensor or array [N, ...] of features, or a Dataset whose items are features or (features, label).
        batch_size: items per call.
        device: where to run; by default where the model is.

    Returns:
        int64 [N]. The model is left in the mode (train or eval) and on the device it was found.

    Raises:
        InvalidValue: scores that are NaN, or of another shape; names the first item.
    """
    import torch

    first = next(iter(model.parameters()), None)
    home = first.device if first is not None else torch.device("cpu")
    target = torch.device(device) if device is not None else home
    training = model.training
    model.eval().to(target)
    found = []
    try:
        with torch.inference_mode():
            for start, batch in _batches(data, batch_size):
                found.append(_classes(model(batch.to(target)), start, len(batch)))
    finally:
        model.train(training).to(home)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _batches(data: Any, batch_size: int) -> Any:
    import torch

    if isinstance(data, np.ndarray | torch.Tensor):
        whole = torch.as_tensor(data)
        for start in range(0, len(whole), batch_size):
            yield start, whole[start : start + batch_size]
        return
    start = 0
    for batch in torch.utils.data.DataLoader(data, batch_size=batch_size):
        features = batch[0] if isinstance(batch, list | tuple) else batch
        yield start, features
        start += len(features)


def _classes(scores: Any, start: int, items: int) -> np.ndarray:
    if scores.ndim not in (1, 2) or len(scores) != items:
        raise InvalidValue(f"ci: the model gives {tuple(scores.shape)} for {items} items", hint="class scores [B, K]")
    bad = scores.isnan().reshape(items, -1).any(1).nonzero()
    if len(bad):
        raise InvalidValue(f"ci: the model gives NaN for item {start + int(bad[0])}")
    binary = scores.ndim == 1 or scores.shape[1] == 1
    classes = (scores.reshape(-1) > 0).long() if binary else scores.argmax(1)
    result: np.ndarray = classes.cpu().numpy()
    return result


def read_predictions(path: str | Path, testset: TestSet | None = None) -> np.ndarray:
    """Predictions from .npy (in the order of the test set) or .csv with columns id, prediction.

    Raises:
        MissingFile; InvalidValue: an unknown, doubled or missing id, or no array.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"ci: there are no predictions {path}")
    if path.suffix == ".npy":
        try:
            loaded: np.ndarray = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise InvalidValue(f"ci: predictions {path}: {error}") from None
        return loaded
    if path.suffix != ".csv" or testset is None:
        raise InvalidValue(f"ci: predictions {path} are no .npy or .csv file")
    return _by_id(path, testset)


def _by_id(path: Path, testset: TestSet) -> np.ndarray:
    rows = testset.rows
    found: dict[int, float] = {}
    with open(path, newline="", encoding="utf-8") as source:
        reader = csv.DictReader(source)
        if not {"id", "prediction"} <= set(reader.fieldnames or ()):
            raise InvalidValue(
                f"ci: {path} has columns {', '.join(reader.fieldnames or ['none'])}", hint="id,prediction"
            )
        for line in reader:
            where = f"{path.name}, line {reader.line_num}"
            row = rows.get(line["id"])
            if row is None:
                raise InvalidValue(f"ci: id {line['id']!r} is not in the test set", where=where)
            if row in found:
                raise InvalidValue(f"ci: id {line['id']!r} stands there twice", where=where)
            try:
                found[row] = float(line["prediction"])
            except (TypeError, ValueError):
                raise InvalidValue(f"ci: prediction {line['prediction']!r} is no number", where=where) from None
    if len(found) < testset.pool_size:
        lacking = next(row for row in range(testset.pool_size) if row not in found)
        raise InvalidValue(
            f"ci: {path.name} has predictions for {len(found):,} of {testset.pool_size:,} items",
            hint=f"the first without one has id {testset.ids[lacking]!r}",
        )
    return np.array([found[row] for row in range(testset.pool_size)])
