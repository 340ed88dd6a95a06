"""The three passes over the weights by a native kernel, for float32 on the CPU."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from drivetrain.base import native

from .foreach import Scalar, Tensors


@cache
def _kernel() -> ctypes.CDLL | None:
    kernel = native.load(Path(__file__).with_name("fused.cpp"), flags=("-pthread", "-mprefer-vector-width=512"))
    if kernel is None:
        return None
    pointers, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    kernel.yellowfin_squares.argtypes = [pointers, pointers, number, number, pointers]
    kernel.yellowfin_fold.argtypes = [pointers] * 3 + [number] * 2 + [real] * 2 + [pointers]
    kernel.yellowfin_move.argtypes = [pointers] * 4 + [number] * 2 + [real] * 4 + [number]
    for function in (kernel.yellowfin_squares, kernel.yellowfin_fold, kernel.yellowfin_move):
        function.restype = None
    return kernel


def fits(*lists: Tensors) -> bool:
    """Whether the kernel can take these lists of tensors: float32, on the CPU, dense and laid out alike."""
    for tensors in zip(*lists, strict=True):
        strides = tensors[0].stride()
        for tensor in tensors:
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.stride() != strides:
                return False
        if not (tensors[0].is_contiguous() or tensors[0].is_contiguous(memory_format=torch.channels_last)):
            return False
    return True


def load() -> Fused | None:
    """The passes, or None where no compiler can build them (a warning says so once)."""
    kernel = _kernel()
    return Fused(kernel) if kernel is not None else None


class Fused:
    """`Passes` by the kernel in fused.cpp; the caller has asked `fits`. Its scalars are floats."""

    def __init__(self, kernel: ctypes.CDLL) -> None:
        self.kernel = kernel

    def squares(self, grads: Tensors) -> Tensor:
        out = torch.empty(len(grads), dtype=torch.float64)
        self.kernel.yellowfin_squares(_pointers(grads), _sizes(grads), len(grads), _threads(), out.data_ptr())
        return out

    def fold(self, averages: Tensors, grads: Tensors, decay: Scalar, weight: Scalar) -> Tensor:
        out = torch.empty(len(grads), dtype=torch.float64)
        lists = (_pointers(averages), _pointers(grads), _sizes(grads), len(grads), _threads())
        self.kernel.yellowfin_fold(*lists, float(decay), float(weight), out.data_ptr())
        return out

    def move(
        self,
        params: Tensors,
        buffers: Tensors,
        grads: Tensors,
        *,
        mu: Scalar,
        scale: Scalar,
        rate: Scalar,
        shrink: Scalar,
        nesterov: bool,
    ) -> None:
        lists = (_pointers(params), _pointers(buffers), _pointers(grads), _sizes(grads), len(grads), _threads())
        scalars = (float(mu), float(scale), float(rate), 1 - float(shrink))
        self.kernel.yellowfin_move(*lists, *scalars, int(nesterov))


def _pointers(tensors: Tensors) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _sizes(tensors: Tensors) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(tensors))(*[tensor.numel() for tensor in tensors])


def _threads() -> int:
    return torch.get_num_threads()
