"""What has arrived: the values and a mark per chunk, for the step that is waited for and the one after it.

A rank that is ahead sends its next step before ours has ended, so there are two slots, taken in turn. n ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from .layout import Layout

STEPS = 1 << 32  # step numbers wrap around


@dataclass
class Counts:
    """Datagrams of one receiver so far, by what became of them.

    Attributes:
        taken: new and genuine.
        repeated: genuine, but here before.
        late: of a step that has ended, or a replay of one.
        early: of a step after the next one.
        forged: the MAC does not hold.
        foreign: no datagram of ours: another form, version, run, rank, or place in a tensor; or cut short.
    """

    taken: int = 0
    repeated: int = 0
    late: int = 0
    early: int = 0
    forged: int = 0
    foreign: int = 0


COUNTED = tuple(field.name for field in fields(Counts))


class Table:
    """Two slots of n vectors each.

    Args:
        layout: of a vector.
        n: ranks.
        rank: our own, which sends nothing.
        dtype: float32 or float16.
        step: the first one.
    """

    def __init__(self, layout: Layout, n: int, rank: int, dtype: torch.dtype, step: int = 0) -> None:
        self.layout, self.n, self.rank, self.step = layout, n, rank, step
        self.values = torch.zeros(2, n, layout.width, dtype=dtype, device="cpu")
        self.marks = np.zeros((2, n, layout.chunks), dtype=np.uint8)
        self.arrived = np.zeros((2, n), dtype=np.int64)  # chunks of each rank
        self.ended = np.zeros((2, n), dtype=np.uint8)  # whether its end mark came
        self._heard: dict[int, tuple[int, float]] = {}  # of a rank in this step: chunks, and when they were as many
        self.counted = np.zeros(len(COUNTED), dtype=np.int64)

    def slot(self, step: int) -> int:
        """Where a step's datagrams go: 0 or 1, or -1 for one that is over, -2 for one too far ahead."""
        ahead = (step - self.step) % STEPS
        return step & 1 if ahead < 2 else (-1 if ahead >= STEPS // 2 else -2)

    def pending(self) -> list[int]:
        """Ranks of which something of this step may still come."""
        here = self.step & 1
        waiting = (self.arrived[here] < self.layout.chunks) & (self.ended[here] == 0)
        return [int(rank) for rank in np.nonzero(waiting)[0] if rank != self.rank]

    def silent(self, now: float) -> float:
        """For how many seconds no rank has been heard that this step waits for; 0 while one has not yet begun.

        Args:
            now: seconds; what this says is as exact as the calls are frequent.
        """
        here = self.step & 1
        least = float("inf")
        for rank in self.pending():
            count = int(self.arrived[here, rank])
            if count and self._heard.get(rank, (0, now))[0] != count:
                self._heard[rank] = (count, now)
            least = min(least, now - self._heard[rank][1] if count else 0.0)
        return least

    def put_own(self, vector: Tensor) -> None:
        """What this rank gives to itself in this step, [width]; it does not travel."""
        here = self.step & 1
        self.values[here, self.rank] = vector
        self.marks[here, self.rank] = 1

    def counts(self) -> Counts:
        """The datagrams so far."""
        return Counts(*map(int, self.counted))

    def take(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """End this step and go on to the next.

        Returns:
            Values [n, width], which hold anything where nothing came; a mask bool [n, width] of what came, or None when
            all did; and the share of chunks lost, float64 [n] (0 for a layout without values).
        """
        here = self.step & 1
        values = self.values[here].clone()
        marks = torch.from_numpy(self.marks[here].copy()).bool()
        complete = bool(marks.all())
        lost = 1 - marks.double().mean(1) if self.layout.chunks else torch.zeros(self.n, dtype=torch.float64)
        mask = None if complete else self.layout.spread(marks)
        self.marks[here], self.arrived[here], self.ended[here] = 0, 0, 0
        self._heard.clear()
        self.step = (self.step + 1) % STEPS
        return values, mask, lost
