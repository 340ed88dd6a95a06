"""Reading: the header tells which codec wrote a message, so one function reads them all."""

from __future__ import annotations

import torch
from torch import Tensor

from . import kernel, wire
from .errors import CodecError, WireError
from .quantize import dequantize3
from .quartic import quartic_decode, quartic_length
from .wire import Flag, Header
from .zero_run import run_lengths, zero_run_decode


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
        _decode_plain(msg, header, result_N)
    else:
        _decode_ternary(msg, header, result_N, native=native)
    return result_N


def codec_name(header: Header) -> str:
    """The name of the codec that wrote a message, as in `get(name)`."""
    return {Flag.RAW: "raw", Flag.HALF: "fp16", Flag.SPARSE: "topk"}.get(header.kind, "3lc")


def _result(numel: int, device: torch.device, out: Tensor | None) -> Tensor:
    if out is None:
        return torch.empty(numel, dtype=torch.float32, device=device)
    if out.dtype != torch.float32 or out.shape != (numel,) or not out.is_contiguous() or out.device != device:
        raise CodecError(
            f"comm: out must be contiguous float32 of shape ({numel},) on {device}, this is "
            f"{str(out.dtype).removeprefix('torch.')} of shape {tuple(out.shape)} on {out.device}"
        )
    return out


def _decode_ternary(msg: Tensor, header: Header, out_N: Tensor, *, native: bool = True) -> None:
    """Decode a ternary message whose header was checked to `out_N` (float32, N values).

    Raises:
        WireError: a scale or the payload is not valid; `out_N` is as it was.
    """
    stored = torch.float16 if header.flags & Flag.HALF_SCALES else torch.float32
    payload = msg[header.payload_start : header.payload_end]
    zero_run = bool(header.flags & Flag.ZERO_RUN)
    if native and kernel.fits(msg, out_N):
        scales_bytes = msg[wire.HEADER_BYTES : header.payload_start]
        if stored == torch.float16:
            scales_bytes = scales_bytes.clone().view(stored).float()
        if kernel.unpack(payload, zero_run, scales_bytes, header.block, out_N):
            return  # otherwise the reference finds out what is wrong
    scales_K = wire.read_floats(msg, wire.HEADER_BYTES, header.scale_count, stored).float()
    bad = (~(scales_K.isfinite() & (scales_K >= 0))).nonzero()
    if len(bad):
        index = int(bad[0])
        raise WireError(f"comm: scale {index} of {len(scales_K)} is {float(scales_K[index]):g}, not finite and >= 0")
    if zero_run:
        length, wanted = int(run_lengths(payload).sum()), quartic_length(header.numel)
        if length != wanted:
            raise WireError(f"comm: the payload decodes to {length} bytes, {header.numel} values have {wanted}")
        payload = zero_run_decode(payload)
    out_N.copy_(dequantize3(quartic_decode(payload, header.numel), scales_K, header.block))


def _decode_plain(msg: Tensor, header: Header, out_N: Tensor) -> None:
    """Decode a raw, half or sparse message whose header was checked to `out_N` (float32, N values).

    Raises:
        WireError: a value is not finite, or the indices don't ascend or leave the range; `out_N` is as it was.
    """
    count = header.payload_bytes // 8 if header.kind == Flag.SPARSE else header.numel
    dtype = torch.float16 if header.kind == Flag.HALF else torch.float32
    start = header.payload_start + (4 * count if header.kind == Flag.SPARSE else 0)
    values = wire.read_floats(msg, start, count, dtype).float()
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        raise WireError(f"comm: payload value {int(bad[0])} of {count} is {float(values[bad[0]]):g}, not finite")
    if header.kind != Flag.SPARSE:
        out_N.copy_(values)
        return
    indices = wire.read_floats(msg, header.payload_start, count, torch.int32).long() & 0xFFFFFFFF
    if count and (bool((indices.diff() <= 0).any()) or int(indices[-1]) >= header.numel):
        raise WireError(f"comm: the {count} indices of a sparse payload must ascend and stay below {header.numel}")
    out_N.zero_()
    out_N[indices] = values
