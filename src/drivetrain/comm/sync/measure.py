"""Y and D as they are: seconds of a local step and of an averaging, smoothed, and the losses in between (§2.7).

Whole periods are timed, not steps: on a GPU a step ends long after its call returns, but an averaging waits for all of
them, so period / steps is right there too, without an event or a synchronisation a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Ewma:
    """Exponentially weighted mean; the first value counts whole. 0.0 until then."""

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.value = 0.0
        self.seen = False

    def add(self, value: float) -> None:
        self.value = self.decay * self.value + (1 - self.decay) * value if self.seen else value
        self.seen = True


class Meter:
    """The clock of one rank: Y from whole periods, D from whole averagings.

    Args:
        clock: seconds, any start.

    Attributes:
        y, d: `Ewma` of seconds a local step, and an averaging (this rank's waiting for others included).
        steps: local steps since the last averaging began.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.started = self.period_began = clock()
        self.y, self.d = Ewma(), Ewma()
        self.steps = 0

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def end_period(self, device: torch.device) -> None:
        """The local steps of a period are done."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if self.steps:
            self.y.add(max(0.0, self.clock() - self.period_began) / self.steps)

    def begin_period(self) -> None:
        """An averaging is done, or is on its way beside the next steps."""
        self.period_began = self.clock()
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Times as seconds passed, so that they outlive the process and its clock."""
        now = self.clock()
        return {
            "elapsed": now - self.started,
            "period": now - self.period_began,
            "steps": self.steps,
            "y": (self.y.value, self.y.seen),
            "d": (self.d.value, self.d.seen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; the time in between does not count."""
        now = self.clock()
        self.started, self.period_began = now - state["elapsed"], now - state["period"]
        self.steps = state["steps"]
        self.y.value, self.y.seen = state["y"]
        self.d.value, self.d.seen = state["d"]


class Losses:
    """The losses of a period, summed where they are: nothing waits for a GPU before the averaging does.

    Attributes:
        first: the first loss of the run, which F_0 is made of.
    """

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0
        self.first: Tensor | float | None = None

    def add(self, loss: Tensor | float) -> None:
        loss = loss.detach().float().mean() if isinstance(loss, Tensor) else float(loss)
        if self.first is None:
            self.first = loss
        self.total = self.total + loss
        self.count += 1

    def take(self) -> tuple[float | None, float | None]:
        """Mean since the last call, and the first of the run; None where there was none."""
        mean = float(self.total) / self.count if self.count else None
        self.total, self.count = 0.0, 0
        return mean, None if self.first is None else float(self.first)

    def state_dict(self) -> dict[str, Any]:
        first = None if self.first is None else float(self.first)
        return {"total": float(self.total), "count": self.count, "first": first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.count, self.first = state["total"], state["count"], state["first"]
