"""The native kernel of 3LC (threelc.cpp) behind four short functions, for float32 on the CPU.

ctypes releases Python's global lock during a call, so a communication thread encodes while the main thread computes.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from drivetrain.base import native


@cache
def load() -> ctypes.CDLL | None:
    """The kernel, or None where no compiler can build it (one warning says so)."""
    library = native.load(Path(__file__).with_name("threelc.cpp"))
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.threelc_scales.argtypes = [pointer, pointer, number, number, ctypes.c_float, pointer]
    library.threelc_pack.argtypes = [pointer] * 3 + [number] * 2 + [pointer, number, pointer]
    library.threelc_unpack.argtypes = [pointer] + [number] * 4 + [pointer] * 2
    for function in (library.threelc_scales, library.threelc_pack, library.threelc_unpack):
        function.restype = ctypes.c_int64
    return library


def fits(*tensors: Tensor) -> bool:
    """Whether the kernel can take these tensors (and can be built): dense on the CPU."""
    return all(t.device.type == "cpu" and t.is_contiguous() for t in tensors) and load() is not None


def scales(x_N: Tensor, residual_N: Tensor | None, s: float, block: int, out: Tensor) -> bool:
    """Write s * max|x + residual| of each block to `out` (float32 as bytes); whether all values were finite."""
    pointers = x_N.data_ptr(), _pointer(residual_N)
    return not _library().threelc_scales(*pointers, x_N.numel(), block, s, out.data_ptr())


def pack(
    x_N: Tensor,
    residual_N: Tensor | None,
    value_N: Tensor | None,
    scales_bytes: Tensor,
    block: int,
    zero_run: bool,
    out: Tensor,
) -> int:
    """Write the payload of x + residual to `out`, update `residual_N` and `value_N` in place; the payload's size."""
    pointers = x_N.data_ptr(), _pointer(residual_N), _pointer(value_N)
    where = scales_bytes.data_ptr(), int(zero_run), out.data_ptr()
    return int(_library().threelc_pack(*pointers, x_N.numel(), block, *where))


def unpack(payload: Tensor, zero_run: bool, scales_bytes: Tensor, block: int, out_N: Tensor) -> bool:
    """Decode a payload to `out_N` (float32); False, with nothing written, when payload or scales are not valid."""
    sizes = payload.numel(), int(zero_run), out_N.numel(), block
    return not _library().threelc_unpack(payload.data_ptr(), *sizes, scales_bytes.data_ptr(), out_N.data_ptr())


def _pointer(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    return tensor.data_ptr()


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask fits() first"
    return library
