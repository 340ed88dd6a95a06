"""Keep tau while the loss falls, and halve it only where local steps are what holds the loss up (spec 10 §2.7).

AdaComm halves tau in every interval in which the loss does not fall fast enough, also where nothing is won by it: on a
task that can be interpolated the noise vanishes at the optimum, and a small tau only costs time (spec 10 §2.7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from drivetrain.base.errors import InvalidValue

from .delay_model import propose_tau0
from .rules import LocalState, _bounds, _within, clamp


@dataclass(frozen=True)
class AdaCommPlateau:
    """Halve tau when the loss stalls and the workers disagree; never let averaging take more than `overhead`.

    Args:
        tau0: the first period.
        interval_s: seconds between decisions.
        gamma: factor at a plateau.
        fall: a plateau is an interval over which the loss fell by less than this share.
        noise: workers disagree when mean ||x_i - mean x||² > noise * ||G||², G the mean's change over a period.
        gain: tau stays <= the period that reaches this share of the largest speed-up, 1 + alpha: more wins nothing.
        overhead: tau stays >= alpha / overhead, so that averaging takes at most about this share of the time.
        anneal: over this last share of the budget tau falls to 1 geometrically; 0, or no budget: never.
        min, max: bounds of tau; `max` also binds the floor that `overhead` sets.
    """

    tau0: int = 20
    interval_s: float = 60.0
    gamma: float = 0.5
    fall: float = 0.01
    noise: float = 0.25
    gain: float = 0.9
    overhead: float = 0.25
    anneal: float = 0.1
    min: int = 1
    max: int | None = None
    name: ClassVar[str] = "adacomm-plateau"

    def __post_init__(self) -> None:
        _bounds(self.name, self.tau0, self.interval_s, self.min, self.max)
        _within(self.name, "gamma", self.gamma, 0, 1)
        _within(self.name, "overhead", self.overhead, 0, 1)
        _within(self.name, "gain", self.gain, 0, 0.999)
        if not (0 <= self.fall < 1 and 0 <= self.anneal < 1 and self.noise >= 0):
            raise InvalidValue(
                f"comm: {self.name}: fall={self.fall!r}, anneal={self.anneal!r}, noise={self.noise!r}: "
                "fall and anneal are shares below 1, noise is 0 or more"
            )

    def next(self, s: LocalState) -> int:
        if s.done is not None and (left := 1 - s.done) < self.anneal:
            return max(self.min, min(s.tau, math.ceil(s.tau0 ** max(0.0, left / self.anneal))))
        tau = max(s.tau, self.floor(s))
        if self.plateau(s) and self.disagrees(s):
            tau = max(math.ceil(self.gamma * tau), self.floor(s))
        return clamp(min(tau, self.ceiling(s)), self.min, self.max)

    def floor(self, s: LocalState) -> int:
        """tau_min = ceil(alpha / overhead)."""
        return max(self.min, math.ceil(s.alpha / self.overhead - 1e-9))

    def ceiling(self, s: LocalState) -> int:
        """The longest period worth its local steps; the first one until alpha is measured."""
        return max(self.floor(s), propose_tau0(s.alpha, self.gain)) if s.d > 0 and s.y > 0 else s.tau0

    def plateau(self, s: LocalState) -> bool:
        """Whether the loss fell by less than `fall` over the interval."""
        return s.loss_before is not None and s.loss > (1 - self.fall) * s.loss_before

    def disagrees(self, s: LocalState) -> bool:
        """Whether what the workers differ by is more than `noise` of what they made together."""
        return s.disagreement > self.noise * s.progress
