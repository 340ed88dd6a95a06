"""Reading: the header tells which codec wrote a message, so one function reads them all."""

from __future__ import annotations

import torch
from torch import Tensor

from . import wire
from .errors import CodecError
from .raw import decode_plain
from .threelc import decode_ternary


def decode(msg: Tensor, *, out: Tensor | None = None, native: bool = True) -> Tensor:
    """Read a message of any built-in codec.

    Args:
        msg: uint8, 1-D; exactly one message (`message_size` finds its end in a longer buffer).
        out: float32, 1-D, contiguous, as many values as the message has; for the result.
        native: use the native kernel where it fits.

    Returns:
        float32, 1-D, on the device of `msg`; `out` where it was given.

    Raises:
        WireError: the message was cut or altered, or is of another version; names the field.
        CodecError: `out` does not fit.
    """
    header = wire.check_message(msg)
    result_N = _result(header.numel, msg.device, out)
    if header.kind:
        decode_plain(msg, header, result_N)
    else:
        decode_ternary(msg, header, result_N, native=native)
    return result_N


def _result(numel: int, device: torch.device, out: Tensor | None) -> Tensor:
    if out is None:
        return torch.empty(numel, dtype=torch.float32, device=device)
    if out.dtype != torch.float32 or out.shape != (numel,) or not out.is_contiguous() or out.device != device:
        raise CodecError(
            f"comm: out must be contiguous float32 of shape ({numel},) on {device}, this is "
            f"{str(out.dtype).removeprefix('torch.')} of shape {tuple(out.shape)} on {out.device}"
        )
    return out
