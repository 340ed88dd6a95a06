"""From rows of a table to tensors: numbers standardised, categories one-hot, fixed-length lists flattened.

The encoding is fitted on the statistics and the schema of the training split alone, and saved beside the model, so that
the same bytes come out at serving time. N rows, F encoded features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa

    from drivetrain.data import Schema, Stats


@dataclass(frozen=True)
class ColumnEncoding:
    """How one column becomes `width` features.

    Attributes:
        kind: "number" (standardised; missing becomes 0), "category" (one-hot over `values`; any other value is all
            zeros), "list" (a numeric list of fixed length, standardised by one mean and deviation).
        flags_missing: a further feature that is 1 where a number is missing.
    """

    name: str
    kind: str
    width: int
    mean: float = 0.0
    deviation: float = 1.0
    flags_missing: bool = False
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """The whole table's encoding; `classes` is empty for a regression label."""

    columns: tuple[ColumnEncoding, ...]
    label: str
    classes: tuple[str | int, ...]

    @property
    def width(self) -> int:
        """F, the number of encoded features."""
        return sum(column.width for column in self.columns)

    def features(self, table: pa.Table) -> Tensor:
        """Encode the feature columns: float32 [N, F]."""
        return torch.cat([_encode(column, table.column(column.name)) for column in self.columns], dim=1)

    def labels(self, table: pa.Table) -> Tensor:
        """Encode the label: int64 [N] class numbers, or float32 [N] for regression.

        Raises:
            InvalidValue: a label outside the training classes, or none at all; names the first row.
        """
        column = table.column(self.label)
        if not self.classes:
            return torch.from_numpy(_numbers(column, np.nan).astype(np.float32))
        number_of = {value: number for number, value in enumerate(self.classes)}
        numbers = [number_of.get(value, -1) for value in _plain(column)]
        if -1 in numbers:
            row = numbers.index(-1)
            raise InvalidValue(
                f"train: label {self.label!r} is {column[row].as_py()!r} in row {row}, no class of the training split",
                hint=f"classes: {', '.join(map(str, self.classes))}",
            )
        return torch.tensor(numbers, dtype=torch.int64)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Encoding:
        """The inverse of `to_dict`."""
        columns = [ColumnEncoding(**{**column, "values": tuple(column["values"])}) for column in content["columns"]]
        return cls(tuple(columns), content["label"], tuple(content["classes"]))


def fit_encoding(
    stats: Stats, schema: Schema, *, label: str, features: Sequence[str] | None, regression: bool
) -> Encoding:
    """Choose each column's encoding from the training split's statistics and schema.

    Raises:
        InvalidValue: a column that has no encoding (open text, lists of changing length); names it and the remedy.
    """
    for name in (*([label]), *(features or ())):
        if name not in stats.features:
            raise unknown_name("train: column", name, stats.features)
    names = [name for name in (features or stats.features) if name != label]
    columns = tuple(_fit_column(name, stats, schema) for name in names)
    return Encoding(columns, label, () if regression else _classes(label, stats, schema))


def _fit_column(name: str, stats: Stats, schema: Schema) -> ColumnEncoding:
    seen = stats.features[name]
    if seen.numeric is not None:
        mean, deviation = seen.numeric.mean, seen.numeric.std_dev or 1.0
        length = seen.common.max_num_values
        if length > 1:
            if seen.common.num_missing or seen.common.min_num_values != length:
                raise _no_encoding(name, "a list whose length changes")
            return ColumnEncoding(name, "list", int(length), mean, deviation)
        lacking = bool(seen.common.num_missing or seen.numeric.num_nan)
        return ColumnEncoding(name, "number", 1 + lacking, mean, deviation, flags_missing=lacking)
    values = _domain_values(name, schema)
    if not values:
        raise _no_encoding(name, "text with no domain in the schema")
    return ColumnEncoding(name, "category", len(values), values=tuple(values))


def _classes(label: str, stats: Stats, schema: Schema) -> tuple[str | int, ...]:
    seen = stats.features[label]
    if seen.type == "int" and seen.numeric is not None:
        low, high = int(seen.numeric.min or 0), int(seen.numeric.max or 0)
        if low < 0 or high > 10_000:
            raise InvalidValue(
                f"train: label {label!r} has integers from {low} to {high}, which are no class numbers",
                hint='for a quantity say task = "regression"',
            )
        return tuple(range(high + 1))
    values = _domain_values(label, schema)
    if not values:
        raise InvalidValue(
            f"train: label {label!r} is {seen.type} without a domain in the schema, so it has no classes",
            hint='for a quantity say task = "regression"; else give the schema its domain',
        )
    return tuple(values)


def _domain_values(name: str, schema: Schema) -> list[str]:
    """The strings that the schema lists for a feature; none where it is open."""
    from drivetrain.data import BoolDomain, StringDomain

    domain = schema.resolve(schema.features[name].domain) if name in schema.features else None
    if isinstance(domain, StringDomain):
        return list(domain.values)
    if isinstance(domain, BoolDomain) and domain.true_value is not None and domain.false_value is not None:
        return [domain.false_value, domain.true_value]
    return []


def _no_encoding(name: str, what: str) -> InvalidValue:
    return InvalidValue(
        f"train: column {name!r} is {what}: it has no encoding",
        hint="leave it out with [train] features = [...], or give the data as tensors: train = 'module:attribute'",
    )


def _encode(encoding: ColumnEncoding, column: pa.ChunkedArray) -> Tensor:
    if encoding.kind == "list":
        flat = np.array(column.combine_chunks().flatten(), dtype=np.float32)
        if flat.size != len(column) * encoding.width:
            raise InvalidValue(
                f"train: column {encoding.name!r} has {flat.size} values in {len(column)} rows, "
                f"not {encoding.width} each"
            )
        values = torch.from_numpy(flat).reshape(len(column), encoding.width)
        return (values - encoding.mean) / encoding.deviation
    if encoding.kind == "category":
        number_of = {value: number for number, value in enumerate(encoding.values)}
        known = [(row, number_of[value]) for row, value in enumerate(_plain(column)) if value in number_of]
        one_hot = torch.zeros(len(column), encoding.width)
        if known:
            one_hot[tuple(torch.tensor(known).T)] = 1.0
        return one_hot
    numbers = torch.from_numpy(_numbers(column, np.nan))
    missing = numbers.isnan()
    scaled = ((numbers - encoding.mean) / encoding.deviation).masked_fill(missing, 0.0)
    parts = [scaled, missing.double()] if encoding.flags_missing else [scaled]
    return torch.stack(parts, dim=1).float()


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """A column's values as Python objects; text that Arrow holds as a dictionary or bytes comes out as text."""
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in column.to_pylist()]


def _numbers(column: pa.ChunkedArray, missing: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.array(pc.fill_null(pc.cast(column, pa.float64()), missing), dtype=np.float64).copy()
