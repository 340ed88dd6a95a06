"""What a YellowFin step decided and why: one record a step, for logs and the report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

from .options import YellowFinOptions
from .statistics import Statistics


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


class Record:
    """The numbers of the last step and of the steps before it, kept on the device.

    Attributes:
        last: float64 (11,), the fields of `YellowFinStats` but the last.
        history: float64 (N, 2), rate without slow start and momentum of the last N = max(200, 10 window) tuned steps.
    """

    def __init__(self, options: YellowFinOptions, device: torch.device) -> None:
        self.options = options
        self.last = torch.zeros(11, dtype=torch.float64, device=device)
        self.history = torch.zeros(max(200, 10 * options.window), 2, dtype=torch.float64, device=device)
        self._places = torch.arange(len(self.history), device=device)

    def write(self, s: Statistics, mu: Tensor, lr: Tensor, total: Tensor, norm2: Tensor, clip: Tensor) -> None:
        """Take down a step: its statistics, and the momentum, rate, total momentum, ‖g‖² and clip that it had."""
        measured = (s.steps, s.h_min, s.h_max, s.variance, s.distance, s.mu)
        self.last = torch.stack([*measured, mu, lr, total, norm2.sqrt(), clip])
        # tuned steps are 2, 3, ...; a step that was not observed writes its predecessor's values once more
        row = (self._places == (s.steps - 2) % len(self.history)) & (s.steps > 1)
        self.history = torch.where(row[:, None], torch.stack([s.full_lr, mu]), self.history)

    def stats(self) -> YellowFinStats:
        """The last step as floats; one read from the device."""
        step, *numbers = self.last.tolist()
        names = dict(zip(_MEASURED, numbers, strict=True))
        return YellowFinStats(**names, step=int(step), slow_start=self.options.slow_start)

    def medians(self) -> dict[str, float]:
        """Median rate and momentum of the history; two reads from the device."""
        tuned = int(self.last[0]) - 1
        if tuned < 1:
            raise InvalidValue(f"optim: YellowFin.suggest() needs at least 2 steps with a gradient, had {tuned + 1}")
        lr, momentum = self.history[:tuned].median(dim=0).values.tolist()
        return {"lr": lr, "momentum": momentum}


_MEASURED = [field.name for field in fields(YellowFinStats)][1:-1]
