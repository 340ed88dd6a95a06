"""Aggregation rules beside ByzFL 0.0.11: 19 vectors of a million coordinates, 4 of them faulty, one thread.

    python benchmarks/06_rules.py [--rounds 5]

Needs byzfl==0.0.11 (`pip install --no-deps byzfl==0.0.11`; its training framework, which needs more, is not imported).
Each rule of ByzFL runs on the same tensor in the same round as ours, CPU time; about 3 CPU minutes.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.timing import Timing, interleave
from drivetrain.comm.aggregate import coordinate, distances, get, kernel, names
from harness import Benchmark

N, F, D = 19, 4, 1_000_000
GOAL = 1 / 5
PEERS = {
    "krum": "Krum",
    "multi-krum": "MultiKrum",
    "median": "Median",
    "trimmed-mean": "TrMean",
    "meamed": "Meamed",
    "mda": "MDA",
    "geometric-median": "GeometricMedian",
    "centered-clipping": "CenteredClipping",
}
TARGETS = ("krum", "multi-krum", "median", "trimmed-mean", "meamed", "mda")
COORDINATE = ("average", "average-nan", "median", "trimmed-mean", "meamed", "phocas")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each rule")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    g = torch.randn(N, D, generator=torch.Generator().manual_seed(6))
    setting = f"n={N} f={F} d={D:,}, 1 thread, CPU time: median of {arguments.rounds} interleaved rounds (low-high)"
    benchmark = Benchmark("06", "rules", title="06 AggregaThor: aggregation rules", setting=setting)
    rounds = arguments.rounds

    ours = interleave({"mean": lambda: g.mean(0), **ours_of(g)}, rounds=3 * rounds, clock="cpu")
    pairs: dict[str, dict[str, Timing]] = {}
    for name, peer in PEERS.items():
        pairs[name] = interleave({"ours": call(name, g), "peer": byzfl_call(peer, g)}, rounds=rounds, clock="cpu")
    benchmark.row("plain mean (torch)", ours=ours["mean"])
    for name in names():
        columns: dict[str, Any] = {"ours": ours[name], "to_a_mean": ours[name].ratio(ours["mean"])}
        if name in pairs:
            columns |= {"byzfl": pairs[name]["peer"], "ratio": pairs[name]["ours"].ratio(pairs[name]["peer"])}
        benchmark.row(name, **columns)
    targets(benchmark, ours, pairs)
    plain_versions(benchmark, g)
    benchmark.finish()


def ours_of(g: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {name: call(name, g) for name in names()}


def call(name: str, g: Tensor) -> Callable[[], Tensor]:
    rule, f = get(name), 0 if name.startswith("average") else F
    return lambda: rule(g, f)


def byzfl_call(name: str, g: Tensor) -> Callable[[], Tensor]:
    """A rule of ByzFL, whose training framework (it needs torchvision and seaborn) gives way to empty modules."""
    for part in ("byzfl.benchmark", "byzfl.fed_framework"):
        sys.modules.setdefault(part, types.ModuleType(part))
    from byzfl import aggregators

    kind = getattr(aggregators, name)
    rule = kind() if name in ("Median", "GeometricMedian", "CenteredClipping") else kind(F)
    return lambda: rule(g)


def targets(benchmark: Benchmark, ours: dict[str, Timing], pairs: dict[str, dict[str, Timing]]) -> None:
    for name in TARGETS:
        ratio = pairs[name]["ours"].ratio(pairs[name]["peer"])
        benchmark.target(f"{name} <= 1/5 of ByzFL's time", measured=ratio, goal=GOAL)
    for name in COORDINATE:
        ratio = ours[name].ratio(ours["mean"])
        benchmark.target(f"{name} <= 5x a plain mean", measured=ratio, goal=5)
    ratio = ours["bulyan"].ratio(ours["multi-krum"])
    benchmark.target("bulyan <= 3x our multi-krum", measured=ratio, goal=3)


def plain_versions(benchmark: Benchmark, g: Tensor) -> None:
    """What the kernel gains over the torch version, which runs where there is no compiler, and on a GPU."""
    median = coordinate.Statistic("mean")
    timings = interleave(
        {
            "median, kernel": lambda: coordinate.coordinate_statistic(g, None, median),
            "median, torch": lambda: coordinate.torch_statistic(g, None, median),
            "torch.median": lambda: g.median(dim=0),
            "distances, kernel": lambda: kernel.distances(g, None, exact=False),
            "distances, torch": lambda: distances._gram_distances(g, None),
            "torch.cdist": lambda: torch.cdist(g, g),
        },
        rounds=3,
        clock="cpu",
    )
    for name, timing in timings.items():
        benchmark.row(name, ours=timing)


if __name__ == "__main__":
    main()
