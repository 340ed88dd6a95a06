"""The sweeps in plain torch: the reference of the native kernel in tests, and what runs where it can't.

Same names and arguments as kernel.py. The mask of the ReLU is `s x + t <= 0` in forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _joined(xs: Sequence[Tensor]) -> Tensor:
    return xs[0] if len(xs) == 1 else torch.cat(list(xs), dim=1)


def _wide(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(x.dtype).view(1, -1, 1, 1)


def _normalised(x: Tensor, s: Tensor, t: Tensor, residual: Tensor | None) -> Tensor:
    z = x * _wide(s, x) + _wide(t, x)
    return z if residual is None else z + residual


def apply(xs: Sequence[Tensor], s: Tensor, t: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """max(s x + t + residual, 0), or without the maximum."""
    z = _normalised(_joined(xs), s, t, residual)
    return torch.where(z <= 0, 0, z) if relu else z


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
    """The gradients of the parts, dgamma, dbeta, and of the residual (empty without one)."""
    x = _joined(xs)
    dz = torch.where(_normalised(x, s, t, residual) <= 0, 0, da) if relu else da
    centred = x - _wide(mean, x)
    dbeta = dz.sum(dim=(0, 2, 3), dtype=torch.float64)
    dgamma = (dz * centred).sum(dim=(0, 2, 3), dtype=torch.float64) * inv
    m = x.numel() / max(x.shape[1], 1)
    dx = _wide(s, x) * (dz - _wide(dbeta / m, x) - centred * _wide(dgamma * inv / m, x))
    dresidual = dz.new_empty(0) if residual is None else dz.clone()
    return list(dx.split([part.shape[1] for part in xs], dim=1)), dgamma, dbeta, dresidual
