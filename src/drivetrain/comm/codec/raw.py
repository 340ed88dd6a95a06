"""The plain codecs: float32 as it is, float16, and the largest values only. For small tensors and for comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import wire
from .errors import CodecError, as_float32, check_finite
from .messages import decode
from .protocol import Encoded
from .wire import Flag

HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Raw:
    """float32, unchanged: 4 bytes a value.

    Args:
        crc: end messages with a CRC-32.
    """

    crc: bool = False

    name: ClassVar[str] = "raw"

    def encode(self, x: Tensor, *, out: Tensor | None = None) -> Encoded:
        """See `Codec.encode`. Raises: as `ThreeLC.encode`."""
        x_N = as_float32(x)
        check_finite(x_N)
        return Encoded(_write(Flag.RAW, self.crc, x_N.numel(), x_N, out), x_N.view(x.shape))

    def decode(self, msg: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Read a message of any built-in codec; see `ThreeLC.decode`."""
        return decode(msg, out=out)

    def max_bytes(self, numel: int) -> int:
        """The bytes of the message of `numel` values."""
        return wire.HEADER_BYTES + 4 * numel + wire.CRC_BYTES * self.crc


@dataclass(frozen=True)
class FP16:
    """float16: 2 bytes a value. Values beyond 65504 are clamped to it; error feedback carries the rest.

    Args:
        crc: end messages with a CRC-32.
    """

    crc: bool = False

    name: ClassVar[str] = "fp16"

    def encode(self, x: Tensor, *, out: Tensor | None = None) -> Encoded:
        """See `Codec.encode`. Raises: as `ThreeLC.encode`."""
        x_N = as_float32(x)
        check_finite(x_N)
        half_N = x_N.clamp(-HALF_MAX, HALF_MAX).half()
        return Encoded(_write(Flag.HALF, self.crc, x_N.numel(), half_N, out), half_N.float().view(x.shape))

    def decode(self, msg: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Read a message of any built-in codec; see `ThreeLC.decode`."""
        return decode(msg, out=out)

    def max_bytes(self, numel: int) -> int:
        """The bytes of the message of `numel` values."""
        return wire.HEADER_BYTES + 2 * numel + wire.CRC_BYTES * self.crc


@dataclass(frozen=True)
class TopK:
    """The values of largest magnitude with their indices: 8 bytes for each one kept.

    Args:
        ratio: share of the values that is kept, 2^-20 to 1; at least one value is.
        crc: end messages with a CRC-32.
    """

    ratio: float = 0.01
    crc: bool = False

    name: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        if not 1 / wire.SPARSEST <= self.ratio <= 1:
            raise CodecError(f"comm: topk: ratio is {self.ratio:g}, it must be at least 2^-20 (1e-6) and at most 1")

    def encode(self, x: Tensor, *, out: Tensor | None = None) -> Encoded:
        """See `Codec.encode`. Raises: as `ThreeLC.encode`."""
        x_N = as_float32(x)
        check_finite(x_N)
        indices_k = torch.topk(x_N.abs(), self._kept(x_N.numel()), sorted=False).indices.sort().values
        values_k = x_N[indices_k]
        # u32 has few operations in torch; the same bits as int32 do (N < 2^32 is checked by the header).
        bits_k = torch.where(indices_k >= 2**31, indices_k - 2**32, indices_k).int()
        payload = torch.cat([bits_k.view(torch.uint8), values_k.view(torch.uint8)])
        value_N = torch.zeros_like(x_N)
        value_N[indices_k] = values_k
        return Encoded(_write(Flag.SPARSE, self.crc, x_N.numel(), payload, out), value_N.view(x.shape))

    def decode(self, msg: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Read a message of any built-in codec; see `ThreeLC.decode`."""
        return decode(msg, out=out)

    def max_bytes(self, numel: int) -> int:
        """The bytes of the message of `numel` values."""
        return wire.HEADER_BYTES + 8 * self._kept(numel) + wire.CRC_BYTES * self.crc

    def _kept(self, numel: int) -> int:
        return min(numel, math.ceil(self.ratio * numel))


def _write(kind: int, crc: bool, numel: int, payload: Tensor, out: Tensor | None) -> Tensor:
    no_scales = payload.new_empty(0)
    return wire.write_message(kind | Flag.CRC32 if crc else kind, numel, 0, no_scales, payload, out)
