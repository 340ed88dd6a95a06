"""Quartic coding: five ternary values in one byte (3LC §3.2).

Shapes: N values, L = ceil(N / 5) bytes. The flat array is cut into five contiguous parts of L values, so that coding is
five multiply-adds over whole vectors and no shuffle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import CodecError, WireError

ZERO_BYTE = 121  # five zeros: (3^5 - 1) / 2
LARGEST_BYTE = 242  # five ones: 3^5 - 1


def quartic_length(numel: int) -> int:
    """L: how many bytes N values take."""
    return -(-numel // 5)


def quartic_encode(q: Tensor) -> Tensor:
    """Pack ternary values five to a byte.

    Args:
        q: int8, N values in {-1, 0, 1}, any shape.

    Returns:
        uint8, L bytes, each in 0..242. The tail is padded with zeros, so that it joins a zero run.

    Raises:
        CodecError: a value outside {-1, 0, 1}; names the first.
    """
    q_N = q.reshape(-1)
    bad = ((q_N < -1) | (q_N > 1)).nonzero()
    if len(bad):
        index = int(bad[0])
        raise CodecError(f"comm: ternary values are -1, 0 or 1, the one at {index} is {q_N[index].item()}")
    u_N = (q_N + 1).to(torch.uint8)
    parts_5L = torch.nn.functional.pad(u_N, (0, -u_N.numel() % 5), value=1).view(5, -1)
    packed_L = parts_5L[0].clone()
    for part_L in parts_5L[1:]:
        packed_L = packed_L * 3 + part_L  # Horner: 81 p0 + 27 p1 + 9 p2 + 3 p3 + p4, at most 242
    return packed_L


def quartic_decode(b: Tensor, numel: int) -> Tensor:
    """Unpack `numel` ternary values; int8, shape (N,).

    Raises:
        WireError: not ceil(numel / 5) bytes, or a byte beyond 242.
    """
    if b.numel() != quartic_length(numel):
        raise WireError(f"comm: {b.numel()} quartic bytes hold {numel} values? they need {quartic_length(numel)} bytes")
    bad = (b > LARGEST_BYTE).nonzero()
    if len(bad):
        index = int(bad[0])
        raise WireError(f"comm: payload byte {index} is {int(b[index])}, a quartic byte is at most {LARGEST_BYTE}")
    digits_5L = torch.empty((5, b.numel()), dtype=torch.int8, device=b.device)
    rest_L = b
    for part in range(4, -1, -1):
        quotient_L = rest_L // 3
        digits_5L[part] = (rest_L - quotient_L * 3).to(torch.int8) - 1
        rest_L = quotient_L
    return digits_5L.view(-1)[:numel]
