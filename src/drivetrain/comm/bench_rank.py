"""What one rank of `drivetrain comm bench` does: one step of each method in turn, until all have made enough.

    python -m drivetrain.comm.bench_rank ddp,3lc,powersgd:1 STEPS HIDDEN        under a testbed

Every method trains its own copy of an MLP (784 - hidden - hidden - 10) on the same random images. Ranks meet before
and after each step, so that its seconds and the bytes of the interface are its own.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from . import testbed
from .exchange import Exchange

WARM_UP = 10  # steps: buckets are rebuilt, PowerSGD begins at its third, auto has decided after eight
BATCH = 64


def main() -> None:
    """Run the methods named on the command line and hand back what each took."""
    methods, steps, hidden = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo")
    step_of: dict[str, Callable[[], None]] = {}
    exchanges: dict[str, Exchange] = {}
    for method in methods:
        step_of[method] = _trainer(method, hidden, exchanges)
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    sent: dict[str, list[int]] = {method: [] for method in methods}
    for count in range(WARM_UP + steps):
        for method in methods:
            # Slow methods need no long warm-up; PowerSGD and auto do.
            if count < WARM_UP - 2 and not method.startswith(("powersgd", "auto")):
                continue
            took, bytes_sent = _timed(step_of[method])
            if count >= WARM_UP:
                seconds[method].append(took)
                sent[method].append(bytes_sent)
    testbed.hand_back(
        {
            method: {
                "seconds": seconds[method],
                "bytes": statistics.mean(sent[method]) if testbed.rank_traffic() else None,
                "decision": exchanges[method].report().decision if method in exchanges else "",
            }
            for method in methods
        }
    )
    dist.barrier()
    os._exit(0)  # taking gloo's threads down one by one aborts now and then


def _timed(step: Callable[[], None]) -> tuple[float, int]:
    dist.barrier()
    before, start = testbed.rank_traffic(), time.perf_counter()
    step()
    took = time.perf_counter() - start
    dist.barrier()
    after = testbed.rank_traffic()
    return took, after.sent - before.sent if before and after else 0


def _trainer(method: str, hidden: int, exchanges: dict[str, Exchange]) -> Callable[[], None]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )
    # One bucket: PowerSGD aborts on gloo with more, and the others lose nothing by it.
    ddp = DistributedDataParallel(model, bucket_cap_mb=1024 if method.startswith("powersgd") else 25)
    if method == "fp16-hook":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif method.startswith("powersgd:"):
        rank = int(method.split(":")[1])
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif method != "ddp":
        exchanges[method] = Exchange(method)
        exchanges[method].attach(ddp)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(dist.get_rank())

    def step() -> None:
        x = torch.randn(BATCH, 784, generator=generator)
        loss = nn.functional.cross_entropy(ddp(x), x[:, :10].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
