"""Push and pull as collectives: an all-to-all of messages to their owners, an all-gather of the owners' answers.

Sizes travel first, so messages may have any length; a size of ABSENT says that a rank has nothing to give in this step,
which every owner then knows at the same time. n ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import RunFailed

ABSENT = -1


class Collective:
    """Messages over a dedicated process group of all ranks.

    Args:
        timeout_s: a rank that is silent for so long is taken for dead.

    Attributes:
        rank, world_size: of this process.
        sent: bytes this rank has handed to other ranks so far.
    """

    def __init__(self, timeout_s: float = 300.0) -> None:
        if not dist.is_initialized():
            raise RunFailed(
                "comm: an exchange needs torch.distributed", hint="call torch.distributed.init_process_group first"
            )
        self.group = dist.new_group(timeout=timedelta(seconds=timeout_s))
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.sent = 0

    def push(self, messages: Sequence[Tensor] | None) -> list[Tensor | None]:
        """Send message i to rank i; return the messages that all ranks sent to this one.

        Args:
            messages: one uint8 tensor a rank; None when this rank has nothing to give.

        Returns:
            One message a rank, None for ranks that had nothing to give: the same ranks on every receiver.
        """
        n = self.world_size
        sizes = [ABSENT] * n if messages is None else [message.numel() for message in messages]
        outgoing, incoming = torch.tensor(sizes), torch.empty(n, dtype=torch.int64)
        dist.all_to_all_single(incoming, outgoing, group=self.group)
        data = torch.empty(0, dtype=torch.uint8) if messages is None else torch.cat(list(messages))
        expected = incoming.tolist()
        lengths = [max(size, 0) for size in expected]
        received = torch.empty(sum(lengths), dtype=torch.uint8)
        dist.all_to_all_single(received, data, lengths, [max(size, 0) for size in sizes], group=self.group)
        self.sent += data.numel() - max(sizes[self.rank], 0) + 8 * (n - 1)
        parts = received.split(lengths)
        return [None if size == ABSENT else part for size, part in zip(expected, parts, strict=True)]

    def pull(self, message: Tensor) -> list[Tensor]:
        """Give one message to all; return the messages of all ranks in rank order."""
        n = self.world_size
        sizes = [torch.empty(1, dtype=torch.int64) for _ in range(n)]
        dist.all_gather(sizes, torch.tensor([message.numel()]), group=self.group)
        lengths = [int(size) for size in sizes]
        longest = max(lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: message.numel()] = message
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(n)]
        dist.all_gather(parts, padded, group=self.group)
        self.sent += (longest + 8) * (n - 1)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a small tensor over all ranks, in place; the same bits on every rank."""
        dist.all_reduce(values, group=self.group)
        self.sent += 2 * (self.world_size - 1) * values.numel() * values.element_size() // self.world_size
        return values

    def same_everywhere(self, text: str) -> list[str]:
        """What each rank gave: for checks that must come before any traffic."""
        found: list[str] = [""] * self.world_size
        dist.all_gather_object(found, text, group=self.group)
        return found

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor by rank 0's."""
        dist.broadcast(tensor, 0, group=self.group)
        self.sent += tensor.numel() * tensor.element_size() if self.rank == 0 else 0
