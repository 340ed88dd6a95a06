"""What a codec is: a tensor becomes a message of bytes, and a message becomes a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """What `Codec.encode` gives.

    Attributes:
        data: the message, uint8, 1-D, on the device of the input.
        value: what the receiver will see, float32, in the input's shape. It may share memory with the input (`Raw`).
    """

    data: Tensor
    value: Tensor


@runtime_checkable
class Codec(Protocol):
    """A pair of pure functions between tensors and messages. Equal inputs give equal bytes: nothing is random.

    A codec may also have `encode_residual(x, residual, *, out=None) -> Tensor` (see `ThreeLC`), which error feedback
    uses to add and update its residual in the same pass over memory.
    """

    @property
    def name(self) -> str:
        """The codec's name, as in `get(name)`."""
        ...

    def encode(self, x: Tensor, *, out: Tensor | None = None) -> Encoded:
        """Write `x` (float32, float16 or bfloat16, any shape and device) as a message.

        Args:
            x: the tensor; it is not changed.
            out: uint8 buffer for the message; the message is its front part.
        """
        ...

    def decode(self, msg: Tensor) -> Tensor:
        """Read a message (uint8, 1-D) back; float32, 1-D, on the device of `msg`."""
        ...
