"""Rules that look at one coordinate at a time: mean, median, trimmed mean, and means of the values nearest to these.

Shapes: n workers, d coordinates. A value that is masked, NaN or infinite is missing: its coordinate has n_eff values
and tolerates f_eff = min(f, (n_eff - 1) // 2) (AggregaThor §2.5). Missing is safe: k broken vectors are k of the f, and
n_eff = n - k values still hold a majority of honest ones. The sums are made in float64 from sorted values, so the order
of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from drivetrain.base.errors import unknown_name

from . import kernel
from .network import network, sorting_network
from .rule import NEVER, Kind, Resilience, Round, Rule

Even = Literal["lower", "upper", "mean"]
Center = Literal["average", "lower", "upper", "mean", "trimmed"]
CENTERS: tuple[Center, ...] = ("average", "lower", "upper", "mean", "trimmed")  # in the order of the kernel's enum


@dataclass(frozen=True)
class Statistic:
    """What a coordinate rule computes of n sorted values.

    Attributes:
        center: "average" of all, the middle value by "lower", "upper" or "mean" of the two, or the "trimmed" mean.
        f: how many the trimmed mean cuts on each side.
        drop: above 0, the result is the mean of all but `drop` values, those nearest to the centre; at equal distances
            the lower.
    """

    center: Center
    f: int = 0
    drop: int = 0

    def wanted(self, n: int) -> range:
        """The sorted rows that the result depends on."""
        if self.drop:
            return range(n)
        if self.center == "average":
            return range(0)
        if self.center == "trimmed":
            return range(self.f, n - self.f)
        return range(
            n // 2 if self.center == "upper" else (n - 1) // 2, 1 + ((n - 1) // 2 if self.center == "lower" else n // 2)
        )


def coordinate_statistic(g: Tensor, mask: Tensor | None, what: Statistic) -> tuple[Tensor, Tensor, int]:
    """`what` of every column.

    Args:
        g: [n, d], float32 or float64; may hold NaN and infinity.
        mask: bool [n, d], True where a value arrived, or None.

    Returns:
        The result [d] (0 where a column has no value), the rows that hold NaN or infinity (bool [n]), and how many
        columns had no value.
    """
    if kernel.fits(g):
        n = g.shape[0]
        networks = network(n, what.wanted(n)), sorting_network(n)
        return kernel.coordinates(g, mask, *networks, CENTERS.index(what.center), what.f, what.drop)
    return torch_statistic(g, mask, what)


def torch_statistic(g: Tensor, mask: Tensor | None, what: Statistic) -> tuple[Tensor, Tensor, int]:
    """The torch version of `coordinate_statistic`: any device, float32 or float64."""
    out = torch.empty(g.shape[1], dtype=g.dtype, device=g.device)
    bad, empty = torch.zeros(g.shape[0], dtype=torch.bool, device=g.device), 0
    for columns in column_chunks(g):
        chunk = g[:, columns]
        finite = finite_values(chunk)
        present = finite if mask is None else finite & mask[:, columns]
        broken = ~finite if mask is None else ~finite & mask[:, columns]
        bad |= broken.any(1)
        have = present.sum(0)
        values = _complete(chunk, what).to(g.dtype)
        partly = torch.nonzero(have < g.shape[0]).flatten()
        if len(partly):
            some = torch.where(present, chunk, torch.inf)[:, partly]
            values[partly] = _partial(some, have[partly], what).to(g.dtype)
            empty += int((have == 0).sum())
        out[columns] = values
    return out, bad, empty


def column_chunks(g: Tensor) -> Iterator[slice]:
    """Pieces of the columns that the torch versions work on at once: few enough for a cache, or many for a GPU."""
    size = 1 << (16 if g.device.type == "cpu" else 20)
    return (slice(start, start + size) for start in range(0, g.shape[1], size))


def finite_values(x: Tensor) -> Tensor:
    """Where `x` is finite: torch.isfinite, in a fifth of its time on a CPU."""
    return x * 0 == 0


def _sorted_rows(x: Tensor, pairs: tuple[tuple[int, int], ...]) -> list[Tensor]:
    rows = list(x)
    for i, j in pairs:
        rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
    return rows


def _complete(x: Tensor, what: Statistic) -> Tensor:
    n = x.shape[0]
    rows = _sorted_rows(x, network(n, what.wanted(n)))
    if what.center in ("average", "trimmed"):
        cut = what.f if what.center == "trimmed" else 0
        center = _mean([row.double() for row in rows[cut : n - cut]])
    else:
        low, high = rows[(n - 1) // 2], rows[n // 2]
        low, high = {"lower": (low, low), "upper": (high, high)}.get(what.center, (low, high))
        center = (low.double() + high.double()) / 2
    return _nearest(rows, center, what.drop) if what.drop else center


def _mean(rows: list[Tensor]) -> Tensor:
    total = torch.zeros_like(rows[0])
    for row in rows:
        total += row
    return total / len(rows)


def _nearest(rows: list[Tensor], center: Tensor, drop: int) -> Tensor:
    """Mean of the n - drop sorted values nearest to the centre: a window of `keep` rows, moved up past k while

        center - x[k] > x[k + keep] - center,

    which holds up to some k and fails after it. window[k % keep] is what the window has for k.
    """
    keep = len(rows) - drop
    window = rows[:keep]
    for k in range(drop):
        moves = center - rows[k].double() > rows[k + keep].double() - center
        window[k % keep] = torch.where(moves, rows[k + keep], window[k % keep])
    return _mean([row.double() for row in window])


def _partial(x: Tensor, have: Tensor, what: Statistic) -> Tensor:
    """The same for columns with missing values (+inf in x); `have` counts the others. Sorting puts them at the end."""
    x = x.sort(dim=0).values.double()
    rank = torch.arange(x.shape[0], device=x.device)[:, None]
    trim = ((have - 1) // 2).clamp(min=0, max=what.f)

    def mean(first: Tensor, last: Tensor) -> Tensor:
        inside = (rank >= first) & (rank < last)
        return torch.where(inside, x, 0.0).sum(0) / (last - first)

    if what.center in ("average", "trimmed"):
        cut = trim if what.center == "trimmed" else torch.zeros_like(trim)
        center = mean(cut, have - cut)
    else:
        low, high = (have - 1).clamp(min=0) // 2, (have // 2).clamp(max=x.shape[0] - 1)
        low, high = {"lower": (low, low), "upper": (high, high)}.get(what.center, (low, high))
        center = (x.gather(0, low[None])[0] + x.gather(0, high[None])[0]) / 2
    if what.drop:
        above = x.gather(0, (rank + (have - trim)).clamp(max=x.shape[0] - 1))
        start = ((center - x > above - center) & (rank < trim)).sum(0)
        center = mean(start, start + have - trim)
    return torch.where(have > 0, center, 0.0)


class CoordinateRule(Rule):
    """A rule that is one `Statistic`; exact on any shard of the coordinates."""

    kind: ClassVar[Kind] = "coordinate"
    resilience: ClassVar[Resilience] = "coordinate"

    def min_n(self, f: int) -> int:
        return 2 * f + 1

    def statistic(self, f: int) -> Statistic:
        """What is computed of every coordinate."""
        raise NotImplementedError

    def allowed_broken(self, r: Round) -> int:
        """How many vectors may hold NaN or infinity."""
        return r.f

    def aggregate(self, r: Round) -> Tensor:
        out, bad, empty = coordinate_statistic(r.g, r.mask, self.statistic(r.f))
        totals = r.reduce(torch.cat([bad.double().cpu(), torch.tensor([float(empty)], dtype=torch.float64)]))
        r.info["empty"] = int(totals[-1])
        r.refuse_broken(totals[:-1] > 0, self.allowed_broken(r))
        return out


class Average(CoordinateRule):
    """The plain mean, which one faulty worker can move anywhere: needs f=0."""

    name = "average"
    resilience: ClassVar[Resilience] = "none"

    def min_n(self, f: int) -> int:
        return 1 if f == 0 else NEVER

    def statistic(self, f: int) -> Statistic:
        return Statistic("average")


class AverageNan(Average):
    """The mean of each coordinate's finite values, 0 where there is none: for lossy transport, no faulty workers."""

    name = "average-nan"

    def allowed_broken(self, r: Round) -> int:
        return r.n


class Median(CoordinateRule):
    """The middle value of each coordinate.

    Args:
        even: of an even number of values the "lower" middle (as torch.median), the "upper" (as the paper's code), or
            their "mean", which has no bias and is the default.
    """

    name = "median"

    def __init__(self, even: Even = "mean") -> None:
        if even not in ("lower", "upper", "mean"):
            raise unknown_name("comm: median: even", str(even), ("lower", "upper", "mean"))
        self.even: Even = even

    def statistic(self, f: int) -> Statistic:
        return Statistic(self.even)

    def variance_bound(self, n: int, f: int) -> float | None:
        return (n - f) ** -0.5


class TrimmedMean(CoordinateRule):
    """The mean of each coordinate without its f smallest and f largest values."""

    name = "trimmed-mean"

    def statistic(self, f: int) -> Statistic:
        return Statistic("trimmed", f)


class MeaMed(CoordinateRule):
    """The mean of the n - f values nearest to the median ("averaged-median"); `even` as in `Median`."""

    name = "meamed"

    def __init__(self, even: Even = "mean") -> None:
        self.even: Even = Median(even).even

    def statistic(self, f: int) -> Statistic:
        return Statistic(self.even, f, drop=f)


class Phocas(CoordinateRule):
    """The mean of the n - f values nearest to the trimmed mean."""

    name = "phocas"

    def statistic(self, f: int) -> Statistic:
        return Statistic("trimmed", f, drop=f)
