"""The exchange over UDP: gradients are pushed by the lossy channel, all else goes by the collective (AggregaThor §2.3).

Exchange("raw", "multi-krum", f=1, transport=Udp(rate="20mbit", deadline_s=0.5))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from ..collective import Collective
from ..protocol import Arrived, Partial
from .channel import Drop, LossyChannel
from .loss import Fill, LossPolicy


class Udp(Collective):
    """A lossy `Transport`.

    Args:
        rate, deadline_s, loss, address, drop, seed, native: as in `LossyChannel`.
        timeout_s: a rank that is silent for so long in the collective is taken for dead.

    Attributes:
        channel: opened by the first push, when sizes and type are known; counts what became of datagrams.
    """

    lossy = True

    def __init__(
        self,
        rate: str | float | None = None,
        deadline_s: float = 1.0,
        loss: LossPolicy = "mask",
        *,
        timeout_s: float = 300.0,
        address: str | None = None,
        drop: Drop | None = None,
        seed: int = 0,
        native: bool | None = None,
    ) -> None:
        Fill(loss)  # an unknown policy is refused now, not at the first push
        super().__init__(timeout_s)
        self.deadline_s = deadline_s
        self.channel: LossyChannel | None = None
        self._rate, self._loss = rate, loss
        self._address, self._drop, self._seed, self._native = address, drop, seed, native

    def push(self, messages: Sequence[Tensor], *, step: int = 0, expect: int = 0) -> list[Arrived]:
        """See `Transport.push`. The first push opens the channel; later ones must have its sizes.

        Raises:
            InvalidValue: a message of another size than the first push had; `expect` or `step` out of turn.
        """
        channel = self.channel = self.channel or self._open(messages, expect, step)
        if (expect,) != channel.sizes or step != channel.step:
            raise InvalidValue(
                f"comm: udp: push {step} of {expect} values, this channel is at step {channel.step} of "
                f"{channel.sizes[0]} values: datagrams of another cut would be taken for strangers'",
                hint="a schedule that pushes parts of the gradient in turn needs the collective transport",
            )
        before = channel.sent
        arrived = channel.exchange([[message] for message in messages])
        self.sent += channel.sent - before
        values, mask, absent = arrived.values[0], arrived.mask[0], set(arrived.absent)
        pushed: list[Arrived] = []
        for rank in range(self.world_size):
            if rank == self.rank:
                pushed.append(messages[rank])
            elif rank in absent:
                pushed.append(None)
            elif mask is None or bool(mask[rank].all()):
                pushed.append(values[rank].to(self.device))
            else:
                pushed.append(Partial(values[rank].to(self.device), mask[rank].to(self.device)))
        return pushed

    def _open(self, messages: Sequence[Tensor], expect: int, step: int) -> LossyChannel:
        """Values are float16 on the wire if they are on any rank: one with a broken gradient sends float32 NaN."""
        widths = [message.element_size() for message in messages if message.numel()]
        least = torch.tensor([min(widths, default=4)], device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN, group=self.group)
        return LossyChannel(
            [expect], group=self.group, address=self._address, rate=self._rate, deadline_s=self.deadline_s,
            loss=self._loss, dtype=torch.float16 if int(least) == 2 else torch.float32, drop=self._drop,
            seed=self._seed, first_step=step, native=self._native,
        )  # fmt: skip

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if self.channel is not None:
            self.channel.close()
        super().close()
