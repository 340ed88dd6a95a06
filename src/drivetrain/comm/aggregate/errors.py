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


class TooManyMissing(DrivetrainError, RuntimeError):
    """Vectors that never arrived are so many that, with the broken ones, they are more than f.

    Attributes:
        ranks: whose vectors are missing.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, where: str | None = None, ranks: Sequence[int] = ()
    ) -> None:
        super().__init__(message, hint=hint, where=where)
        self.ranks = tuple(ranks)


def too_many_missing(missing: Sequence[int], broken: Sequence[int], f: int) -> TooManyMissing:
    """The error for nothing from `missing` and NaN or infinity from `broken`, together more than `f`."""
    also = f", {_who(broken)} NaN or infinity" if broken else ""
    return TooManyMissing(
        f"comm: {_who(missing)} sent nothing{also}: more than the f={f} faulty workers that the rule tolerates",
        hint="a missing vector counts as a faulty one: give the ranks more time, or raise f",
        ranks=missing,
    )


def _who(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else "ranks " + ", ".join(map(str, ranks))


def too_many_nonfinite(ranks: Sequence[int], f: int, step: int | None = None) -> TooManyNonFinite:
    """The error for NaN or infinity from more than `f` ranks."""
    when = "" if step is None else f" at step {step}"
    return TooManyNonFinite(
        f"comm: {_who(ranks)} sent NaN or infinity{when}, the rule tolerates f={f} faulty workers",
        hint="is the loss finite on these ranks? lower the learning rate, clip the gradients, or raise f",
        ranks=ranks,
        f=f,
        step=step,
    )
