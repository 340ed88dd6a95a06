"""How fast is the link? Plain all-reduces of the first steps tell, and rank 0 chooses a codec for all (3LC §6).

Each measured step is a plain all-reduce of the gradients, so nothing is lost by it. Every rank times its own; the
slowest counts, since the step waits for it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import FP16, Codec, CodecSpeed, Decision, Link, ThreeLC, choose, measure
from .codec.auto import Topology as Route
from .transport import Transport

STEPS = 4  # plain steps that are timed; the first of them, which opens connections, is not counted
CANDIDATES: tuple[Codec, ...] = (FP16(), ThreeLC(), ThreeLC(s=1.75))  # mildest first
MARGIN = 0.1  # what a codec must gain
_SAMPLE = 1 << 21  # values; the speed of a codec shows on two million


@dataclass(frozen=True)
class Chosen:
    """The decision: a codec (None: plain all-reduce) with its route, and the reason."""

    codec: Codec | None
    topology: Route
    reason: str


class LinkProbe:
    """Times plain steps, then decides."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._wire: list[float] = []
        self._latency: list[float] = []

    def mean(self, flat: Tensor) -> None:
        """The mean over all ranks, in place, timed."""
        tick = torch.zeros(1)
        self.transport.sum(tick)  # ranks meet, so that waiting for the slowest is not taken for sending
        start = time.perf_counter()
        self.transport.sum(tick)
        middle = time.perf_counter()
        self.transport.sum(flat)
        self._latency.append(middle - start)
        self._wire.append(time.perf_counter() - middle)
        flat /= self.transport.world_size

    @property
    def ready(self) -> bool:
        return len(self._wire) >= STEPS

    @property
    def seconds(self) -> float:
        """Of a plain all-reduce: the median on this rank."""
        return statistics.median(self._wire[1:])

    def decide(self, gradient: Tensor, nbytes: int) -> Chosen:
        """Rank 0's decision from the slowest rank's figures; the same on all ranks.

        Args:
            gradient: a typical gradient, flat.
            nbytes: of all gradients of a step, as float32.
        """
        n = self.transport.world_size
        speeds = [measure(codec, gradient[:_SAMPLE].float()) for codec in CANDIDATES]
        own = [self.seconds, statistics.median(self._latency[1:])]
        own += [figure for speed in speeds for figure in (1 / speed.encode, 1 / speed.decode, 1 / speed.ratio)]
        table = torch.zeros(n, len(own), dtype=torch.float64)
        table[self.transport.rank] = torch.tensor(own, dtype=torch.float64)
        wire, latency, *rest = self.transport.sum(table).max(0).values.tolist()
        hop = latency / max(2 * (n - 1), 1)
        sending = max(wire - latency, 1e-9)
        link = Link(2 * (n - 1) / n * nbytes / sending if n > 1 else 1e12, hop)
        slowest = [
            CodecSpeed(codec, 1 / rest[3 * i], 1 / rest[3 * i + 1], 1 / rest[3 * i + 2])
            for i, codec in enumerate(CANDIDATES)
        ]
        decision = choose(slowest, nbytes=nbytes, world_size=n, link=link, margin=MARGIN)
        return self._shared(decision)

    def _shared(self, decision: Decision) -> Chosen:
        """Rank 0's choice, told to all."""
        chosen = decision.chosen
        index = CANDIDATES.index(chosen.codec) if chosen.codec is not None else -1
        told = torch.tensor([index, chosen.topology == "allgather"])
        self.transport.broadcast(told)
        codec = CANDIDATES[int(told[0])] if told[0] >= 0 else None
        return Chosen(codec, "allgather" if told[1] else "sharded", decision.reason)
