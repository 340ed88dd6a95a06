"""What is known of a value before it is computed: shape, dtype, strides.

Strides are part of it because a convolution's time depends on its input's memory format as much as on its shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import RealLayouts


@dataclass(frozen=True, slots=True)
class Meta:
    """Shape, dtype, strides and device of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]
    device: str = "cpu"

    @staticmethod
    def of(tensor: Tensor) -> Meta:
        """Of a real, fake or meta tensor."""
        return Meta(tuple(tensor.shape), tensor.dtype, tuple(tensor.stride()), tensor.device.type)

    def empty(self, device: str = "meta") -> Tensor:
        """A tensor of this kind, values unset."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device)

    @property
    def numel(self) -> int:
        """Number of values."""
        return functools.reduce(lambda a, b: a * b, self.shape, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return self.numel * self.dtype.itemsize


def metas(value: Any) -> Any:
    """Metas of a tensor, or of a tuple of results."""
    if isinstance(value, Tensor):
        return Meta.of(value)
    if isinstance(value, tuple | list):
        return tuple(metas(item) for item in value)
    return None


def infer(op: Callable[..., Any], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Any:
    """Meta of what an operator returns, by running it on tensors without values, laid out as it is in earnest.

    Raises:
        whatever the operator raises for arguments that it refuses.
    """
    outer = _device(args)
    found = _infer(
        op,
        tuple(_keyed(value) for value in args),
        tuple((key, _keyed(value)) for key, value in kwargs if key != "_serial"),
    )
    return _on(found, outer)


@functools.lru_cache(maxsize=65536)
def _infer(op: Callable[..., Any], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Any:
    tensors = tuple(_unkeyed(value) for value in args)
    with torch.no_grad(), RealLayouts():
        return metas(op(*tensors, **{key: _unkeyed(value) for key, value in kwargs}))


def _keyed(value: Any) -> Any:
    """Nodes by their metas; lists and tuples marked, since an operator may insist on one of them."""
    if hasattr(value, "digest"):
        return value.meta
    if isinstance(value, tuple):
        return ("items", tuple(_keyed(item) for item in value))
    return value


def _unkeyed(value: Any) -> Any:
    if isinstance(value, Meta):
        return value.empty()
    if isinstance(value, tuple):
        return [_unkeyed(item) for item in value[1]]
    return torch.device("meta") if isinstance(value, torch.device) else value


def _device(args: tuple[Any, ...]) -> str:
    for value in args:
        if isinstance(value, tuple):
            found = _device(value)
            if found != "":
                return found
        elif hasattr(value, "digest"):
            meta = value.meta
            return str((meta[0] if isinstance(meta, tuple) else meta).device)
    return ""


def _on(found: Any, device: str) -> Any:
    if isinstance(found, Meta):
        return Meta(found.shape, found.dtype, found.stride, device or "cpu")
    return tuple(_on(item, device) for item in found) if isinstance(found, tuple) else found
