"""What ranks tell each other at an averaging, and what rank 0 makes of it (spec 10 §6, §8).

A `Note` goes out with every slice and a `Decision` comes back with the results, so neither costs a message of its own,
and no rank can decide differently: they all read the same bytes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue, RunFailed

from .controller import Controller

UNKNOWN = -math.inf  # a loss that nobody observed
OK, RULE_FAILED, OUT_OF_STEP = 0.0, 1.0, 2.0


class Note(NamedTuple):
    """One rank's word, a float32 each; or of all n ranks, a column (n,) each.

    Attributes:
        loss: mean training loss of the period, or UNKNOWN.
        before, after: the last loss before the averaging before this one, and the first after it. At the first
            averaging `after` is the first loss of the run, of which F_0 is made.
        steps: local steps of the period.
        y, d: smoothed seconds of a local step and of an averaging.
        norm: ||change||²; not finite marks a rank that must not count.
        syncs: averagings done.
        ended: 1 where this rank's data has ended and it only takes part (`LocalUpdate.drain`).
    """

    loss: Any = UNKNOWN
    before: Any = UNKNOWN
    after: Any = UNKNOWN
    steps: Any = 0.0
    y: Any = 0.0
    d: Any = 0.0
    norm: Any = 0.0
    syncs: Any = 0.0
    ended: Any = 0.0

    def tensor(self) -> Tensor:
        """(9,) float32."""
        return torch.tensor([float(value) for value in self])

    @classmethod
    def columns(cls, notes: Tensor) -> Note:
        """Of notes (n, 9)."""
        return cls(*notes.unbind(1))


NOTE = len(Note._fields)


class Decision(NamedTuple):
    """Rank 0's answer: the period that follows, whether all is well, and what it saw; a float32 each."""

    tau: float = 0.0
    verdict: float = OK
    loss: float = UNKNOWN
    y: float = 0.0
    d: float = 0.0
    ended: float = 0.0

    def tensor(self) -> Tensor:
        """(6,) float32."""
        return torch.tensor([float(value) for value in self])


DECISION = len(Decision._fields)


class Chair:
    """Rank 0's part: from the notes of all ranks to the next period.

    Args:
        controller: asks the rule.
        f: ranks whose word may be false: with f > 0, medians and inner ranks take the place of means and extremes.

    Attributes:
        failure: what the rule raised; the other ranks are told only that it did.
    """

    def __init__(self, controller: Controller, f: int = 0) -> None:
        self.controller, self.f = controller, f
        self.failure: DrivetrainError | None = None

    def decide(self, notes: Tensor, *, t: float, step: int, lr: float, spread: tuple[float, float]) -> Tensor:
        """Notes (n, 9) -> a decision (6,); never raises, for the others wait.

        Args:
            t, step, lr: this rank's clock, local steps and learning rate when it sent its change.
            spread: disagreement and progress of the averaging before.
        """
        # Plain numbers: a dozen tensor operations on n values would take longer than all the rest.
        note = Note(*zip(*notes.tolist(), strict=True))
        if self._out_of_step(note.syncs):
            return Decision(verdict=OUT_OF_STEP).tensor()
        # The slowest rank sets Y. It waits for nobody, so the shortest D is what averaging takes without the waiting.
        f = min(self.f, len(notes) - 1)
        y, d = sorted(note.y, reverse=True)[f], sorted(note.d)[f]
        loss, before, after = (self._mean(column) for column in (note.loss, note.before, note.after))
        steps = round(sum(note.steps) / len(note.steps))
        try:
            tau = self.controller.decide(
                t=t, step=step, steps=steps, loss=loss, before=before, after=after, lr=lr,
                y=y, d=d, disagreement=spread[0], progress=spread[1],
            )  # fmt: skip
        except DrivetrainError as error:
            self.failure = error
            return Decision(verdict=RULE_FAILED).tensor()
        return Decision(tau, OK, UNKNOWN if loss is None else loss, y, d, float(all(note.ended))).tensor()

    def refuse(self, decision: Decision, notes: Tensor, step: int) -> None:
        """Raise, on every rank, what the decision or the notes say is wrong; nothing was overwritten yet."""
        note = Note.columns(notes)
        if decision.verdict == OUT_OF_STEP:
            raise RunFailed(
                f"comm: the ranks have done {[int(k) for k in note.syncs.tolist()]} averagings, they must be equal",
                hint="were the ranks restored from checkpoints of one step, and do all call sync() alike?",
            )
        if decision.verdict == RULE_FAILED:
            failure, self.failure = self.failure, None
            raise failure or InvalidValue(f"comm: the period rule failed on rank 0 at step {step}")
        if not bool(torch.isfinite(note.norm).any()):
            raise RunFailed(
                f"comm: no rank has a finite model at step {step}",
                hint="lower the learning rate or clip gradients; the anchor still holds the last average",
            )

    def _out_of_step(self, syncs: Sequence[float]) -> bool:
        usual = statistics.median_low(syncs)
        return sum(count != usual for count in syncs) > self.f

    def _mean(self, column: Sequence[float]) -> float | None:
        seen = [value for value in column if value != UNKNOWN]
        if not seen:
            return None
        return statistics.median_low(seen) if self.f else sum(seen) / len(seen)
