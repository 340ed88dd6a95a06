"""What the exchange asks of a transport: messages to owners, answers to all, small sums.

    push     rank i's message j goes to rank j        may be lossy, may be late
    pull     rank i's message goes to all             always whole, or it raises
    sum, broadcast, same_everywhere                   always whole, or they raise

All ranks call the same methods in the same order, from one thread. n ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Partial:
    """A vector that a lossy transport delivered in part.

    Attributes:
        values: [d], float32 or float16; what lies where the mask is False is not looked at, except that a `loss` policy
            that fills (stale, zero, random) writes its filling there and sets the mask True.
        mask: bool [d], True where the value counts as arrived.
    """

    values: Tensor
    mask: Tensor


Arrived = Tensor | Partial | None


@runtime_checkable
class Transport(Protocol):
    """How messages travel. `Collective` is the reliable one over a process group.

    Attributes:
        rank, world_size: of this process.
        sent: bytes that this rank has handed to other ranks so far (headers of the transport included, where it knows
            them).
        lossy: False: what `push` takes are opaque bytes (uint8), and they arrive whole. True: what it takes are plain
            vectors, float32 or float16, of which any part may be lost. The exchange then refuses codecs that can't be
            cut anywhere (3lc, topk), and sends no message headers: only values.
        device: where `push` and `pull` leave what arrived.
    """

    rank: int
    world_size: int
    sent: int
    lossy: bool
    device: torch.device

    def push(self, messages: Sequence[Tensor], *, step: int, expect: int) -> list[Arrived]:
        """Send message i to rank i and return what the ranks sent to this one.

        Args:
            messages: n tensors, 1-D, any lengths, 0 too (an owner of nothing). uint8 where not `lossy`, else all
                float32 or all float16. A vector may hold NaN: that is how a rank with a broken gradient says so.
            step: number of this push, the same on all ranks and rising by one: frames of other steps are dropped.
            expect: values that every rank sends to this one; a reliable transport, which is told sizes, may ignore it.

        Returns:
            One entry a rank, in rank order, this rank's own message included (it must not travel, and is never lost):

            - a tensor like those sent, when the message came whole;
            - `Partial`, from a lossy transport only, when a part came;
            - None, when nothing came in time. That rank counts as one of the f faulty ones in this step, at this owner;
              the owner says so in its answer, and the rank takes back what its codec believed to be sent.

        Raises:
            RuntimeError: the transport broke down (not: a rank was late). The exchange finds out who is gone.
        """
        ...

    def pull(self, message: Tensor) -> list[Tensor]:
        """Give one message (uint8, 1-D, any length) to all; return the messages of all ranks in rank order, whole."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a small tensor over all ranks, in place; the same bits on every rank."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor by rank 0's."""
        ...

    def same_everywhere(self, text: str) -> list[str]:
        """What each rank gave, in rank order: for checks that must come before any traffic."""
        ...

    def close(self) -> None:
        """Free sockets and threads; may be called twice."""
        ...
