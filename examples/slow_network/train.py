"""Train the digits over a slow network, three ways: plain DDP, 3LC, and 3LC with local updates.

    python train.py                 as root: 4 ranks on links of 20 Mbit/s; draws loss over seconds
    python train.py --loopback      without root: this machine's loopback, which is not slow; draws loss over bytes

Each rank runs this file again with --rank; `train` is all that a job of your own needs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from drivetrain.comm import Exchange, ThreeLC, testbed

VARIANTS: dict[str, dict[str, Any] | None] = {
    "plain DDP": None,
    "3LC": {"codec": "3lc"},
    "3LC + local updates": {"codec": ThreeLC(block=256), "sync": "marginal"},  # finer scales: changes come rarely
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--loopback", action="store_true", help="No root, no slow links: bytes instead of seconds.")
    options.add_argument("--ranks", type=int, default=4)
    options.add_argument("--rate", default="20mbit", help="Of every link, in each direction.")
    options.add_argument("--steps", type=int, default=150)
    options.add_argument("--out", type=Path, default=Path("slow_network.svg"))
    options.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.rank:
        as_rank(chosen.steps)
    rig = testbed.loopback(chosen.ranks) if chosen.loopback else testbed.star(chosen.ranks, chosen.rate, burst="32kb")
    with rig as bed:
        found = bed.run(Path(__file__), ["--rank", "--steps", chosen.steps], timeout_s=500).results[0]
    tell(found, chosen.loopback)
    draw(found, chosen.loopback, chosen.out)


def train(variant: str, steps: int) -> dict[str, Any]:
    """One rank's training: seconds, bytes and losses."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    x, y = digits()
    x, y = x[rank::ranks], y[rank::ranks]
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    slots = VARIANTS[variant]
    exchange = None if slots is None else Exchange(**slots)
    if exchange is None:
        model = DistributedDataParallel(model)
    else:
        model, optimizer = exchange.prepare(model, optimizer)
    order = torch.Generator().manual_seed(rank)
    losses: list[Tensor] = []
    seconds: list[float] = []
    dist.barrier()
    before, start = testbed.rank_traffic(), time.perf_counter()
    for _ in range(steps):
        rows = torch.randint(len(x), (32,), generator=order)
        loss = cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        if hasattr(optimizer, "observe"):
            optimizer.observe(loss)  # the rule looks at what averaging wins
        optimizer.step()
        losses.append(loss.detach())
        seconds.append(time.perf_counter() - start)
    if hasattr(optimizer, "sync"):
        optimizer.sync()  # all ranks end with one model
    dist.barrier()
    after = testbed.rank_traffic()
    if after is not None and before is not None:
        sent = float(after.sent - before.sent)  # the interface's counter
    elif hasattr(optimizer, "sync"):
        sent = float(optimizer.report().bytes)
    elif exchange is not None:
        sent = float(exchange.report().bytes_wire)
    else:
        sent = (
            2 * (ranks - 1) / ranks * 4 * sum(p.numel() for p in model.parameters()) * steps
        )  # a ring's, by arithmetic
    curve = torch.stack(losses)
    dist.all_reduce(curve)
    return {"seconds": seconds, "bytes": sent, "losses": (curve / ranks).tolist()}


def as_rank(steps: int) -> None:
    """All variants, one after another, in this process."""
    dist.init_process_group("gloo")
    testbed.hand_back({variant: train(variant, steps) for variant in VARIANTS})
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def tell(found: dict[str, Any], loopback: bool) -> None:
    """A line a variant; seconds only where links were slow."""
    plain = found["plain DDP"]
    for variant in VARIANTS:
        run = found[variant]
        loss = sum(run["losses"][-20:]) / len(run["losses"][-20:])
        line = (
            f"{variant:20} loss {loss:.3f}   {run['bytes'] / 1e6:8.3f} MB a rank, 1/{plain['bytes'] / run['bytes']:.0f}"
        )
        if not loopback:
            line += f"   {run['seconds'][-1]:6.1f} s, 1/{plain['seconds'][-1] / run['seconds'][-1]:.1f}"
        print(line)
    if loopback:
        print("Loopback is not slow, so no seconds are told: run as root for links of 20 Mbit/s.")


def draw(found: dict[str, Any], loopback: bool, out: Path) -> None:
    """Training loss over seconds, or over bytes sent."""
    import matplotlib

    matplotlib.use("svg" if out.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for variant in VARIANTS:
        run = found[variant]
        steps = len(run["losses"])
        across = [run["bytes"] * (k + 1) / steps / 1e6 for k in range(steps)] if loopback else run["seconds"]
        smooth = [sum(part) / len(part) for k in range(steps) if (part := run["losses"][max(0, k - 9) : k + 1])]
        axis.plot(across, smooth, label=variant)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("MB sent by a rank" if loopback else "seconds")
    axis.set_ylabel("training loss, mean of 10 steps")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)
    print(f"drawn to {out}")


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8, flattened, and their labels, from scikit-learn's wheel."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


if __name__ == "__main__":
    main()
