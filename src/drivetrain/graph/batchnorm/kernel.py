"""The native sweeps (batchnorm.cpp) behind five functions, for float32 in NCHW on the CPU.

A list of parts stands for their concatenation along the channels. Each function gives what the torch version of the
same name in reference.py gives, up to rounding. The matrix product and the threads inside are torch's own (MKL's sgemm
and the OpenMP runtime that torch ships), found in torch's libraries; where they are not, `has_gemm` is False.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivetrain.base import native

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_HEAD: list[Any] = [_POINTER, _POINTER, _POINTER, *[_INT] * 4]


@cache
def load() -> ctypes.CDLL | None:
    """The kernel, or None where no compiler can build it (one warning says so)."""
    library = build("batchnorm.cpp")
    if library is None:
        return None
    library.batchnorm_stats.argtypes = [*_HEAD, *[_POINTER] * 2]
    library.batchnorm_apply.argtypes = [*_HEAD, *[_POINTER] * 3, _INT, _POINTER]
    library.batchnorm_backward.argtypes = [*_HEAD, *[_POINTER] * 5, _INT, *[_POINTER] * 6]
    library.batchnorm_conv1x1.argtypes = [*_HEAD, *[_POINTER] * 3, _INT, *[_POINTER] * 3]
    library.batchnorm_conv1x1_backward.argtypes = [*_HEAD, *[_POINTER] * 5, _INT, *[_POINTER] * 6]
    for name in ("stats", "apply", "backward", "conv1x1", "conv1x1_backward"):
        getattr(library, f"batchnorm_{name}").restype = None
    return library


def build(source: str, contract: str = "-ffp-contract=off") -> ctypes.CDLL | None:
    """A kernel of this folder with torch's matrix product and threads in its hands; None without a compiler."""
    folder = Path(__file__).parent
    library = native.load(folder / source, flags=("-pthread", contract))
    if library is not None:
        library.batchnorm_setup.argtypes = [_POINTER] * 2
        library.batchnorm_setup.restype = None
        library.batchnorm_setup(_sgemm(), _torch_threads())
    return library


def fits(xs: Sequence[Tensor]) -> bool:
    """Whether the kernel can take these parts (and can be built): float32, NCHW planes, on the CPU."""
    return all(_fits_one(x) for x in xs) and load() is not None


def has_gemm() -> bool:
    """Whether this torch has a sgemm that the tiled 1x1 convolution can call."""
    return load() is not None and _sgemm() is not None


def stats(xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared differences (float64 [C]) of each channel of the parts."""
    channels = sum(x.shape[1] for x in xs)
    mean, m2 = empty(channels, torch.float64), empty(channels, torch.float64)
    _library().batchnorm_stats(*_head(xs), mean.data_ptr(), m2.data_ptr())
    return mean, m2


def apply(xs: Sequence[Tensor], s: Tensor, t: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """max(s x + t + residual, 0) as [N, C, H, W], or without the maximum."""
    n, _, h, w = xs[0].shape
    out = torch.empty((n, s.numel(), h, w), dtype=torch.float32, device="cpu")
    residual = None if residual is None else residual.contiguous()
    _library().batchnorm_apply(
        *_head(xs), s.data_ptr(), t.data_ptr(), address(residual), int(relu), out.data_ptr()
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
    """The gradients of the parts, dgamma, dbeta (float64 [C]), and of the residual (empty without one)."""
    da = da.contiguous()
    residual = None if residual is None else residual.contiguous()
    dxs = [torch.empty(x.shape, dtype=torch.float32, device="cpu") for x in xs]
    dresidual = empty(0) if residual is None else torch.empty_like(da)
    dgamma, dbeta = empty(s.numel(), torch.float64), empty(s.numel(), torch.float64)
    vectors = [value.data_ptr() for value in (s, t, mean, inv)]
    pointers, steps = _targets(dxs)
    _library().batchnorm_backward(
        *_head(xs), *vectors, address(residual), int(relu), da.data_ptr(), pointers, steps,
        None if residual is None else dresidual.data_ptr(), dgamma.data_ptr(), dbeta.data_ptr(),
    )  # fmt: skip
    return dxs, dgamma, dbeta, dresidual


def conv1x1(
    xs: Sequence[Tensor], s: Tensor | None, t: Tensor | None, weight: Tensor, want_stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """W max(s x + t, 0) as [N, K, H, W], and mean and m2 of its channels (empty if unwanted)."""
    n, _, h, w = xs[0].shape
    weight = weight.contiguous()
    k = weight.shape[0]
    y = torch.empty((n, k, h, w), dtype=torch.float32, device="cpu")
    size = k if want_stats else 0
    mean, m2 = empty(size, torch.float64), empty(size, torch.float64)
    moments = (mean.data_ptr(), m2.data_ptr()) if want_stats else (None, None)
    _library().batchnorm_conv1x1(
        *_head(xs), address(s), address(t), weight.data_ptr(), k, y.data_ptr(), *moments
    )  # fmt: skip
    return y, mean, m2


def conv1x1_backward(
    xs: Sequence[Tensor], s: Tensor, t: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, dy: Tensor
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients of the parts, dgamma, dbeta (float64 [C]), and of the weight."""
    dy, weight = dy.contiguous(), weight.contiguous()
    dxs = [torch.empty(x.shape, dtype=torch.float32, device="cpu") for x in xs]
    dweight = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
    dgamma, dbeta = empty(s.numel(), torch.float64), empty(s.numel(), torch.float64)
    vectors = [value.data_ptr() for value in (s, t, mean, inv)]
    pointers, steps = _targets(dxs)
    _library().batchnorm_conv1x1_backward(
        *_head(xs), *vectors, weight.data_ptr(), weight.shape[0], dy.data_ptr(), pointers, steps,
        dweight.data_ptr(), dgamma.data_ptr(), dbeta.data_ptr(),
    )  # fmt: skip
    return dxs, dgamma, dbeta, dweight


def _fits_one(x: Tensor) -> bool:
    if x.dtype != torch.float32 or not x.is_cpu or x.dim() != 4 or x.numel() == 0:
        return False
    if x.is_contiguous():
        return True
    _, c, h, w = x.shape
    wanted = ((c, h * w), (h, w), (w, 1))
    return all(size == 1 or stride == step for (size, step), stride in zip(wanted, x.stride()[1:], strict=True))


def _head(xs: Sequence[Tensor]) -> tuple[Any, ...]:
    count = len(xs)
    n, _, h, w = xs[0].shape
    pointers = (ctypes.c_void_p * count)(*[x.data_ptr() for x in xs])
    channels = (ctypes.c_int64 * count)(*[x.shape[1] for x in xs])
    steps = (ctypes.c_int64 * count)(*[x.stride(0) for x in xs])
    return pointers, channels, steps, count, n, h * w, torch.get_num_threads()


def _targets(dxs: Sequence[Tensor]) -> tuple[Any, Any]:
    pointers = (ctypes.c_void_p * len(dxs))(*[x.data_ptr() for x in dxs])
    return pointers, (ctypes.c_int64 * len(dxs))(*[x.stride(0) for x in dxs])


def address(value: Tensor | None) -> int | None:
    """Where a tensor's values are; None for none."""
    return None if value is None else value.data_ptr()


def empty(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A vector to be filled."""
    return torch.empty(size, dtype=dtype, device="cpu")


@cache
def _sgemm() -> int | None:
    """The address of sgemm_ inside torch (MKL, or OpenBLAS), None where torch hides it."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.so*")):
        function = getattr(ctypes.CDLL(str(path)), "sgemm_", None)
        if function is not None:
            return ctypes.cast(function, _POINTER).value
    return None


@cache
def _torch_threads() -> int | None:
    """The address of GOMP_parallel in the OpenMP that torch itself runs on: no second team of threads."""
    folder = Path(torch.__file__).parent
    for path in [*(folder / "lib").glob("libgomp*"), *folder.with_name("torch.libs").glob("libgomp*")]:
        team = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
        if team is not None:
            return ctypes.cast(team, _POINTER).value
    return None


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask fits() first"
    return library
