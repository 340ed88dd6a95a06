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
    """Exponentially weighted mean without the bias of its start; `guess` until something was added."""

    def __init__(self, decay: float = 0.9, guess: float = 0.0) -> None:
        self.decay, self.guess = decay, guess
        self.total, self.weight = 0.0, 0.0

    @property
    def value(self) -> float:
        return self.total / self.weight if self.weight else self.guess

    def add(self, value: float) -> None:
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)


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
        self.untimed = 0  # steps of this period that Y leaves out

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def first_step(self) -> None:
        """The first step of the run is done; memory and kernels were made in it, so Y counts from here."""
        self.period_began, self.untimed = self.clock(), self.steps

    def end_period(self, device: torch.device) -> None:
        """The local steps of a period are done."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if self.steps > self.untimed:
            self.y.add(max(0.0, self.clock() - self.period_began) / (self.steps - self.untimed))

    def begin_period(self) -> None:
        """An averaging is done, or is on its way beside the next steps."""
        self.period_began = self.clock()
        self.steps = self.untimed = 0

    def state_dict(self) -> dict[str, Any]:
        """Times as seconds passed, so that they outlive the process and its clock."""
        now = self.clock()
        return {
            "elapsed": now - self.started,
            "period": now - self.period_began,
            "steps": (self.steps, self.untimed),
            "y": vars(self.y).copy(),
            "d": vars(self.d).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; the time in between does not count."""
        now = self.clock()
        self.started, self.period_began = now - state["elapsed"], now - state["period"]
        self.steps, self.untimed = state["steps"]
        vars(self.y).update(state["y"])
        vars(self.d).update(state["d"])


class Losses:
    """The losses of a period, summed where they are: nothing waits for a GPU before the averaging does.

    Beside their mean it keeps the last loss before an averaging took effect and the first one after: what averaging
    won, measured on the minibatches of training.
    """

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0
        self.last: Tensor | float | None = None
        self.before: Tensor | float | None = None
        self.after: Tensor | float | None = None
        self._fresh = True  # the next loss is the first after an averaging, or of the run

    def add(self, loss: Tensor | float) -> None:
        """A step's loss."""
        loss = loss.detach().float().mean() if isinstance(loss, Tensor) else float(loss)
        if self._fresh:
            self.after, self._fresh = loss, False
        self.last = loss
        self.total = self.total + loss
        self.count += 1

    def averaged(self) -> None:
        """An averaging took effect."""
        self.before, self.after, self._fresh = self.last, None, True

    def take(self) -> tuple[float | None, float | None, float | None]:
        """Mean since the last call; the losses before and after the last averaging; None where there was none."""
        mean = float(self.total) / self.count if self.count else None
        self.total, self.count = 0.0, 0
        return mean, _number(self.before), _number(self.after)

    def state_dict(self) -> dict[str, Any]:
        losses = {name: _number(getattr(self, name)) for name in ("total", "last", "before", "after")}
        return {**losses, "count": self.count, "fresh": self._fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.last, self.before, self.after = (state[k] for k in ("total", "last", "before", "after"))
        self.count, self._fresh = state["count"], state["fresh"]


def _number(loss: Tensor | float | None) -> float | None:
    return None if loss is None else float(loss)
