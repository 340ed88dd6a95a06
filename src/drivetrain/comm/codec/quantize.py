"""Three-value quantisation with a sparsity multiplier (3LC §3.1): x becomes M * q with q in {-1, 0, 1}.

Shapes: N values in K blocks of B values (the last may be shorter), one scale M a block; block size 0 means one block.

A value goes to the nearest of {-M, 0, M}, ties to 0, so q = sign(x) where 2|x| > M. The comparison is exact, unlike a
rounded quotient x / M, so every device and the native kernel agree on every bit.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .errors import CodecError, as_float32, check_finite

KAPPA = 4.0  # rms scales: M = KAPPA * s * rms, so that 2 rms is the threshold at s = 1
LARGEST = torch.finfo(torch.float32).max

Scale = Literal["max", "rms"]


def quantize3(x: Tensor, s: float = 1.0, block: int = 0) -> tuple[Tensor, Tensor]:
    """Quantise to three values.

    Args:
        x: real floating-point values of any shape, N of them.
        s: sparsity multiplier, 1 <= s < 2; larger sends fewer and larger values.
        block: values that share a scale; 0: all.

    Returns:
        q: int8, shape (N,), values in {-1, 0, 1}.
        M: float32, shape (K,), s * max|x| of each block. |x - M q| <= M / 2 for every value.

    Raises:
        CodecError: s or block is out of range.
        NonFiniteGradient, UnsupportedTensor: a tensor that can't be quantised.
    """
    check_options(s, block)
    x_N = as_float32(x)
    check_finite(x_N)
    scales_K = block_scales(x_N, s, block)
    return ternary(x_N, scales_K, block), scales_K


def dequantize3(q_N: Tensor, scales_K: Tensor, block: int = 0) -> Tensor:
    """M * q, float32, shape (N,)."""
    return q_N.float() * spread(scales_K, block, q_N.numel())


def block_scales(x_N: Tensor, s: float, block: int, scale: Scale = "max") -> Tensor:
    """The scale M of each block, float32, shape (K,): s * max|x|, or `rms_scales`."""
    largest_K = (_rows(x_N, block).abs().amax(dim=1) * s).clamp(max=LARGEST)
    return largest_K if scale == "max" else rms_scales(x_N, s, block, largest_K)


def rms_scales(x_N: Tensor, s: float, block: int, largest_K: Tensor) -> Tensor:
    """The scale KAPPA * s * rms(x) of each block, float32, shape (K,), which one outlier raises little.

    The bound |x - M q| <= M / 2 holds only where |x| <= 1.5 M then, and error feedback carries the rest.

    Args:
        x_N, s, block: as for `quantize3`.
        largest_K: s * max|x|, which M never exceeds: of values that are all of one size none would be sent otherwise,
            ever, while the residual grows. It is also M where all squares underflow.
    """
    rows_KB = _rows(x_N, block)
    counts_K = torch.full_like(largest_K, max(rows_KB.shape[1], 1))
    if block and x_N.numel() % block:
        counts_K[-1] = x_N.numel() % block
    scales_K = KAPPA * s * torch.linalg.vector_norm(rows_KB, dim=1) / counts_K.sqrt()
    return torch.where(scales_K > 0, torch.minimum(scales_K, largest_K), largest_K)


def round_up_to_half(scales_K: Tensor) -> Tensor:
    """The smallest float16 >= each scale, so that |x| <= M still holds.

    Raises:
        CodecError: a scale beyond 65504, the largest float16.
    """
    half_K = scales_K.half()
    up_K = torch.where(half_K.float() < scales_K, torch.nextafter(half_K, torch.full_like(half_K, torch.inf)), half_K)
    if not torch.isfinite(up_K).all():
        raise CodecError(
            f"comm: a scale of {float(scales_K.max()):.4g} does not fit in float16 (at most 65504)",
            hint="scale_dtype=torch.float32 does",
        )
    return up_K


def ternary(x_N: Tensor, scales_K: Tensor, block: int) -> Tensor:
    """q = sign(x) where 2|x| > M, else 0; int8, shape (N,)."""
    scales_N = spread(scales_K, block, x_N.numel())
    return (2 * x_N > scales_N).to(torch.int8) - (2 * x_N < -scales_N).to(torch.int8)


def spread(scales_K: Tensor, block: int, numel: int) -> Tensor:
    """Each value's own scale, shape (N,)."""
    if block == 0:
        return scales_K.expand(numel)
    return scales_K.repeat_interleave(block)[:numel]


def scale_count(numel: int, block: int) -> int:
    """K: how many scales N values have."""
    return -(-numel // block) if block else 1


def check_options(s: float, block: int) -> None:
    """Refuse a multiplier or a block size that is out of range."""
    if not 1 <= s < 2:  # also refuses nan
        raise CodecError(
            f"comm: 3lc: the sparsity multiplier s is {s:g}, it must be at least 1 and less than 2",
            hint="1 keeps most, 1.75 sends least; from 2 on the largest value would never be sent",
        )
    if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < 2**32:
        raise CodecError(
            f"comm: 3lc: block is {block!r}, it must be a whole number from 0 (one scale for all values) to 2^32 - 1"
        )


def _rows(x_N: Tensor, block: int) -> Tensor:
    """The values cut into blocks, shape (K, B); the last row is filled with zeros, which change no maximum or norm."""
    if block == 0 or x_N.numel() == 0:
        return x_N.view(1, -1) if x_N.numel() else x_N.new_zeros(scale_count(0, block), 1)
    padding = -x_N.numel() % block
    return torch.nn.functional.pad(x_N, (0, padding)).view(-1, block) if padding else x_N.view(-1, block)
