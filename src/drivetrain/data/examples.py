"""Examples that are Python objects (dicts of numbers, texts, lists, arrays, tensors) as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from ..base.errors import InvalidValue
from .batch import Batch
from .stats import Rejected


def table_of(examples: list[dict[str, Any]]) -> tuple[pa.Table, dict[str, str]]:
    """A table of the examples, and which columns held values of mixed types (these become text)."""
    names = list(dict.fromkeys(name for example in examples for name in example))
    columns, mixed = {}, {}
    for name in names:
        columns[name], found = column_of([example.get(name) for example in examples])
        if found:
            mixed[str(name)] = found
    if not columns:
        return pa.table({}), mixed
    return pa.table({str(name): column for name, column in columns.items()}), mixed


def column_of(values: Iterable[Any]) -> tuple[pa.Array, str]:
    """An Arrow column of Python values, numpy arrays or tensors; mixed types become text, and are told."""
    plain = [_plain(value) for value in values]
    try:
        return pa.array(plain), ""
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    kinds = {type(value) for value in plain if value is not None}
    if kinds <= {int, float, bool}:
        return pa.array([None if value is None else float(value) for value in plain], pa.float64()), ""
    names = " and ".join(sorted(kind.__name__ for kind in kinds))
    return pa.array([None if value is None else str(value) for value in plain]), f"{names} mixed: read as string"


class ExampleReader:
    """Batches of an iterable of dicts, feature -> value or values; None and a left-out key are missing."""

    def __init__(self, examples: Iterable[Any], *, columns: list[str] | None = None, batch_rows: int = 131_072) -> None:
        self._examples = examples
        self.columns, self.batch_rows = columns, batch_rows
        self.rejected = Rejected()
        self.notes: dict[str, list[str]] = {}

    def batches(self) -> Iterator[Batch]:
        """All examples, in order."""
        rows = 0
        stream = iter(self._examples)
        while chunk := list(islice(stream, self.batch_rows)):
            for place, example in enumerate(chunk, rows):
                if not isinstance(example, Mapping):
                    raise InvalidValue(
                        f"data: example {place} is a {type(example).__name__}, wanted a dict of feature -> value(s)"
                    )
            table, mixed = table_of([dict(example) for example in chunk])
            for name, what in mixed.items():
                self.notes.setdefault(name, []).append(f"rows from {rows}: {what}")
            if self.columns is not None:
                table = table.select([name for name in self.columns if name in table.column_names])
            if table.num_columns == 0:
                table = table.append_column("", pa.nulls(len(chunk)))
            yield Batch(table.combine_chunks().to_batches()[0], "", rows)
            rows += len(chunk)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "tolist"):
        return value.detach().cpu().tolist()
    return value
