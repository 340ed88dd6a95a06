"""What an aggregation rule refuses: too few workers, too many broken vectors, vectors that do not fit together."""

from __future__ import annotations

from collections.abc import Sequence

from drivetrain.base.errors import DrivetrainError, InvalidValue


class RobustnessError(InvalidValue):
    """A rule cannot tolerate f faulty workers among n, or an option of it makes no sense there."""


class FaultCountError(DrivetrainError, TypeError):
    """f, the number of faulty workers, is not a whole number of zero or more."""


class VectorError(DrivetrainError, TypeError):
    """The vectors of two ranks differ in shape or type, or a rule cannot read them; names the rank."""


class TooManyNonFinite(DrivetrainError, FloatingPointError):
    """More than f ranks sent NaN or infinity, so no rule can vouch for a result.

    Attributes:
        ranks: who sent them.
        f: how many the rule was to tolerate.
        step: the training step, where the caller knows it (`at_step`).
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        where: str | None = None,
        ranks: Sequence[int] = (),
        f: int = 0,
        step: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, where=where)
        self.ranks, self.f, self.step = tuple(ranks), f, step

    def at_step(self, step: int) -> TooManyNonFinite:
        """The same error, saying at which training step it happened."""
        return too_many_nonfinite(self.ranks, self.f, step)

    def __reduce__(self) -> tuple[object, ...]:
        return too_many_nonfinite, (self.ranks, self.f, self.step)


def too_many_nonfinite(ranks: Sequence[int], f: int, step: int | None = None) -> TooManyNonFinite:
    """The error for NaN or infinity from more than `f` ranks."""
    when = "" if step is None else f" at step {step}"
    who = f"rank {ranks[0]}" if len(ranks) == 1 else "ranks " + ", ".join(map(str, ranks))
    return TooManyNonFinite(
        f"comm: {who} sent NaN or infinity{when}, the rule tolerates f={f} faulty workers",
        hint="is the loss finite on these ranks? lower the learning rate, clip the gradients, or raise f",
        ranks=ranks,
        f=f,
        step=step,
    )
