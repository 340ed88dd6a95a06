"""1x1 convolutions in channels_last: the matrix product that they are, by whichever way is faster here.

oneDNN multiplies faster than MKL's sgemm on some processors, but torch takes it for a 1x1 convolution on one thread
only from 16 images on. A feature in channels_last is a matrix of pixels by channels whatever its images are, so it is
seen as 16 images or more. The tiled form (channels_last.cpp) calls sgemm, and saves sweeps: which of the two wins
depends on processor and shape, so both run once for each shape, and the machine's cost table keeps the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue
from drivetrain.graph.cost import CostTable, default_path, fastest_of

IMAGES = 16  # from here on torch itself takes oneDNN for 1x1 convolutions on one thread
T = TypeVar("T")


def is_product(weight: Tensor, stride: Sequence[int], padding: Sequence[int], groups: int) -> bool:
    """Whether a convolution is a matrix product: 1x1, stride 1, no padding, no groups."""
    return tuple(weight.shape[2:]) == (1, 1) and set(stride) == {1} and set(padding) == {0} and groups == 1


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of x [N, C, H, W] (dense channels_last) with weight [K, C, 1, 1]."""
    y = torch.nn.functional.conv2d(_many_images(x), weight)
    return _as_images(y, x)


def multiply_backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Any, Any]:
    """The gradients of x and of the weight, None where not wanted."""
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        _many_images(dy), _many_images(x), weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [*wanted, False]
    )
    return _as_images(dx, x) if wanted[0] else None, dweight


def faster(key: str, tiled: Callable[[], T], swept: Callable[[], T]) -> T:
    """The result of the form that is faster here; both run, in turn, where the cost table does not know yet."""
    table = _table(torch.get_num_threads())
    first, second = f"product:{key}:tiled", f"product:{key}:swept"
    if first not in table.times or second not in table.times:
        for name, measured in zip((first, second), fastest_of(tiled, swept, rounds=2), strict=True):
            table.times[name] = measured
            table.added += 1
        table.save()
    return tiled() if table.times[first].us <= table.times[second].us else swept()


@cache
def _table(threads: int) -> CostTable:
    try:
        return CostTable(default_path(threads), threads)
    except InvalidValue:  # a file that can't be read must not stop a training step: measure again
        return CostTable(None, threads)


def _many_images(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    cut = next((f for f in range(1, h + 1) if h % f == 0 and n * f >= IMAGES), 1)
    return x.permute(0, 2, 3, 1).reshape(n * cut, h // cut, w, c).permute(0, 3, 1, 2)


def _as_images(y: Tensor, like: Tensor) -> Tensor:
    n, _, h, w = like.shape
    made = y.permute(0, 2, 3, 1).reshape(n, h, w, -1).permute(0, 3, 1, 2)
    # An operator's result must not be a view, and a copy would be a sweep: the same memory as a tensor of its own.
    return made if made.requires_grad else torch.empty(0, dtype=made.dtype).set_(made)  # type: ignore[call-overload]
