"""Gradients that are not finite, an error that leaves everything unchanged, and gradients that are suspiciously large.

On the CPU the check is immediate. Elsewhere reading a flag would make the host wait for the device, so the flag travels
without waiting and is reported at the first later step that finds it arrived; the bad steps were skipped on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError


class NonFiniteGradient(DrivetrainError, FloatingPointError):
    """A gradient holds an infinity or NaN; parameters and statistics are as they were before the step."""


def nonfinite_error(index: int, shape: Sequence[int], step: int, *, skipped: bool = False) -> NonFiniteGradient:
    """The error for one parameter; `skipped` is for the report that comes a step late."""
    what = "that step was skipped" if skipped else "nothing was changed"
    return NonFiniteGradient(
        f"YellowFin: gradient of parameter {index} (shape {tuple(shape)}) is not finite at step {step}; {what}",
        hint="is the loss finite, and a mean over samples? half precision needs torch.amp.GradScaler",
    )


def warn_of_sums(norm2: float) -> bool:
    """Warn when ‖g‖² is beyond 1e12, where the loss is most likely a sum over samples; whether it did."""
    if norm2 <= 1e12:
        return False
    warnings.warn(
        f"YellowFin: ‖g‖² is {norm2:.3g}. Is the loss a sum? Use the mean over samples (and tokens).",
        UserWarning,
        stacklevel=2,
    )
    return True


class DeferredReport:
    """Carries (bad, step, parameter) from the device to the host without making either wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.latch = torch.zeros(3, dtype=torch.float64, device=device)  # keeps the first bad step until it is reported
        self._host: Tensor | None = None
        self._arrived: torch.Event | None = None

    def post(self, bad: Tensor, step: Tensor, parameter: Tensor) -> None:
        """Latch the step if it is bad and send the latch on its way; 0-dim tensors on the device."""
        seen = torch.stack([bad.double(), step.double(), parameter.double()])
        self.latch = torch.where((self.latch[0] == 0) & bad, seen, self.latch)
        if self.device.type == "meta":
            return
        if self.device.type == "cpu":
            self._host = self.latch
            return
        if self._host is None:
            self._host = torch.zeros(3, dtype=torch.float64, pin_memory=True)
            self._arrived = torch.Event(self.device)
        elif self._arrived is not None and not self._arrived.query():
            return  # the last one is still on its way
        self._host.copy_(self.latch, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def poll(self) -> tuple[int, int] | None:
        """(step, parameter) of the first bad step that is known by now, once; None when there is none."""
        if self._host is None or (self._arrived is not None and not self._arrived.query()):
            return None
        bad, step, parameter = self._host.tolist()
        if not bad:
            return None
        self.latch = torch.zeros_like(self.latch)
        self._host = torch.zeros_like(self._host) if self._arrived is None else self._host.zero_()
        return int(step), int(parameter)
