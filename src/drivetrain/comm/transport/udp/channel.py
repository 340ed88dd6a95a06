"""The lossy channel: vectors between all ranks by UDP, on time rather than whole (AggregaThor §2.3, spec 06 §2.5).

    with LossyChannel([300, 40], rate="20mbit", deadline_s=0.5) as channel:     # on every rank
        arrived = channel.exchange(outgoing)           # outgoing[r]: the two tensors that rank r is to have
        result = median(arrived.values[0], f=1, mask=arrived.mask[0])

What is lost stays lost; `arrived` says which values came. Each datagram is signed, so what another rank or a stranger
sends in a rank's name is dropped and counted.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import InvalidValue, RunFailed

from ...testbed_links import parse_rate
from . import kernel
from .datagram import LINK_BYTES, OVERHEAD
from .keys import meet, open_door
from .layout import Layout, Plan, make_plan
from .loss import Fill, LossPolicy
from .pacer import BURST, Pacer
from .plain import PlainReceiver, PlainSender
from .table import Counts, Table

Drop = Callable[[int, Plan], np.ndarray]
_DRAIN = 512  # datagrams taken under one lock
_POLL_MS = 50
_GATHER_S = 0.001  # a wait for company: one wake-up a datagram would cost ten times the datagram itself


@dataclass(frozen=True)
class Arrived:
    """What came in one step. n ranks.

    Attributes:
        values: of each tensor, float32 [n, values], one row a rank, the own among them.
        mask: of each tensor, bool [n, values], True where a value came or the policy filled it in; None when all did.
        lost_share: share of each rank's datagrams that did not come, float64 [n].
        absent: ranks of which nothing came.
    """

    values: list[Tensor]
    mask: list[Tensor] | list[None]
    lost_share: Tensor
    absent: list[int]


class LossyChannel:
    """Every rank opens one at the same time, with the sizes of what it takes from each other rank.

    Args:
        sizes: values in each tensor that comes from a rank; ranks may differ in them.
        group: the process group over which ranks meet; None is the default group.
        address: as in `keys.open_door`.
        rate: what this rank sends on its link, headers included: "20mbit", bit/s, or None for no limit.
        deadline_s: how long a step takes at most, from its `send` (or `receive`, if that comes first).
        quiet_s: a rank that began to send and is then not heard for so long has ended: its end marks were lost.
        loss: "mask", "stale", "zero", "drop" or "random" (loss.py).
        dtype: float32 or float16, of the values on the wire.
        drop: for tests only: drop(step, plan) gives bool [datagrams], True for those that are not to be sent.
        seed: of the noise of loss="random".
        first_step: the number of the first step; the same on all ranks.
        native: False takes the plain version; None the kernel where it can be built.

    Raises:
        InvalidValue: a value out of range, a deadline that the rate can't keep, or ranks that do not fit together.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        group: dist.ProcessGroup | None = None,
        address: str | None = None,
        rate: str | float | None = None,
        deadline_s: float = 1.0,
        quiet_s: float = 0.2,
        loss: LossPolicy = "mask",
        dtype: torch.dtype = torch.float32,
        drop: Drop | None = None,
        seed: int = 0,
        first_step: int = 0,
        native: bool | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.float16):
            raise InvalidValue(f"comm: udp: dtype {dtype}, wanted torch.float32 or torch.float16")
        for name, value in (("deadline_s", deadline_s), ("quiet_s", quiet_s)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidValue(f"comm: udp: {name}={value!r}, wanted seconds above 0")
        if not dist.is_initialized():
            raise RunFailed(
                "comm: udp: a channel needs torch.distributed", hint="call torch.distributed.init_process_group first"
            )
        self.deadline_s, self.quiet_s, self.dtype, self.drop = deadline_s, quiet_s, dtype, drop
        self.rate = None if rate is None else _rate(rate)
        self._fill = Fill(loss, seed)
        layout = Layout(tuple(sizes), dtype.itemsize)
        self._door = open_door(address)
        self.meeting = meet(group, self._door, layout)
        self.rank, self.world_size = self.meeting.rank, self.meeting.world_size
        self.plan = make_plan(self.meeting.layouts, self.rank)
        self.planned_bytes = int(self.plan.count.astype(np.int64).sum()) * dtype.itemsize + len(self.plan) * OVERHEAD
        self._check_deadline()
        self.sent = self.sent_datagrams = 0
        self._expected = self._missed = 0.0
        self._table = Table(layout, self.world_size, self.rank, dtype, first_step)
        self._start(kernel.load() is not None if native is None else native)

    def _start(self, native: bool) -> None:
        m, door = self.meeting, self._door
        senders, receivers = (kernel.NativeSender, kernel.NativeReceiver) if native else (PlainSender, PlainReceiver)
        self._sender = senders(
            door, self.plan, m.addresses, m.signing, m.run, self.rank, self.dtype.itemsize, Pacer(self.rate, BURST)
        )
        self._receiver = receivers(door, self._table, m.checking, m.run)
        self._until: float | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen, name="udp receiver", daemon=True)
        self._listener.start()

    def exchange(self, outgoing: Sequence[Sequence[Tensor]]) -> Arrived:
        """`send`, then `receive`."""
        self.send(outgoing)
        return self.receive()

    def send(self, outgoing: Sequence[Sequence[Tensor]]) -> None:
        """Send this step's tensors; returns when all are handed to the network, or at the deadline.

        Args:
            outgoing: for each rank, itself included, the tensors it is to have, in its sizes.

        Raises:
            InvalidValue: other numbers of ranks, tensors or values than agreed.
        """
        if len(outgoing) != self.world_size:
            raise InvalidValue(f"comm: udp: tensors for {len(outgoing)} ranks, wanted {self.world_size}, itself too")
        vectors = [self._vector(rank, tensors) for rank, tensors in enumerate(outgoing)]
        until = self._deadline()
        with self._changed:
            self._table.put_own(vectors[self.rank])
            step = self._table.step
        skip = None if self.drop is None else np.asarray(self.drop(step, self.plan), dtype=np.uint8)
        raw = [vector.numpy().view(np.uint8) for vector in vectors]
        count = self._sender.send(step, raw, skip, until)
        self.sent_datagrams += count
        self.sent += round(count / max(len(self.plan), 1) * self.planned_bytes)

    def receive(self) -> Arrived:
        """Wait until all of this step came, or every rank has ended, or the deadline; then end the step."""
        until = self._deadline()
        with self._changed:
            while self._table.pending():
                now = time.monotonic()
                if now >= until or self._table.silent(now) >= self.quiet_s:
                    break
                self._changed.wait(min(until - now, self.quiet_s / 4))
            values, mask, lost = self._table.take()
            self._until = None
        return self._arrived(values.float(), mask, lost)

    @property
    def lost_share(self) -> float:
        """Share of the datagrams with values, from all other ranks in all steps, that did not come in time."""
        return self._missed / self._expected if self._expected else 0.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values in each tensor that a rank sends to this one."""
        return self._table.layout.sizes

    @property
    def step(self) -> int:
        """The number of the step that comes next or is under way."""
        return self._table.step

    @property
    def counts(self) -> Counts:
        """Datagrams received so far, by what became of them."""
        return self._table.counts()

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._listener.join()
            self._door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        while not self._closed:
            if poll.poll(_POLL_MS):
                time.sleep(_GATHER_S)
                with self._changed:
                    self._receiver.receive(_DRAIN)
                    if not self._table.pending():
                        self._changed.notify_all()

    def _deadline(self) -> float:
        if self._until is None:
            self._until = time.monotonic() + self.deadline_s
        return self._until

    def _arrived(self, values: Tensor, mask: Tensor | None, lost: Tensor) -> Arrived:
        self._expected += (self.world_size - 1) * self._table.layout.chunks
        self._missed += (float(lost.sum()) - float(lost[self.rank])) * self._table.layout.chunks
        absent = [] if mask is None else torch.nonzero(~mask.any(1)).flatten().tolist()
        values, mask = self._fill(values, mask)
        sizes = list(self._table.layout.sizes)
        split = [None] * len(sizes) if mask is None else list(mask.split(sizes, dim=1))
        return Arrived(list(values.split(sizes, dim=1)), split, lost, absent)

    def _vector(self, rank: int, tensors: Sequence[Tensor]) -> Tensor:
        """The tensors end to end, in the type of the wire."""
        wanted = self.meeting.layouts[rank].sizes
        found = tuple(tensor.numel() for tensor in tensors)
        if found != wanted:
            raise InvalidValue(
                f"comm: udp: rank {rank} takes tensors of {list(wanted)} values, these have {list(found)}"
            )
        flat = [tensor.detach().reshape(-1).to(device="cpu", dtype=self.dtype) for tensor in tensors]
        return torch.cat(flat) if flat else torch.empty(0, dtype=self.dtype)

    def _check_deadline(self) -> None:
        if self.rate is None:
            return
        needed = (self.planned_bytes + len(self.plan) * LINK_BYTES) * 8 / self.rate
        if needed > self.deadline_s:
            self._door.close()
            raise InvalidValue(
                f"comm: udp: a step sends {self.planned_bytes:,} bytes, which takes {needed:.3g} s at "
                f"{self.rate:,} bit/s; deadline_s={self.deadline_s:g} would cut it off",
                hint="a later deadline, a higher rate, or dtype=torch.float16",
            )


def _rate(rate: str | float) -> int:
    try:
        return parse_rate(rate)
    except InvalidValue as error:
        raise InvalidValue(error.message.replace("testbed", "udp"), hint=error.hint) from None
