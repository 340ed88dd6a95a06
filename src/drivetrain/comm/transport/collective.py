"""Push and pull as collectives: an all-to-all of messages to their owners, an all-gather of the owners' answers.

Reliable: sizes travel first, so messages may have any length, and every byte arrives or the call raises. n ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import RunFailed

from .protocol import Arrived

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name since torch 2.13


class Collective:
    """Messages over a dedicated process group of all ranks (see `Transport`).

    Args:
        timeout_s: a rank that is silent for so long is taken for dead.
        group: None: a new group of all ranks.
    """

    lossy = False

    def __init__(self, timeout_s: float = 300.0, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise RunFailed(
                "comm: an exchange needs torch.distributed", hint="call torch.distributed.init_process_group first"
            )
        self.group = group if group is not None else dist.new_group(timeout=timedelta(seconds=timeout_s))
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        nccl = dist.get_backend(self.group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        self.sent = 0

    def push(self, messages: Sequence[Tensor], *, step: int = 0, expect: int = 0) -> list[Arrived]:
        """See `Transport.push`; nothing is ever lost or late, so nothing is None."""
        n = self.world_size
        sizes = [message.numel() for message in messages]
        outgoing = torch.tensor(sizes, device=self.device)
        incoming = torch.empty(n, dtype=torch.int64, device=self.device)
        dist.all_to_all_single(incoming, outgoing, group=self.group)
        lengths = incoming.tolist()
        data = torch.cat([message.to(self.device) for message in messages])
        received = torch.empty(sum(lengths), dtype=torch.uint8, device=self.device)
        dist.all_to_all_single(received, data, lengths, sizes, group=self.group)
        self.sent += data.numel() - sizes[self.rank] + 8 * (n - 1)
        return list(received.split(lengths))

    def pull(self, message: Tensor) -> list[Tensor]:
        """See `Transport.pull`."""
        n = self.world_size
        counts = torch.empty(n, dtype=torch.int64, device=self.device)
        _all_gather(counts, torch.tensor([message.numel()], device=self.device), group=self.group)
        lengths = counts.tolist()
        longest = max(lengths)
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: message.numel()] = message
        every = torch.empty(n * longest, dtype=torch.uint8, device=self.device)
        _all_gather(every, padded, group=self.group)
        self.sent += (longest + 8) * (n - 1)
        return [part[:length] for part, length in zip(every.view(n, longest), lengths, strict=True)]

    def sum(self, values: Tensor) -> Tensor:
        """See `Transport.sum`."""
        moved = values.to(self.device)
        dist.all_reduce(moved, group=self.group)
        if moved is not values:
            values.copy_(moved)
        self.sent += 2 * (self.world_size - 1) * values.numel() * values.element_size() // self.world_size
        return values

    def same_everywhere(self, text: str) -> list[str]:
        """See `Transport.same_everywhere`."""
        found: list[str] = [""] * self.world_size
        dist.all_gather_object(found, text, group=self.group)
        return found

    def broadcast(self, tensor: Tensor) -> None:
        """See `Transport.broadcast`."""
        moved = tensor.detach().to(self.device).contiguous()
        dist.broadcast(moved, 0, group=self.group)
        if moved.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(moved)
        self.sent += tensor.numel() * tensor.element_size() if self.rank == 0 else 0

    def close(self) -> None:
        """Nothing to free: the group ends with the process."""
