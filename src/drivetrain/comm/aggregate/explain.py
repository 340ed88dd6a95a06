"""What a rule promises for n workers of which f may be faulty, before any training (AggregaThor §2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import RobustnessError
from .registry import get
from .rule import NEVER, Resilience, Rule

_PROMISE = {
    "none": "no faulty worker is tolerated",
    "coordinate": "every coordinate stays within the honest values",
    "weak": "the result keeps the direction of the honest mean, but one coordinate of many may be far off",
    "strong": "the result keeps the direction of the honest mean, and every coordinate stays near the honest values",
}


@dataclass(frozen=True)
class Explanation:
    """Whether a rule fits a job, and what it costs there.

    Attributes:
        rule, n, f, d: what was asked.
        ok: whether the rule tolerates f faulty workers among n.
        reason: one sentence on why, or why not and what would.
        resilience: "none", "coordinate", "weak" or "strong".
        min_n: the least n for this f; None where no n is enough.
        max_f: the largest f for this n; -1 where even f=0 needs more workers.
        variance_bound: the guarantee needs honest standard deviation / norm of the honest mean below this; None: not
            known.
        cost: the work of one aggregation.
        bytes_per_rank: what a rank sends in the sharded layout, float32: 2 (n - 1) / n * 4 d, and 8 n^2 for distances.
    """

    rule: str
    n: int
    f: int
    d: int
    ok: bool
    reason: str
    resilience: Resilience
    min_n: int | None
    max_f: int
    variance_bound: float | None
    cost: str
    bytes_per_rank: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dict(vars(self))


def explain(rule: str | Rule, n: int, f: int, d: int) -> Explanation:
    """Say whether `rule` tolerates `f` faulty workers among `n` and what it costs for `d` coordinates.

    Raises:
        InvalidValue: an unknown rule, or n or d below 1.
        FaultCountError: f is not a whole number of 0 or more.
    """
    chosen = get(rule)
    for name, value in (("n", n), ("d", d)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RobustnessError(f"comm: explain: {name}={value!r}, wanted a whole number of at least 1")
    least: int | None = None
    try:
        chosen.check(n, f)
        ok, reason = True, f"{chosen.name} tolerates f={f} of n={n}: {_PROMISE[chosen.resilience]}"
    except RobustnessError as error:
        ok, reason = False, "; ".join(str(error).removeprefix("comm: ").splitlines())
    least = None if chosen.min_n(f) >= NEVER else chosen.min_n(f)
    matrix = 0 if chosen.kind == "coordinate" else 8 * n * n
    return Explanation(
        rule=chosen.name,
        n=n,
        f=f,
        d=d,
        ok=ok,
        reason=reason,
        resilience=chosen.resilience,
        min_n=least,
        max_f=chosen.max_f(n),
        variance_bound=chosen.variance_bound(n, f) if ok else None,
        cost=chosen.cost(n, f, d),
        bytes_per_rank=round(2 * (n - 1) / n * 4 * d) + matrix,
    )
