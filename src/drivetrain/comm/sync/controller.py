"""From measurements to periods: intervals on one clock, the loss over them, and the rule asked at their ends.

`LocalUpdate` runs one controller, on rank 0; `simulate` runs the same on a simulated clock.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from drivetrain.base.errors import InvalidValue

from .rules import LocalState, PeriodRule

_KEPT = (
    "tau", "lr0", "lr_before", "loss0", "loss_before", "interval", "decided_at", "_loss_sum", "_loss_steps",
    "_before", "_after", "_periods", "_weight", "_last_steps",
)  # fmt: skip
MEMORY = 0.8  # of the averages over averagings: about the last five count


class Controller:
    """Ask a rule when an interval ended, with what was measured over it.

    Args:
        rule: the period rule.
        lr0: learning rate at the start.
        budget: seconds the whole run may take, or None.
        total_steps: local steps of the whole run, or None.

    Attributes:
        tau: the period in force.
        loss0: F_0; None until a loss was seen.
    """

    def __init__(
        self, rule: PeriodRule, *, lr0: float, budget: float | None = None, total_steps: int | None = None
    ) -> None:
        if budget is not None and not budget > 0:
            raise InvalidValue(f"comm: budget={budget!r}, wanted seconds above 0")
        if total_steps is not None and not total_steps >= 1:
            raise InvalidValue(f"comm: total_steps={total_steps!r}, wanted the local steps of the whole run")
        self.rule = rule
        self.budget, self.total_steps = budget, total_steps
        self.tau0 = self.tau = _checked(rule, rule.tau0)
        self.lr0, self.lr_before = lr0, lr0
        self.loss0: float | None = None
        self.loss_before: float | None = None
        self.interval = 0
        self.decided_at = 0.0
        self._loss_sum, self._loss_steps = 0.0, 0
        self._before, self._after, self._periods, self._weight, self._last_steps = 0.0, 0.0, 0.0, 0.0, 0

    def decide(
        self,
        *,
        t: float,
        step: int,
        steps: int,
        loss: float | None,
        before: float | None = None,
        after: float | None = None,
        lr: float,
        y: float = 0.0,
        d: float = 0.0,
        disagreement: float = 0.0,
        progress: float = 0.0,
    ) -> int:
        """The period that follows an averaging.

        Args:
            t: seconds since the start.
            step, steps: local steps in all, and since the last averaging.
            loss: mean training loss over those steps and all ranks; None where nobody observed any.
            before, after: mean over ranks of the last loss before the averaging before this one, and of the first
                after it. At the first call `after` is the first loss of the run, and becomes F_0.
            lr: learning rate now.
            y, d, disagreement, progress: see `LocalState`.

        Raises:
            InvalidValue: F_0 is not above the rule's f_inf, or the rule's answer is no whole number of 1 or more.
        """
        if self.loss0 is None and loss is not None:
            self.loss0 = loss if after is None else after
        if loss is not None:
            self._loss_sum += loss * steps
            self._loss_steps += steps
        self._remember(before, after, steps)
        if t < self.decided_at + self.rule.interval_s:
            return self.tau
        mean = self._loss_sum / self._loss_steps if self._loss_steps else None
        self._loss_sum, self._loss_steps = 0.0, 0
        self.decided_at = t
        self.interval += 1
        if not lr > 0:  # the end of a schedule, or a pause: nothing moves, and eta_0 / eta_l means nothing
            return self.tau
        if lr > self.lr0:  # a warm-up: eta_0 is its peak, and a rising rate is no reason to average more often
            self.lr0 = self.lr_before = lr
            return self.tau
        if mean is not None and not (math.isfinite(mean) and mean > 0):
            warnings.warn(
                f"comm: the loss of the interval that ends at step {step} is {mean:.6g}, not a positive number: "
                f"tau stays {self.tau}",
                UserWarning,
                stacklevel=2,
            )
            return self.tau
        measured = {"y": y, "d": d, "disagreement": disagreement, "progress": progress, **self._gain()}
        self.tau = self._ask(mean, lr, t, step, measured)
        self.loss_before, self.lr_before = mean, lr
        return self.tau

    def _ask(self, loss: float | None, lr: float, t: float, step: int, measured: dict[str, float]) -> int:
        state = LocalState(
            tau=self.tau,
            tau0=self.tau0,
            loss=1.0 if loss is None else loss,
            loss0=1.0 if self.loss0 is None else self.loss0,
            loss_before=self.loss_before,
            lr=lr,
            lr0=self.lr0,
            lr_before=self.lr_before,
            t_seconds=t,
            interval=self.interval,
            step=step,
            budget=self.budget,
            total_steps=self.total_steps,
            **measured,
        )
        return _checked(self.rule, self.rule.next(state))

    def _remember(self, before: float | None, after: float | None, steps: int) -> None:
        """Average what averagings won over the last few of them, each with the period that led to it."""
        if before is not None and after is not None and math.isfinite(before) and math.isfinite(after):
            self._before = MEMORY * self._before + before
            self._after = MEMORY * self._after + after
            self._periods = MEMORY * self._periods + self._last_steps
            self._weight = MEMORY * self._weight + 1
        self._last_steps = steps

    def _gain(self) -> dict[str, float]:
        if not (self._weight and self._after > 0):
            return {}
        return {"gain": self._before / self._after - 1, "gain_steps": self._periods / self._weight}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name in _KEPT:
            setattr(self, name, state[name])


def _checked(rule: PeriodRule, tau: object) -> int:
    if isinstance(tau, bool) or not isinstance(tau, int) or tau < 1:
        name = getattr(rule, "name", type(rule).__name__)
        raise InvalidValue(f"comm: rule {name!r} answered tau={tau!r}, wanted a whole number of 1 or more")
    return tau
