"""The default period rule: as many local steps as earn their time, from D / Y and from what averaging wins.

After an averaging the loss falls at once, by the factor 1 + J: that much the local steps had strayed. Measurements on
two tasks (benchmarks/10_adacomm_simulated.py) fit an efficiency of local steps of 1 / (1 + tau / kappa), so that a loss
is reached after (1 + tau / kappa) (tau Y + D) / tau seconds a useful step, which is least at

    tau = sqrt(kappa D / Y)            with kappa ~ tau / J, the period at which half of the steps' worth is lost

The D under the root is AdaComm's tau* (§2.3); J takes the place of its unknown gap, smoothness and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .rules import LocalState, _bounds, _positive, clamp


@dataclass(frozen=True)
class Marginal:
    """Measure what averaging costs and wins, and set tau where both balance.

    Args:
        tau0: the first period, until D and Y are measured.
        interval_s: seconds between decisions; 0: at every averaging.
        kappa0: kappa until J is measured.
        scale: kappa = scale * tau / J.
        least_gain: J is taken for at least this: below, it is noise of the minibatches, and a period of
            scale / least_gain * D / Y has averaging take so little of the time that a longer one wins nothing.
        min, max: bounds of tau.
    """

    tau0: int = 10
    interval_s: float = 0.0
    kappa0: float = 30.0
    scale: float = 1.5
    least_gain: float = 0.1
    min: int = 1
    max: int | None = None
    name: ClassVar[str] = "marginal"

    def __post_init__(self) -> None:
        _bounds(self.name, self.tau0, self.interval_s, self.min, self.max)
        _positive(self.name, kappa0=self.kappa0, scale=self.scale, least_gain=self.least_gain)

    def next(self, s: LocalState) -> int:
        if s.alpha == 0:
            return s.tau
        tau = math.sqrt(self.kappa(s) * s.alpha)
        if s.gain_steps > 0:  # J carries the noise of a few minibatches: no leaps
            tau = min(max(tau, s.tau / 2), 1.5 * s.tau + 1)
        return clamp(max(1, round(tau)), self.min, self.max)

    def kappa(self, s: LocalState) -> float:
        """The period that halves the worth of local steps."""
        if s.gain_steps == 0:
            return self.kappa0
        return self.scale * s.gain_steps / max(s.gain, self.least_gain)
