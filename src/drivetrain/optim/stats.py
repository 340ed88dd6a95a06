"""What a YellowFin step decided and why: one record a step, for logs and the report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class YellowFinStats:
    """The last step of a `YellowFin`, as floats.

    Attributes:
        step: gradients observed so far.
        h_min, h_max: curvature range.
        variance, distance: C and D, the gradient's variance and the distance to the optimum.
        mu_target: momentum that SingleStep asks for.
        mu: momentum that was used; differs from the target in the closed loop.
        lr: tuned learning rate that was used, before the groups' multipliers.
        total_momentum: what the sensor measured; `mu` where gradients are not stale, NaN until measured.
        gradient_norm: ‖g‖ as it came in.
        clip: factor that clipping put on the update, 1 for none.
        slow_start: steps over which the rate rises.
    """

    step: int
    h_min: float
    h_max: float
    variance: float
    distance: float
    mu_target: float
    mu: float
    lr: float
    total_momentum: float
    gradient_norm: float
    clip: float
    slow_start: int

    @property
    def reason(self) -> str:
        """In one sentence, what set this momentum and this rate."""
        if self.step <= 1:
            return "constructor's values: one gradient has no variance yet"
        root = (math.sqrt(self.h_max / self.h_min) - 1) / (math.sqrt(self.h_max / self.h_min) + 1)
        ratio = f"h_max / h_min = {self.h_max / self.h_min:.3g}"
        if self.mu_target <= root**2 * (1 + 1e-9):
            momentum = f"momentum covers the curvature range ({ratio})"
        else:
            momentum = (
                f"momentum averages gradient noise (C = {self.variance:.3g}), above what the range needs ({ratio})"
            )
        ramp = f", slow start {self.step}/{self.slow_start}" if self.step < self.slow_start else ""
        clipped = f", update clipped to {self.clip:.0%}" if self.clip < 1 else ""
        return f"{momentum}; rate (1 - sqrt(mu))² / h_min{ramp}{clipped}"

    def event(self) -> dict[str, float | int | str | None]:
        """The record as JSON values: every field, NaN as None, and the reason."""
        values = asdict(self)
        clean = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        return {**clean, "reason": self.reason}


def from_tensor(row: Tensor, slow_start: int) -> YellowFinStats:
    """A record from its numbers in the order of the fields; one read from the device."""
    step, *numbers = row.tolist()
    return YellowFinStats(**dict(zip(_MEASURED, numbers, strict=True)), step=int(step), slow_start=slow_start)


_MEASURED = [field.name for field in fields(YellowFinStats)][1:-1]
