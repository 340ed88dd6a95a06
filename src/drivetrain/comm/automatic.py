"""codec="auto": plain steps first, then the codec that should be fastest on trial, then what was faster (3LC §6).

Plain steps are all-reduces of the gradients, timed; from them and from the codecs' speed on the job's own gradient
comes a candidate. The candidate must then prove itself: a few steps go by it, and unless they are faster by MARGIN,
everything goes plain from then on. Rank 0 decides each time, from the figures of the slowest rank. No step is lost:
what a codec that failed its trial still held back goes with the next plain step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .link import MARGIN, Chosen, LinkProbe
from .transport import Transport

TRIAL = 4  # steps of the candidate; the first is not counted


class Automatic:
    """The decision of one exchange.

    Args:
        transport: of the exchange.
        adopt: makes the exchange use a candidate.
        drain: adds what the codecs hold back to gradients by name.
    """

    def __init__(
        self, transport: Transport, adopt: Callable[[Chosen], None], drain: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        self.transport, self._adopt, self._drain = transport, adopt, drain
        self._probe: LinkProbe | None = LinkProbe(transport)
        self._trial: list[float] = []
        self._all_reduce_seconds = 0.0
        self.plain = True  # this step is an all-reduce
        self.settled = transport.world_size == 1
        self.reason = "one rank sends nothing, so nothing is compressed" if self.settled else ""

    def all_reduce(self, gradients: Mapping[str, Tensor]) -> None:
        """A plain step: the mean over all ranks, in place; timed until the decision."""
        self._drain(gradients)
        flat = torch.cat([gradient.detach().reshape(-1).float() for gradient in gradients.values()])
        own = flat.clone() if self._probe is not None else flat
        if self._probe is not None:
            self._probe.mean(flat)
        else:
            self.transport.sum(flat).div_(self.transport.world_size)
        parts = flat.split([gradient.numel() for gradient in gradients.values()])
        for gradient, part in zip(gradients.values(), parts, strict=True):
            gradient.detach().copy_(part.view_as(gradient))
        if self._probe is not None and self._probe.ready and not self.settled:
            self._all_reduce_seconds = self._probe.seconds
            chosen = self._probe.decide(own, 4 * own.numel())
            self._probe = None
            self.reason, self.plain, self.settled = chosen.reason, chosen.codec is None, chosen.codec is None
            if chosen.codec is not None:
                self._adopt(chosen)

    def trial(self, step: Callable[[], None]) -> None:
        """A step of the candidate, timed; after some, keep it or go plain."""
        self.transport.sum(torch.zeros(1))  # ranks meet, as before a plain step
        start = time.perf_counter()
        step()
        self._trial.append(time.perf_counter() - start)
        if len(self._trial) < TRIAL:
            return
        own = torch.tensor([statistics.median(self._trial[1:]), self._all_reduce_seconds], dtype=torch.float64)
        table = torch.zeros(self.transport.world_size, 2, dtype=torch.float64)
        table[self.transport.rank] = own
        coded, plain = self.transport.sum(table).max(0).values.tolist()
        told = torch.tensor([coded * (1 + MARGIN) > plain])
        self.transport.broadcast(told)
        self.plain, self.settled = bool(told), True
        verdict = "so everything goes plain" if self.plain else "so it stays"
        self.reason += f"; on trial {1e3 * coded:.3g} ms beside {1e3 * plain:.3g} ms, {verdict}"
