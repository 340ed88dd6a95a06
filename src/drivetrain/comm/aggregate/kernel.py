"""The native kernel of the rules (aggregate.cpp) behind four functions, for float32 on the CPU.

Each gives what the torch version in the file that calls it gives. ctypes releases Python's global lock during a call.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivetrain.base import native

Pairs = tuple[tuple[int, int], ...]


@cache
def load() -> ctypes.CDLL | None:
    """The kernel, or None where no compiler can build it (one warning says so)."""
    # Contracted multiply-adds would round differently from torch.
    library = native.load(Path(__file__).with_name("aggregate.cpp"), flags=("-pthread", "-ffp-contract=off"))
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    head: list[Any] = [pointer, pointer, number, number]
    library.aggregate_coordinates.argtypes = [*head, pointer, number, pointer, *[number] * 5, pointer, pointer]
    library.aggregate_distances.argtypes = [*head, number, number, pointer, pointer, pointer]
    library.aggregate_distances_to.argtypes = [*head, pointer, number, pointer, pointer, pointer]
    library.aggregate_combine.argtypes = [*head, pointer, number, number, pointer]
    library.aggregate_coordinates.restype = library.aggregate_combine.restype = number
    library.aggregate_distances.restype = library.aggregate_distances_to.restype = None
    return library


def fits(g: Tensor) -> bool:
    """Whether the kernel can take these vectors (and can be built): float32, dense, on the CPU."""
    return g.dtype == torch.float32 and g.device.type == "cpu" and g.is_contiguous() and load() is not None


def coordinates(
    g: Tensor, mask: Tensor | None, pruned: Pairs, full: Pairs, center: int, f: int, drop: int
) -> tuple[Tensor, Tensor, int]:
    """The result [d] of a coordinate rule, the broken rows (bool [n]), and how many coordinates nobody sent."""
    out, bad = _floats(g.shape[1]), _flags(g.shape[0])
    few, all_pairs = _pairs(pruned), _pairs(full)
    networks = few.data_ptr(), len(pruned), all_pairs.data_ptr(), len(full)
    empty = _library().aggregate_coordinates(
        *_head(g, mask), *networks, center, f, drop, _threads(), out.data_ptr(), bad.data_ptr()
    )
    return out, bad.bool(), int(empty)


def distances(g: Tensor, mask: Tensor | None, *, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Upper triangles [n, n] of squared distances and common coordinates; broken rows. `exact` sums in float64."""
    n = g.shape[0]
    sums, common, bad = _doubles(n, n), _doubles(n, n), _flags(n)
    results = sums.data_ptr(), common.data_ptr(), bad.data_ptr()
    _library().aggregate_distances(*_head(g, mask), _threads(), int(exact), *results)
    return sums, common, bad.bool()


def distances_to(g: Tensor, mask: Tensor | None, point: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances [n] to a point [d] (None: the origin), the coordinates counted in each, and the broken rows."""
    n = g.shape[0]
    sums, common, bad = _doubles(n), _doubles(n), _flags(n)
    where = None if point is None else point.data_ptr()
    results = sums.data_ptr(), common.data_ptr(), bad.data_ptr()
    _library().aggregate_distances_to(*_head(g, mask), where, _threads(), *results)
    return sums, common, bad.bool()


def combine(g: Tensor, mask: Tensor | None, weights: Tensor) -> tuple[Tensor, int]:
    """weights [k, n] (float64) times g: [k, d], NaN where no weighted row has a value, and how many these are."""
    out = _floats(weights.shape[0], g.shape[1])
    weights = weights.contiguous()
    sizes = weights.data_ptr(), weights.shape[0], _threads()
    unfilled = _library().aggregate_combine(*_head(g, mask), *sizes, out.data_ptr())
    return out, int(unfilled)


def _head(g: Tensor, mask: Tensor | None) -> tuple[ctypes.Array[ctypes.c_void_p], int | None, int, int]:
    n, d = g.shape
    start, stride = g.data_ptr(), g.stride(0) * g.element_size()
    rows = (ctypes.c_void_p * n)(*[start + r * stride for r in range(n)])
    return rows, None if mask is None else mask.data_ptr(), n, d


@cache
def _pairs(pairs: Pairs) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int32, device="cpu").reshape(-1, 2).contiguous()


# The kernel writes through pointers: type and device must not follow the user's defaults.
def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _flags(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.uint8, device="cpu")


def _threads() -> int:
    return torch.get_num_threads()


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask fits() first"
    return library
