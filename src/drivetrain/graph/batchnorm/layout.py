"""How features and results of the operators lie in memory, and which native sweeps can take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import channels_last, kernel, reference
from .statistics import batch_statistics


def native(xs: Sequence[Tensor]) -> Any:
    """The native sweeps for parts of this kind and layout, or None."""
    if kernel.fits(xs):
        return kernel
    return channels_last if channels_last.fits(xs) else None


def sweeps(xs: Sequence[Tensor]) -> Any:
    """The native sweeps, or those in plain torch."""
    return native(xs) or reference


def layout(xs: Sequence[Tensor]) -> torch.memory_format:
    """How results lie in memory: as the parts do, in the operators and in their fakes alike."""
    x = xs[0]
    planes = x.is_contiguous() and (len(xs) == 1 or all(x.is_contiguous() for x in xs))
    rows = not planes and all(channels_last.step(x) > 0 for x in xs)
    return torch.channels_last if rows else torch.contiguous_format


def tiles(xs: Sequence[Tensor], weight: Tensor) -> bool:
    """Whether the kernel can do a matrix product over the parts tile by tile."""
    return weight.dtype == torch.float32 and native(xs) is not None and kernel.has_gemm()


def key(direction: str, xs: Sequence[Tensor], weight: Tensor) -> str:
    """What the cost table calls a 1x1 convolution of these parts."""
    return f"{direction}:{list(xs[0].shape[2:])}:{len(xs)}:{list(weight.shape[:2])}"  # time is linear in the images


def joined_empty(xs: Sequence[Tensor]) -> Tensor:
    """Room for the concatenation of the parts."""
    n, _, h, w = xs[0].shape
    return torch.empty_like(
        xs[0].new_empty((n, sum(x.shape[1] for x in xs), h, w)), memory_format=layout(xs)
    )  # fmt: skip


def alike(x: Tensor, xs: Sequence[Tensor]) -> Tensor:
    """Room for a tensor of the shape of x, in the layout of the parts."""
    return torch.empty_like(x, memory_format=layout(xs))


def fresh(x: Tensor, xs: Sequence[Tensor]) -> Tensor:
    """An operator's results must lie in memory as its fake says: in the parts' layout, no views."""
    return all_fresh([x], xs)[0]


def all_fresh(values: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
    """The same for several."""
    wanted = layout(xs)
    made = [x if x.is_contiguous(memory_format=wanted) else x.contiguous(memory_format=wanted) for x in values]
    return [x.clone() if x._is_view() else x for x in made]


def with_moments(y: Tensor, wanted: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """A result with mean and m2 of its channels, empty where not wanted."""
    if wanted:
        return y, *batch_statistics(y)
    none = y.new_empty(0, dtype=torch.float64)
    return y, none, none.clone()
