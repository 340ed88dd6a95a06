"""Sending and receiving in Python alone: the reference of the kernel, and what runs where there is none.

Same arguments, same datagrams, same decisions as `kernel.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np

from .datagram import END, HALF, LINK_BYTES, OVERHEAD, Datagram, is_genuine, parse, seal
from .layout import Plan
from .pacer import Pacer
from .table import COUNTED, Table

_INDEX = {name: index for index, name in enumerate(COUNTED)}
_BUFFER = 2048  # more than a datagram of ours, so that a longer one is seen to be foreign


class PlainSender:
    """Sends a plan again and again.

    Args:
        door: the socket.
        plan: what goes to whom.
        addresses: (host, port) of each rank.
        keys: what each rank gave us to sign with.
        run, rank: go into every header.
        pacer: sets the rate.
    """

    def __init__(
        self,
        door: socket.socket,
        plan: Plan,
        addresses: Sequence[tuple[str, int]],
        keys: Sequence[bytes],
        run: int,
        rank: int,
        value_bytes: int,
        pacer: Pacer,
    ) -> None:
        self.door, self.plan, self.addresses, self.keys = door, plan, list(addresses), list(keys)
        self.run, self.rank, self.value_bytes, self.pacer = run, rank, value_bytes, pacer

    def send(self, step: int, vectors: Sequence[np.ndarray], skip: np.ndarray | None, until: float) -> int:
        """Send one step's vectors (bytes of each receiver's); `skip` [datagrams] are not sent.

        Returns:
            Datagrams handed to the network; fewer than planned when time.monotonic() passed `until`.
        """
        plan, sent = self.plan, 0
        half = HALF if self.value_bytes == 2 else 0
        for k in range(len(plan)):
            if skip is not None and skip[k]:
                continue
            to, count, at = int(plan.to[k]), int(plan.count[k]), int(plan.at[k])
            size = count * self.value_bytes
            if not self.pacer.wait(size + OVERHEAD + LINK_BYTES, until):
                break
            values = vectors[to][at : at + size].tobytes()
            flags = half if count else half | END
            fields = Datagram(self.run, step, self.rank, int(plan.tensor[k]), int(plan.offset[k]), count, flags, values)
            try:
                self.door.sendto(seal(fields, self.keys[to]), self.addresses[to])
                sent += 1
            except OSError:
                pass  # a full queue or a receiver that is gone is one more loss
        return sent


class PlainReceiver:
    """Puts what the socket holds into a table.

    Args:
        door: the socket. table: where genuine values go. keys: what we gave each rank. run: the only one accepted.
    """

    def __init__(self, door: socket.socket, table: Table, keys: Sequence[bytes], run: int) -> None:
        self.door, self.table, self.keys, self.run = door, table, list(keys), run
        self._bytes = table.values.numpy().view(np.uint8)

    def receive(self, most: int) -> int:
        """Take up to `most` datagrams that wait, without waiting for more; how many there were."""
        for number in range(most):
            try:
                data = self.door.recv(_BUFFER, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return number
            self.table.counted[_INDEX[self._judge(data)]] += 1
        return most

    def _judge(self, data: bytes) -> str:
        table, layout = self.table, self.table.layout
        found = parse(data)
        if found is None or found.run != self.run or found.rank >= table.n or found.rank == table.rank:
            return "foreign"
        if bool(found.flags & HALF) != (layout.value_bytes == 2) or found.flags & ~(HALF | END):
            return "foreign"
        ends = bool(found.flags & END)
        if ends and (found.tensor or found.offset or found.count or found.values):
            return "foreign"
        if not ends and not layout.fits(found.tensor, found.offset, found.count, len(found.values)):
            return "foreign"
        if not is_genuine(data, self.keys[found.rank]):
            return "forged"
        slot = table.slot(found.step)
        if slot < 0:
            return "late" if slot == -1 else "early"
        return self._end(slot, found) if ends else self._store(slot, found)

    def _end(self, slot: int, found: Datagram) -> str:
        before = self.table.ended[slot, found.rank]
        self.table.ended[slot, found.rank] = 1
        return "repeated" if before else "taken"

    def _store(self, slot: int, found: Datagram) -> str:
        table, layout = self.table, self.table.layout
        chunk = layout.first_chunks[found.tensor] + found.offset // layout.per_chunk
        if table.marks[slot, found.rank, chunk]:
            return "repeated"
        at = (layout.starts[found.tensor] + found.offset) * layout.value_bytes
        self._bytes[slot, found.rank, at : at + len(found.values)] = np.frombuffer(found.values, dtype=np.uint8)
        table.marks[slot, found.rank, chunk] = 1
        table.arrived[slot, found.rank] += 1
        return "taken"
