"""What every aggregation rule is: n vectors and a number f of faulty ones in, one vector out (AggregaThor §2).

Shapes: n workers, d coordinates. A rule sees the vectors as they came: some may hold NaN, infinity, or lies; with a
mask, some coordinates never arrived. With at most f faulty vectors and n >= min_n(f) the result is finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import FaultCountError, RobustnessError, VectorError, too_many_missing, too_many_nonfinite

Kind = Literal["coordinate", "distance", "iterative"]
NEVER = 1 << 62  # min_n of a rule that tolerates no faulty worker
Resilience = Literal["none", "coordinate", "weak", "strong"]
Reduce = Callable[[Tensor], Tensor]


@runtime_checkable
class Aggregator(Protocol):
    """What the exchange and the federated server call."""

    name: str

    def min_n(self, f: int) -> int:
        """The least number of workers with which `f` faulty ones are tolerated."""

    def __call__(
        self,
        g: Tensor,
        f: int,
        *,
        mask: Tensor | None = None,
        info: dict[str, Any] | None = None,
        reduce: Reduce | None = None,
    ) -> Tensor:
        """One vector [d] out of g [n, d]."""


@runtime_checkable
class Selector(Protocol):
    """A rule that decides from distances alone, so that a layout may call it with a matrix summed over shards."""

    def select(self, sqdist: Tensor, f: int) -> Tensor:
        """Weights [n] or [theta, n] out of squared distances [n, n]; those to a broken vector are infinite."""


@dataclass
class Round:
    """The checked input of one aggregation.

    Attributes:
        g: [n, d], float32 or float64, contiguous; may hold NaN and infinity.
        f: how many vectors may be faulty.
        mask: bool [n, d], True where a value arrived; None when all did.
        info: facts for the caller: "weights" [n] or [theta, n], "sqdist" [n, n], "nonfinite" (ranks), "lost_share" [n],
            "empty" (coordinates nobody sent).
        reduce: sums a small float64 tensor over the shards of a sharded layout; the identity when there is one shard.
        absent: bool [n], vectors of which nothing arrived; None when there is none.
    """

    g: Tensor
    f: int
    mask: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)
    reduce: Reduce = lambda partial: partial
    absent: Tensor | None = None

    @property
    def n(self) -> int:
        return self.g.shape[0]

    @property
    def d(self) -> int:
        return self.g.shape[1]

    def refuse_broken(self, bad_n: Tensor, allowed: int) -> None:
        """Note the ranks with NaN or infinity (bool [n]); raise when these and the absent are more than `allowed`."""
        ranks = torch.nonzero(bad_n).flatten().tolist()
        self.info["nonfinite"] = ranks
        if len(ranks) > allowed:
            raise too_many_nonfinite(ranks, self.f)
        if self.absent is not None:
            missing = torch.nonzero(self.absent).flatten().tolist()
            if len(missing) + len(ranks) > allowed:
                raise too_many_missing(missing, ranks, self.f)

    def count_lost(self) -> None:
        """Note the share of each vector that never arrived, and which are absent; over all shards."""
        if self.mask is None:
            return
        have = self.mask.sum(1).double().cpu()
        packed = self.reduce(torch.cat([have, torch.tensor([float(self.d)], dtype=torch.float64)]))
        have, d = packed[:-1], packed[-1]
        self.info["lost_share"] = 1 - have / d.clamp(min=1)
        if d > 0 and bool((have == 0).any()):
            self.absent = have == 0


class Rule(ABC):
    """A rule by name; subclasses say what they need and how they aggregate.

    Attributes:
        name: as in `get(name)`.
        kind: "coordinate" rules act on each coordinate alone; "distance" rules choose by the n x n distances and have
            `select`; "iterative" ones pass over the vectors several times.
        resilience: what holds with n >= min_n(f): "weak" keeps the direction right, "strong" bounds every
            coordinate too.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    resilience: ClassVar[Resilience]

    @abstractmethod
    def min_n(self, f: int) -> int:
        """The least number of workers with which `f` faulty ones are tolerated."""

    def max_f(self, n: int) -> int:
        """The largest f that `n` workers allow; -1 when even f=0 needs more."""
        return max((f for f in range(n) if self.min_n(f) <= n), default=-1)

    @abstractmethod
    def aggregate(self, r: Round) -> Tensor:
        """The result [d] of a checked round."""

    def check(self, n: int, f: int) -> None:
        """Raise `RobustnessError` unless the rule tolerates `f` faulty workers among `n`."""
        check_fault_count(f)
        if n < self.min_n(f):
            raise _not_enough(self, n, f)

    def variance_bound(self, n: int, f: int) -> float | None:
        """What honest standard deviation / norm of the honest mean must stay below for the guarantee; None: unknown."""
        return None

    def cost(self, n: int, f: int, d: int) -> str:
        """The work of one aggregation, in words and a number."""
        return f"O(n d): {n * d:.2g} additions"

    def __call__(
        self,
        g: Tensor | Sequence[Tensor],
        f: int,
        *,
        mask: Tensor | None = None,
        info: dict[str, Any] | None = None,
        reduce: Reduce | None = None,
    ) -> Tensor:
        """Aggregate.

        Args:
            g: [n, d] of a floating-point type, or n vectors [d]; not changed.
            f: how many of them may be faulty.
            mask: bool [n, d], True where the value arrived.
            info: filled with facts about the round (see `Round.info`).
            reduce: given by a sharded layout whose ranks hold some coordinates of all n vectors: sums a small float64
                tensor over the ranks. Then all ranks choose alike, as if one held everything.

        Returns:
            [d], in the type of g.

        Raises:
            RobustnessError: n is too small for f.
            TooManyNonFinite: more than f vectors hold NaN or infinity.
            TooManyMissing: with those of which nothing arrived they are more than f.
            FaultCountError, VectorError: f is no count; the vectors do not fit together.
        """
        matrix, dtype = as_matrix(g)
        self.check(matrix.shape[0], f)
        r = Round(matrix, f, check_mask(mask, matrix), {} if info is None else info)
        if reduce is not None:
            r.reduce = reduce
        with torch.device("cpu"):  # decisions are small and made there, whatever the default device is
            r.count_lost()
            return self.aggregate(r).to(dtype)

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({options})"


def check_fault_count(f: int) -> None:
    """Raise `FaultCountError` unless `f` is a whole number of zero or more."""
    if isinstance(f, bool) or not isinstance(f, int) or f < 0:
        raise FaultCountError(f"comm: f={f!r}: the number of faulty workers is a whole number, 0 or more")


def check_option(name: str, option: str, value: Any, *, least: int) -> None:
    """Raise `RobustnessError` unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RobustnessError(f"comm: {name}: {option}={value!r}, wanted a whole number of at least {least}")


def as_matrix(g: Tensor | Sequence[Tensor]) -> tuple[Tensor, torch.dtype]:
    """The vectors as one contiguous matrix [n, d] in float32 or float64, and the type they came in."""
    if not isinstance(g, Tensor):
        g = _stack(list(g))
    if g.ndim != 2 or g.shape[0] == 0:
        raise VectorError(f"comm: a rule takes one matrix [workers, coordinates], this one has shape {list(g.shape)}")
    if not g.is_floating_point():
        raise VectorError(f"comm: a rule takes floating-point vectors, these are {_type(g)}")
    wide = torch.float64 if g.dtype == torch.float64 else torch.float32
    return g.detach().to(wide).contiguous(), g.dtype


def check_mask(mask: Tensor | None, g: Tensor) -> Tensor | None:
    """The mask, contiguous, or None where it hides nothing."""
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape != g.shape:
        raise VectorError(
            f"comm: the mask is {_type(mask)} {list(mask.shape)}, wanted bool {list(g.shape)}, True if arrived"
        )
    return mask.to(g.device).contiguous()


def _stack(rows: list[Tensor]) -> Tensor:
    if not rows:
        raise VectorError("comm: no vectors to aggregate")
    first = rows[0]
    for rank, row in enumerate(rows):
        if row.shape != first.shape or row.ndim != 1:
            raise VectorError(
                f"comm: rank {rank} sent a vector of shape {list(row.shape)}, rank 0 one of {list(first.shape)}",
                hint="all ranks must train the same model, and send flat vectors",
            )
        if row.dtype != first.dtype:
            raise VectorError(f"comm: rank {rank} sent {_type(row)}, rank 0 {_type(first)}")
    return torch.stack([row.detach() for row in rows])


def _type(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _not_enough(rule: Rule, n: int, f: int) -> RobustnessError:
    if rule.min_n(f) == NEVER:
        message, own = f"comm: {rule.name} tolerates no faulty worker, f={f} was asked for", ""
    else:
        message = f"comm: {rule.name} tolerates f={f} only with n >= {rule.min_n(f)} workers, this job has {n}"
        largest = rule.max_f(n)
        own = f"largest f here is {largest}" if largest >= 0 else f"even f=0 needs n >= {rule.min_n(0)}"
    other = _alternative(rule, n, f)
    return RobustnessError(message, hint="; ".join(part for part in (own, other) if part))


def _alternative(rule: Rule, n: int, f: int) -> str:
    for name, least in (("multi-krum", 2 * f + 3), ("median", 2 * f + 1)):
        if n >= least and name != rule.name:
            return f"{name} would tolerate f={f} from n >= {least}"
    return f"no rule tolerates f={f} with fewer than n = {2 * f + 1}"
