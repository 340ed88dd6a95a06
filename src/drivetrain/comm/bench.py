"""Is compressing worth it here? Steps of a small network under each codec beside plain DDP, in one interleaved run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drivetrain.base.errors import InvalidValue, unknown_name

from . import testbed
from .codec import names

PLAIN = "ddp"
PEERS = ("fp16-hook", "powersgd:RANK")


@dataclass(frozen=True)
class MethodCost:
    """One method.

    Attributes:
        name: "ddp", a codec, "auto", "fp16-hook" or "powersgd:RANK".
        seconds: of a step, the median; low, high: the range.
        ratio: of its step to plain DDP's.
        bytes: that rank 0's interface sent in a step; None on loopback, where none are counted.
        decision: what "auto" chose.
    """

    name: str
    seconds: float
    low: float
    high: float
    ratio: float
    bytes: float | None
    decision: str


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured, plain DDP first."""

    ranks: int
    rate: str | None
    parameters: int
    methods: tuple[MethodCost, ...]

    @property
    def verdict(self) -> str:
        """One sentence: the fastest method and what it gains."""
        best = min(self.methods, key=lambda method: method.seconds)
        link = f"{self.rate} links" if self.rate else "loopback"
        where = f"{self.ranks} ranks, {link}, {self.parameters / 1e6:.2f} M parameters"
        if best.name == PLAIN:
            return f"plain DDP is the fastest here ({where}): leave compression off"
        return f"{best.name}: {1 / best.ratio:.3g}x the speed of plain DDP ({where})"

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "verdict": self.verdict}


def bench(
    codecs: Sequence[str], *, rate: str | None = None, ranks: int = 4, steps: int = 5, hidden: int = 1024
) -> BenchReport:
    """Measure.

    Args:
        codecs: names of codecs, "auto", "fp16-hook" (torch's), "powersgd:RANK" (torch's).
        rate: of each rank's link, such as "20mbit": needs root. None: this machine's loopback.
        ranks: processes, 2 or more.
        steps: that count, of each method.
        hidden: width of the network, 784 - hidden - hidden - 10.

    Raises:
        InvalidValue: an unknown codec, too few ranks or steps. Unavailable: no root for limited links.
    """
    methods = [PLAIN, *(check_method(codec) for codec in codecs if codec != PLAIN)]
    if ranks < 2 or steps < 1 or hidden < 1:
        raise InvalidValue(f"comm: bench needs 2 ranks, 1 step and width 1 or more, found {ranks}, {steps}, {hidden}")
    with testbed.star(ranks, rate) if rate else testbed.loopback(ranks) as bed:
        found = bed.run("drivetrain.comm.bench_rank", [",".join(methods), steps, hidden], timeout_s=900).results[0]
    plain = statistics.median(found[PLAIN]["seconds"])
    costs = []
    for method in methods:
        seconds = found[method]["seconds"]
        middle = statistics.median(seconds)
        costs.append(
            MethodCost(
                method, middle, min(seconds), max(seconds), middle / plain, found[method]["bytes"],
                found[method]["decision"],
            )
        )  # fmt: skip
    size = 785 * hidden + (hidden + 1) * hidden + (hidden + 1) * 10
    return BenchReport(ranks, rate, size, tuple(costs))


def check_method(name: str) -> str:
    """The name, if it names a method.

    Raises:
        InvalidValue: it does not; says which do.
    """
    text = name.strip().casefold()
    rank = text.removeprefix("powersgd:")
    if text in (*names(), "auto", "fp16-hook") or (rank != text and rank.isdigit() and int(rank) > 0):
        return text
    raise unknown_name("comm: bench: codec", name, (*names(), "auto", *PEERS))
