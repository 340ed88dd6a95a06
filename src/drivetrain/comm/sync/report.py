"""What an adaptive run did and why: period and loss over seconds, communication's share, and the speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .delay_model import speedup


@dataclass(frozen=True)
class SyncRow:
    """One averaging.

    Attributes:
        t: seconds on rank 0's clock, when the averaging began.
        step, steps: local steps in all, and of the period that ended.
        tau: the period that follows.
        loss: mean training loss of the period; None where none was observed.
        y, d: smoothed seconds of a local step (slowest rank) and of an averaging; d is 0 until the second.
        bytes: sent by this rank.
        excluded: ranks whose change was not finite and did not count.
    """

    t: float
    step: int
    steps: int
    tau: int
    loss: float | None
    y: float
    d: float
    bytes: int
    excluded: tuple[int, ...] = ()

    @property
    def comm_share(self) -> float:
        """Share of the time that averaging takes at this period: D / (tau Y + D)."""
        whole = self.tau * self.y + self.d
        return self.d / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class LocalReport:
    """Every averaging of a run.

    Attributes:
        rule: the rule's name.
        rows: in order.
    """

    rule: str
    rows: Sequence[SyncRow]

    @property
    def y(self) -> float:
        return self.rows[-1].y if self.rows else 0.0

    @property
    def d(self) -> float:
        return self.rows[-1].d if self.rows else 0.0

    @property
    def alpha(self) -> float:
        """D / Y as last measured."""
        return self.d / self.y if self.y > 0 else 0.0

    @property
    def bytes(self) -> int:
        """Sent by this rank in all."""
        return sum(row.bytes for row in self.rows)

    @property
    def steps_per_sync(self) -> float:
        """Mean period."""
        return sum(row.steps for row in self.rows) / len(self.rows) if self.rows else 0.0

    @property
    def predicted_speedup(self) -> float:
        """Steps per second over synchronous SGD's by the delay model, from measured Y and D and the mean period."""
        return speedup(self.alpha, self.steps_per_sync) if self.rows else 1.0

    @property
    def measured_speedup(self) -> float:
        """The same from the clock: steps between the first and last averaging times (Y + D), over the seconds."""
        if len(self.rows) < 2 or self.rows[-1].t <= self.rows[0].t:
            return 1.0
        first, last = self.rows[0], self.rows[-1]
        return (last.step - first.step) * (self.y + self.d) / (last.t - first.t)

    @property
    def reason(self) -> str:
        """In one sentence, where the run stands."""
        if not self.rows:
            return f"{self.rule}: no averaging yet"
        last = self.rows[-1]
        return (
            f"{self.rule}: tau = {last.tau} after {len(self.rows)} averagings; D / Y = {self.alpha:.3g}, so averaging "
            f"takes {last.comm_share:.0%} of the time and a step {self.predicted_speedup:.2f}x less than synchronous"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "rule": self.rule,
            "alpha": self.alpha,
            "y": self.y,
            "d": self.d,
            "bytes": self.bytes,
            "predicted_speedup": self.predicted_speedup,
            "measured_speedup": self.measured_speedup,
            "reason": self.reason,
            "rows": [
                {**asdict(row), "excluded": list(row.excluded), "comm_share": row.comm_share} for row in self.rows
            ],
        }
