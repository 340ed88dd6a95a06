"""How the allowed error is shared among the decisions that one test set will make (§2.4).

With probability at least `reliability` all decisions are right in the sense of the mode. What the developer sees
decides how many different models the set may have to judge: δ_t = δ / (number of them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ..base.errors import InvalidValue, unknown_name
from .condition import exact

ADAPTIVITIES = ("none", "full", "first-change", "passes:k", "open")


def feedback_nodes(steps: int, passes: int) -> int:
    """M(H, k): commits that can be judged before the k-th pass, over all feedback histories; M(H, H) = 2^H - 1."""
    row, total = [1], 0
    for _ in range(steps):
        total += sum(row[:passes])
        row = [a + b for a, b in zip([*row, 0], [0, *row], strict=True)][:passes]
    return total


@dataclass(frozen=True)
class Adaptivity:
    """What the developer learns of each verdict.

    Attributes:
        kind: "none" (nothing, a third party does), "full" (each verdict), "passes" (each verdict, and the test set
            retires at the `passes`-th pass), "open" (nothing, and no number of steps is fixed).
        passes: passes after which the test set retires; None where it never does.
    """

    kind: str
    passes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Adaptivity:
        """Read "none", "full", "first-change" (also "firstChange"), "passes:3" or "open"."""
        name = str(text).strip()
        if name in ("first-change", "firstChange", "first_change"):
            return cls("passes", 1)
        if name.startswith("passes:"):
            count = name.removeprefix("passes:").strip()
            if not count.isdigit() or int(count) < 1:
                raise InvalidValue(f"ci: adaptivity {name!r}: the number of passes must be a whole number >= 1")
            return cls("passes", int(count))
        if name not in ("none", "full", "open"):
            raise unknown_name("ci: adaptivity", name, ADAPTIVITIES)
        return cls(name)

    @property
    def hidden(self) -> bool:
        """Whether the developer must not learn the verdict."""
        return self.kind in ("none", "open")

    def models(self, steps: int) -> Fraction:
        """δ / δ_t: how many models the error is shared among. For "open", step t = `steps` gets 6δ/(π² t²)."""
        if self.kind == "full":
            return Fraction(2) ** steps
        if self.kind == "passes" and self.passes is not None:
            # At k >= H nothing ever retires the set: that is full feedback.
            return Fraction(feedback_nodes(steps, min(self.passes, steps)))
        if self.kind == "open":
            return Fraction(math.pi**2 / 6) * steps * steps
        return Fraction(steps)

    def __str__(self) -> str:
        if self.kind != "passes":
            return self.kind
        return "first-change" if self.passes == 1 else f"passes:{self.passes}"


def log_inverse_delta(reliability: float, steps: int, adaptivity: Adaptivity | str) -> float:
    """ln(1/δ_t) for one decision; in logarithms, as 2^-H underflows.

    Raises:
        InvalidValue: reliability outside (0, 1), or steps < 1.
    """
    if isinstance(adaptivity, str):
        adaptivity = Adaptivity.parse(adaptivity)
    check_reliability(reliability)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidValue(f"ci: steps is {steps!r}", hint="a whole number >= 1: commits one test set will judge")
    delta = 1 - exact(reliability)
    models = adaptivity.models(steps)
    return _log(models) - _log(delta)


def check_reliability(reliability: float) -> None:
    """Raise `InvalidValue` unless it is a probability strictly between 0 and 1."""
    if isinstance(reliability, bool) or not isinstance(reliability, (int, float)) or not 0 < reliability < 1:
        raise InvalidValue(f"ci: reliability is {reliability!r}", hint="a number between 0 and 1, e.g. 0.999")


def _log(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)
