"""The default way from examples that are dicts to a batch of tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .schema import Feature, Schema

if TYPE_CHECKING:
    from torch import Tensor

Example = dict[str, Any]
"""Feature -> value, list of values, or None (missing)."""


def collate_tensors(rows: list[Example], schema: Schema) -> dict[str, Any]:
    """The default batch: a dict of tensors, one row per example.

    Numbers: float32 [batch] or int64 [batch], with the feature's shape if it has one. A missing float is NaN, a missing
    int 0; every feature that may be missing has a bool tensor `NAME_present` beside it. Lists of varying length: a
    list of tensors. Strings and structs: a list as it is.
    """
    import torch

    found: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        feature, column = schema.features[name], [row[name] for row in rows]
        if feature.presence.min_fraction != 1.0 and feature.shape is None:
            found[f"{name}_present"] = torch.tensor([value is not None for value in column])
        found[name] = _tensor(feature, column)
    return found


def _tensor(feature: Feature, column: list[Any]) -> Tensor | list[Any]:
    import torch

    if feature.type not in ("int", "float"):
        return column
    dtype, missing = (torch.int64, 0) if feature.type == "int" else (torch.float32, math.nan)
    if any(isinstance(value, list) for value in column):
        if feature.shape is not None:
            return torch.tensor(column, dtype=dtype).reshape(len(column), *feature.shape)
        return [torch.tensor(value or [], dtype=dtype) for value in column]
    return torch.tensor([missing if value is None else value for value in column], dtype=dtype)
