"""One rank of the channel's tests: `python udp_worker.py SCENARIO FOLDER`, RANK and WORLD_SIZE set; leaves RANK.pt."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from drivetrain.base.errors import DrivetrainError
from drivetrain.base.seeds import numpy_generator
from drivetrain.comm.transport.udp import Arrived, LossyChannel, kernel

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def value(rank: int, to: int, tensor: int, step: int, size: int) -> torch.Tensor:
    """What `rank` sends `to` another; float16 holds it exactly."""
    start = rank * 7 + to * 3 + tensor + step
    return ((torch.arange(size) + start) % 500).float()


def lost(share: float):
    """A drop that loses that share of data and end marks alike."""

    def drop(step: int, plan) -> np.ndarray:
        return numpy_generator(1, "drop", RANK, step).random(len(plan)) < share

    return drop


def facts(arrived: Arrived, step: int, sizes) -> dict:
    """Whether every value that came is right, and what did not come."""
    wrong = 0
    for tensor, size in enumerate(sizes):
        for rank in range(WORLD):
            here = slice(None) if arrived.mask[tensor] is None else arrived.mask[tensor][rank]
            wrong += int((arrived.values[tensor][rank][here] != value(rank, RANK, tensor, step, size)[here]).sum())
    return {"wrong": wrong, "lost": arrived.lost_share.tolist(), "absent": arrived.absent}


def steps(share: float = 0.0, count: int = 4, dtype: str = "float32", native=None, rate=None, deadline_s=20.0) -> dict:
    """Unequal sizes a receiver, several tensors, an empty one."""
    sizes = [(3000, 0, 17 + 400 * rank, 1) for rank in range(WORLD)]
    drop = lost(share) if share else None
    found = []
    with LossyChannel(
        sizes[RANK], dtype=getattr(torch, dtype), drop=drop, native=native, rate=rate, deadline_s=deadline_s
    ) as channel:
        start = time.monotonic()
        for step in range(count):
            outgoing = [[value(RANK, to, k, step, size) for k, size in enumerate(sizes[to])] for to in range(WORLD)]
            found.append(facts(channel.exchange(outgoing), step, sizes[RANK]))
        seconds = time.monotonic() - start
        dist.barrier()
        return {
            "steps": found,
            "counts": vars(channel.counts),
            "sent": channel.sent_datagrams,
            "bytes": channel.sent,
            "chunks": channel.meeting.layouts[RANK].chunks,
            "seconds": seconds,
        }


def slow() -> dict:
    """Rank 2 comes to the first step long after the others' deadline; then all meet and make another."""
    found = []
    with LossyChannel([500], deadline_s=0.3) as channel:
        for step in range(2):
            dist.barrier()
            if RANK == 2 and step == 0:
                time.sleep(1.0)
            outgoing = [[value(RANK, to, 0, step, 500)] for to in range(WORLD)]
            found.append(facts(channel.exchange(outgoing), step, [500]))
        dist.barrier()
        time.sleep(0.1)
        return {"steps": found, "counts": vars(channel.counts)}


def server() -> dict:
    """Only rank 0 takes anything."""
    sizes = [(2000,) if rank == 0 else () for rank in range(WORLD)]
    with LossyChannel(sizes[RANK], deadline_s=20) as channel:
        outgoing = [[value(RANK, to, 0, 0, 2000)] if to == 0 else [] for to in range(WORLD)]
        arrived = channel.exchange(outgoing)
        dist.barrier()
        return facts(arrived, 0, sizes[RANK])


def every_version(share: float = 0.0, count: int = 4, **options) -> dict:
    """`steps` by the plain version and the kernel, in both types."""
    versions = [False, True] if kernel.load() is not None else [False]
    return {
        (native, dtype): steps(share, count, dtype, native, **options)
        for native in versions
        for dtype in ("float32", "float16")
    }


REFUSED = {
    "dtype": lambda: LossyChannel([5], dtype=torch.float16 if RANK == 1 else torch.float32),
    "deadline": lambda: LossyChannel([100_000], rate="1mbit", deadline_s=0.5),
    "no deadline": lambda: LossyChannel([5], deadline_s=0.0),
    "rate": lambda: LossyChannel([5], rate="20mbps"),
    "address": lambda: LossyChannel([5], address="203.0.113.7"),
    "bfloat": lambda: LossyChannel([5], dtype=torch.bfloat16),
    "policy": lambda: LossyChannel([5], loss="zeros"),
    "sizes": lambda: LossyChannel([5]).send([[torch.zeros(5)], [torch.zeros(4)]]),
    "ranks": lambda: LossyChannel([5]).send([[torch.zeros(5)]]),
}


def refused() -> dict:
    """What each of these says."""
    found = {}
    for name, call in REFUSED.items():
        try:
            call()
            found[name] = "nothing"
        except DrivetrainError as error:
            found[name] = str(error)
    return found


def main() -> None:
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=RANK, world_size=WORLD)
    try:
        result = eval(scenario)  # a call of one of the functions above, from our own tests
    except DrivetrainError as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    torch.save(result, folder / f"{RANK}.pt")
    dist.barrier()
    os._exit(0)  # taking gloo's threads down one by one aborts now and then


if __name__ == "__main__":
    main()
