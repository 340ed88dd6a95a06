"""3LC: three-value quantisation, quartic coding, zero-run coding (Lim, Andersen, Kaminsky, MLSys 2019).

0.11 to 1.6 bits a value: 20x below float32 at least, 280x at most. The torch version below is the reference; on the CPU
the native kernel does the same in two passes over memory (threelc.cpp), with identical bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from drivetrain.base.errors import unknown_name

from . import kernel, wire
from .errors import CodecError, as_float32, check_finite, nonfinite_error
from .messages import decode
from .protocol import Encoded
from .quantize import (
    Scale,
    block_scales,
    check_options,
    dequantize3,
    rms_scales,
    round_up_to_half,
    scale_count,
    ternary,
)
from .quartic import quartic_encode, quartic_length
from .wire import Flag, Header
from .zero_run import zero_run_encode


@dataclass(frozen=True)
class ThreeLC:
    """The 3LC codec. What it loses must be carried by `ErrorFeedback`.

    Args:
        s: sparsity multiplier, 1 <= s < 2; larger sends fewer bytes and leaves more to error feedback.
        block: values that share a scale, 0 for the paper's one scale a tensor. One outlier silences its block, so a
            heavy-tailed tensor wants small blocks; a scale of 4096 values costs 0.008 bit a value.
        scale: "max" (the paper's, |x - value| <= M / 2) or "rms" (M = 4 s rms, at most s max|x|;
            values beyond 1.5 M are clamped to M).
        zero_run: the last, lossless stage.
        scale_dtype: torch.float32, or torch.float16 (rounded up, at most 65504; the largest value is then always sent
            for s up to 1.998).
        crc: end messages with a CRC-32.
        native: use the native kernel where it fits; False: always torch.

    Raises:
        CodecError: an option out of range.
    """

    s: float = 1.0
    block: int = 4096
    scale: Scale = "max"
    zero_run: bool = True
    scale_dtype: torch.dtype = torch.float32
    crc: bool = False
    native: bool = True

    name: ClassVar[str] = "3lc"

    def __post_init__(self) -> None:
        check_options(self.s, self.block)
        if self.scale not in ("max", "rms"):
            raise unknown_name("comm: 3lc: scale", str(self.scale), ["max", "rms"])
        if self.scale_dtype not in (torch.float32, torch.float16):
            raise CodecError(f"comm: 3lc: scale_dtype is {self.scale_dtype}, it must be torch.float32 or torch.float16")

    def encode(self, x: Tensor, *, out: Tensor | None = None) -> Encoded:
        """Write `x` as a message; see `Codec.encode`.

        Raises:
            NonFiniteGradient: an infinity or NaN in `x`.
            UnsupportedTensor: not real floating-point, or sparse.
            CodecError: `out` is smaller than `max_bytes`, or a scale does not fit in float16.
        """
        x_N = as_float32(x)
        value_N = torch.empty_like(x_N)
        return Encoded(self._encode(x_N, None, value_N, out), value_N.view(x.shape))

    def encode_residual(self, x: Tensor, residual: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Write x + residual as a message and leave in `residual` what the message lost (2.2: B = S - M q), in one go.

        Args:
            x: see `Codec.encode`.
            residual: float32, contiguous, as many values as `x`; changed in place, or not at all on an error.
            out: uint8 buffer for the message.

        Returns:
            The message.
        """
        if residual.dtype != torch.float32 or not residual.is_contiguous() or residual.numel() != x.numel():
            raise CodecError(
                f"comm: a residual is contiguous float32 with {x.numel()} values, this one is "
                f"{str(residual.dtype).removeprefix('torch.')} with {residual.numel()}"
            )
        return self._encode(as_float32(x), residual.detach().view(-1), None, out)

    def decode(self, msg: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Read a message of any built-in codec; see `Codec.decode`.

        Args:
            msg: uint8, 1-D.
            out: float32, 1-D, contiguous, for the result.

        Raises:
            WireError: the message was cut or altered, or is of another version; names the field.
        """
        return decode(msg, out=out, native=self.native)

    def max_bytes(self, numel: int) -> int:
        """The most bytes that the message of `numel` values, or a buffer for it, can need."""
        scales = scale_count(numel, self.block) * self.scale_dtype.itemsize
        # One byte beyond the payload: the native run writer writes before it knows whether to step on.
        return wire.HEADER_BYTES + scales + quartic_length(numel) + max(1, wire.CRC_BYTES * self.crc)

    def _encode(self, x_N: Tensor, residual_N: Tensor | None, value_N: Tensor | None, out: Tensor | None) -> Tensor:
        if self.native and kernel.fits(x_N, *(() if residual_N is None else (residual_N,))):
            return self._encode_natively(x_N, residual_N, value_N, out)
        sum_N = x_N if residual_N is None else x_N + residual_N
        check_finite(sum_N)
        scales_K = block_scales(sum_N, self.s, self.block, self.scale)
        if self.scale_dtype == torch.float16:
            scales_K = round_up_to_half(scales_K)
        q_N = ternary(sum_N, scales_K.float(), self.block)
        payload = quartic_encode(q_N)
        if self.zero_run:
            payload = zero_run_encode(payload)
        message = wire.write_message(self._flags, x_N.numel(), self.block, scales_K, payload, out)
        sent_N = dequantize3(q_N, scales_K.float(), self.block)
        if residual_N is not None:
            residual_N.copy_(sum_N - sent_N)
        if value_N is not None:
            value_N.copy_(sent_N)
        return message

    def _encode_natively(
        self, x_N: Tensor, residual_N: Tensor | None, value_N: Tensor | None, out: Tensor | None
    ) -> Tensor:
        buffer = wire.message_buffer(self.max_bytes(x_N.numel()), x_N.device, out)
        start = wire.HEADER_BYTES + scale_count(x_N.numel(), self.block) * self.scale_dtype.itemsize
        in_place, payload = buffer[wire.HEADER_BYTES : start], buffer[start:]
        as_they_are = self.scale == "max" and self.scale_dtype == torch.float32
        scales_bytes = in_place if as_they_are else in_place.new_empty(4 * scale_count(x_N.numel(), self.block))
        if not kernel.scales(x_N, residual_N, self.s, self.block, scales_bytes):
            raise nonfinite_error(x_N if residual_N is None else x_N + residual_N)
        if not as_they_are:
            scales_K = scales_bytes.view(torch.float32)
            if self.scale == "rms":  # by torch also here: sums in another order would be other floats
                scales_K = rms_scales(x_N if residual_N is None else x_N + residual_N, self.s, self.block, scales_K)
            stored_K = round_up_to_half(scales_K) if self.scale_dtype == torch.float16 else scales_K
            in_place.copy_(stored_K.view(torch.uint8))
            scales_bytes = stored_K.float()
        size = kernel.pack(x_N, residual_N, value_N, scales_bytes, self.block, self.zero_run, payload)
        return wire.seal(buffer, Header(self._flags, x_N.numel(), self.block, size))

    @property
    def _flags(self) -> int:
        flags = Flag.ZERO_RUN if self.zero_run else 0
        flags |= Flag.HALF_SCALES if self.scale_dtype == torch.float16 else 0
        return flags | Flag.CRC32 if self.crc else flags
