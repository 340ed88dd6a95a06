"""Torch data sets and loaders as Arrow batches: a tensor of an example is a list of values that remembers its shape.

Features are named by the keys of a dict, the fields of a named tuple, or the position in a tuple ("0", "1"; a lone
tensor is "0"); keys of nested dicts are joined by dots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..base.errors import InvalidValue
from .batch import Batch
from .examples import column_of
from .presence import TensorStats
from .stats import Rejected

GATHERED = 256  # examples of a data set that are looked at together


class LoaderReader:
    """Batches of a torch Dataset or DataLoader.

    Args:
        source: a map-style or iterable data set, or a loader.
        columns: the features to look at; None for all.
    """

    def __init__(self, source: Dataset[Any] | DataLoader[Any], *, columns: list[str] | None = None) -> None:
        self._source, self.columns = source, columns
        self.rejected = Rejected()
        self.notes: dict[str, list[str]] = {}

    def batches(self) -> Iterator[Batch]:
        """All examples, in the order in which they come."""
        row = 0
        made = (
            (batch_of(batch) for batch in self._source)
            if isinstance(self._source, DataLoader) and self._source.batch_sampler is not None
            else (batch_of_examples(chunk) for chunk in _chunks(self._source))
        )
        for batch in made:
            if self.columns is not None:
                batch.table = batch.table.select([n for n in self.columns if n in batch.table.schema.names])
            batch.first_row = row
            yield batch
            row += batch.table.num_rows


def batch_of(batch: Any) -> Batch:
    """A collated batch (dimension 0 of every tensor counts examples) as rows.

    Raises:
        InvalidValue: features that disagree about the number of examples, or without a batch dimension.
    """
    fields = dict(_fields(batch))
    sizes = {name: _batch_size(name, value) for name, value in fields.items()}
    rows = next((size for name, size in sizes.items() if isinstance(fields[name], Tensor | np.ndarray)), None)
    rows = next(iter(sizes.values()), 0) if rows is None else rows
    columns: dict[str, pa.Array] = {}
    tensors: dict[str, TensorStats] = {}
    for name, value in fields.items():
        if _is_transposed(value, rows):
            value = torch.stack(list(value), dim=1)
        elif sizes[name] != rows:
            raise InvalidValue(f"data: a batch has {sizes[name]} examples of {name!r} and {rows} of another feature")
        columns[name], shapes = _column(value)
        if shapes is not None:
            tensors[name] = shapes
    return Batch(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)), tensors=tensors)


def batch_of_examples(examples: list[Any]) -> Batch:
    """Single examples as rows; a feature that an example lacks is missing there."""
    rows = [dict(_fields(example)) for example in examples]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, pa.Array] = {}
    tensors: dict[str, TensorStats] = {}
    for name in names:
        columns[name], shapes = _column([_tensor_or_plain(row.get(name)) for row in rows])
        if shapes is not None:
            tensors[name] = shapes
    return Batch(pa.RecordBatch.from_arrays(list(columns.values()), names=names), tensors=tensors)


def _chunks(source: Any) -> Iterator[list[Any]]:
    if isinstance(source, IterableDataset | DataLoader) or not hasattr(source, "__len__"):
        stream: Iterable[Any] = source
    else:
        stream = (source[index] for index in range(len(source)))
    examples = iter(stream)
    while chunk := list(islice(examples, GATHERED)):
        yield chunk


def _fields(example: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of an example or a batch."""
    if isinstance(example, Mapping):
        for name, value in example.items():
            yield from _named(f"{prefix}{name}", value)
    elif hasattr(example, "_fields"):
        for name in example._fields:
            yield from _named(f"{prefix}{name}", getattr(example, name))
    elif isinstance(example, tuple | list):
        for place, value in enumerate(example):
            yield from _named(f"{prefix}{place}", value)
    else:
        yield prefix or "0", example


def _named(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from _fields(value, f"{name}.")
    else:
        yield name, value


def _batch_size(name: str, value: Any) -> int:
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim == 0:
            raise InvalidValue(f"data: feature {name!r} of a batch has no batch dimension, wanted [examples, ...]")
        return int(value.shape[0])
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return len(value)
    raise InvalidValue(f"data: feature {name!r} of a batch is a {type(value).__name__}, wanted a tensor or a list")


def _is_transposed(value: Any, rows: int) -> bool:
    """default_collate turns a list of k numbers per example into k tensors of one number per example."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, Tensor) and item.shape == (rows,) for item in value)
    )


def _column(values: Any) -> tuple[pa.Array, TensorStats | None]:
    """One column: of a tensor whose dimension 0 counts examples, or of a list with one item per example."""
    if isinstance(values, Tensor | np.ndarray):
        return _tensor_column(torch.as_tensor(values))
    values = list(values)
    there = [value for value in values if value is not None]
    if not there or not all(isinstance(value, Tensor) for value in there):
        return column_of(values)[0], None
    if len(there) == len(values) and len({(value.shape, value.dtype) for value in there}) == 1:
        return _tensor_column(torch.stack(there))
    shapes = TensorStats()
    for value in there:
        shapes.add(_dtype(value), tuple(value.shape))
    if all(value.ndim == 0 for value in there):
        return column_of(values)[0], shapes
    flat = np.concatenate([_numbers(value) for value in there]) if there else np.zeros(0)
    lengths = np.array([0 if value is None else value.numel() for value in values])
    offsets = pa.array(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        mask=np.array([value is None for value in values] + [False]),
    )
    return pa.LargeListArray.from_arrays(offsets, pa.array(flat)), shapes


def _tensor_column(tensor: Tensor) -> tuple[pa.Array, TensorStats]:
    shape = tuple(tensor.shape[1:])
    shapes = TensorStats()
    shapes.add(_dtype(tensor), shape, len(tensor))
    flat = pa.array(_numbers(tensor))
    if not shape:
        return flat, shapes
    size = int(np.prod(shape)) * (2 if tensor.is_complex() else 1)
    if size == 0:
        return pa.array([[]] * len(tensor), pa.list_(flat.type)), shapes
    return pa.FixedSizeListArray.from_arrays(flat, size), shapes


def _numbers(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype == torch.bfloat16 or (tensor.dtype.itemsize == 1 and tensor.is_floating_point()):
        tensor = tensor.float()
    return tensor.cpu().contiguous().view(-1).numpy()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensor_or_plain(value: Any) -> Any:
    """Arrays and images as tensors; everything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.as_tensor(value)
    if hasattr(value, "getbands"):  # an image of Pillow
        return torch.as_tensor(np.array(value))
    return value
