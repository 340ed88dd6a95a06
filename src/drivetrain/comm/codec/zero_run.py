"""Zero-run coding: 2 to 14 zero bytes in a row become one byte (3LC §3.3).

The values 243..255 are free after quartic coding; 243 + (k - 2) stands for k bytes of five zeros each. A longer run is
as many 14s as fit and the remainder; one zero byte alone stays. The code never expands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .quartic import ZERO_BYTE

FIRST_RUN = 243  # stands for a run of two
LONGEST_RUN = 14  # 243 + 14 - 2 = 255


def zero_run_encode(b: Tensor) -> Tensor:
    """Collapse runs of zero bytes; uint8 in, uint8 out, both 1-D."""
    is_zero = b == ZERO_BYTE
    edge = torch.zeros(1, dtype=torch.bool, device=b.device)
    changes = torch.cat([edge, is_zero, edge]).to(torch.int8).diff().nonzero().flatten()
    starts, ends = changes[0::2], changes[1::2]
    # A run is cut into pieces of at most 14; each piece is written at its first byte, the others are dropped.
    pieces = (ends - starts + LONGEST_RUN - 1) // LONGEST_RUN
    first_piece = (pieces.cumsum(0) - pieces).repeat_interleave(pieces)
    number_in_run = torch.arange(len(first_piece), device=b.device) - first_piece
    heads = starts.repeat_interleave(pieces) + LONGEST_RUN * number_in_run
    lengths = (ends.repeat_interleave(pieces) - heads).clamp(max=LONGEST_RUN)
    coded = b.clone()
    coded[heads] = torch.where(lengths == 1, ZERO_BYTE, FIRST_RUN - 2 + lengths).to(torch.uint8)
    keep = ~is_zero
    keep[heads] = True
    return coded[keep]


def zero_run_decode(z: Tensor) -> Tensor:
    """Expand runs; uint8 in, uint8 out, both 1-D."""
    is_run = z >= FIRST_RUN
    return torch.where(is_run, ZERO_BYTE, z).repeat_interleave(run_lengths(z))


def run_lengths(z: Tensor) -> Tensor:
    """How many bytes each coded byte stands for, int64; so the decoded length is known before anything is expanded."""
    lengths = z.long() - (FIRST_RUN - 2)
    return torch.where(z >= FIRST_RUN, lengths, 1)
