"""The native sweeps (channels_last.cpp) for float32 in channels_last: same names and arguments as kernel.py.

A feature is a matrix of N H W rows and C columns there; a slice of channels of such a feature fits, too. What a
residual is added to leaves its ReLU's mask as bits (`packs`): `backward` takes it in the residual's place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import kernel
from .kernel import address, empty

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_HEAD: list[Any] = [_POINTER, _POINTER, _POINTER, *[_INT] * 3]


@cache
def load() -> ctypes.CDLL | None:
    """The kernel, or None where no compiler can build it (one warning says so)."""
    library = kernel.build("channels_last.cpp", "-ffp-contract=fast")  # masks are written as fma() already
    if library is None:
        return None
    library.batchnorm_stats.argtypes = [*_HEAD, *[_POINTER] * 2]
    library.batchnorm_apply.argtypes = [*_HEAD, *[_POINTER] * 3, _INT, *[_POINTER] * 2]
    library.batchnorm_backward.argtypes = [*_HEAD, *[_POINTER] * 6, _INT, *[_POINTER] * 6]
    library.batchnorm_conv1x1.argtypes = [*_HEAD, *[_POINTER] * 3, _INT, *[_POINTER] * 3]
    library.batchnorm_conv1x1_backward.argtypes = [*_HEAD, *[_POINTER] * 5, _INT, *[_POINTER] * 6]
    for name in ("stats", "apply", "backward", "conv1x1", "conv1x1_backward"):
        getattr(library, f"batchnorm_{name}").restype = None
    return library


def fits(xs: Sequence[Tensor]) -> bool:
    """Whether the kernel can take these parts (and can be built): float32, channels_last, on the CPU."""
    right = all(x.dtype == torch.float32 and x.is_cpu and step(x) > 0 for x in xs)
    return right and load() is not None


def step(x: Tensor) -> int:
    """Values from one pixel to the next if x is channels_last, or a slice of channels of such a tensor; else 0."""
    if x.dim() != 4 or x.numel() == 0:
        return 0
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[1]  # asked for hundreds of times in a step: the common case in two calls
    n, c, h, w = x.shape
    found = next((x.stride(d) // per for d, size, per in ((3, w, 1), (2, h, w), (0, n, h * w)) if size > 1), c)
    wanted = ((c, 1, 1), (w, 3, found), (h, 2, w * found), (n, 0, h * w * found))
    return found if found >= c and all(size == 1 or x.stride(d) == value for size, d, value in wanted) else 0


def packs(xs: Sequence[Tensor]) -> bool:
    """Whether the mask behind a residual is kept as bits: sixteen channels are a word."""
    return fits(xs) and all(x.shape[1] % 16 == 0 for x in xs)


def stats(xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared differences (float64 [C]) of each channel of the parts."""
    channels = sum(x.shape[1] for x in xs)
    mean, m2 = empty(channels, torch.float64), empty(channels, torch.float64)
    _library().batchnorm_stats(*_head(xs), mean.data_ptr(), m2.data_ptr())
    return mean, m2


def apply(
    xs: Sequence[Tensor], s: Tensor, t: Tensor, residual: Tensor | None, relu: bool, mask: Tensor | None = None
) -> Tensor:
    """max(s x + t + residual, 0) as [N, C, H, W], or without the maximum; `mask` (uint8) is filled if given."""
    n, _, h, w = xs[0].shape
    out = _like_rows(n, s.numel(), h, w)
    residual = None if residual is None else _rows(residual)
    _library().batchnorm_apply(
        *_head(xs), s.data_ptr(), t.data_ptr(), address(residual), int(relu), out.data_ptr(), address(mask)
    )  # fmt: skip
    return out


def backward(
    xs: Sequence[Tensor],
    s: Tensor,
    t: Tensor,
    mean: Tensor,
    inv: Tensor,
    residual: Tensor | None,
    relu: bool,
    da: Tensor,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients of the parts, dgamma, dbeta (float64 [C]), and of the residual (empty without one).

    `residual` may be the mask that `apply` filled instead.
    """
    da = _rows(da)
    bits = residual if residual is not None and residual.dtype == torch.uint8 else None
    added = None if residual is None or bits is not None else _rows(residual)
    dxs = [_like_rows(*x.shape) for x in xs]
    dresidual = empty(0) if residual is None else torch.empty_like(da)
    dgamma, dbeta = empty(s.numel(), torch.float64), empty(s.numel(), torch.float64)
    vectors = [value.data_ptr() for value in (s, t, mean, inv)]
    _library().batchnorm_backward(
        *_head(xs), *vectors, address(added), address(bits), int(relu), da.data_ptr(), *_targets(dxs),
        None if residual is None else dresidual.data_ptr(), dgamma.data_ptr(), dbeta.data_ptr(),
    )  # fmt: skip
    return dxs, dgamma, dbeta, dresidual


def conv1x1(
    xs: Sequence[Tensor], s: Tensor | None, t: Tensor | None, weight: Tensor, want_stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """W max(s x + t, 0) as [N, K, H, W], and mean and m2 of its channels (empty if unwanted)."""
    n, _, h, w = xs[0].shape
    matrix = weight.flatten(1).contiguous()
    k = matrix.shape[0]
    y = _like_rows(n, k, h, w)
    size = k if want_stats else 0
    mean, m2 = empty(size, torch.float64), empty(size, torch.float64)
    moments = (mean.data_ptr(), m2.data_ptr()) if want_stats else (None, None)
    _library().batchnorm_conv1x1(*_head(xs), address(s), address(t), matrix.data_ptr(), k, y.data_ptr(), *moments)
    return y, mean, m2


def conv1x1_backward(
    xs: Sequence[Tensor], s: Tensor, t: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, dy: Tensor
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients of the parts, dgamma, dbeta (float64 [C]), and of the weight."""
    dy, matrix = _rows(dy), weight.flatten(1).contiguous()
    dxs = [_like_rows(*x.shape) for x in xs]
    dweight = torch.empty(matrix.shape, dtype=torch.float32, device="cpu")
    dgamma, dbeta = empty(s.numel(), torch.float64), empty(s.numel(), torch.float64)
    vectors = [value.data_ptr() for value in (s, t, mean, inv)]
    _library().batchnorm_conv1x1_backward(
        *_head(xs), *vectors, matrix.data_ptr(), matrix.shape[0], dy.data_ptr(), *_targets(dxs),
        dweight.data_ptr(), dgamma.data_ptr(), dbeta.data_ptr(),
    )  # fmt: skip
    return dxs, dgamma, dbeta, dweight.view_as(weight)


def _head(xs: Sequence[Tensor]) -> tuple[Any, ...]:
    count = len(xs)
    n, _, h, w = xs[0].shape
    channels = (ctypes.c_int64 * count)(*[x.shape[1] for x in xs])
    bases, steps = _targets(xs)
    return bases, channels, steps, count, n * h * w, torch.get_num_threads()


def _targets(xs: Sequence[Tensor]) -> tuple[Any, Any]:
    bases = (ctypes.c_void_p * len(xs))(*[x.data_ptr() for x in xs])
    return bases, (ctypes.c_int64 * len(xs))(*[step(x) for x in xs])


def _like_rows(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.empty((n, c, h, w), dtype=torch.float32, device="cpu", memory_format=torch.channels_last)


def _rows(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask fits() first"
    return library
