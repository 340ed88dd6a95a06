"""One rank of test_distributed: a small network in DistributedDataParallel, compiled, beside its eager twin."""

import copy
import json
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drivetrain.graph import backend


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5),
    )  # fmt: skip


def main(rank: int, world: int, folder: str, settings: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    backend.register()
    model = network(settings["width"])
    twin = copy.deepcopy(model)
    cap = {"bucket_cap_mb": settings["bucket_mb"]} if settings["bucket_mb"] else {}
    compiled = torch.compile(model, backend="drivetrain", options=settings["options"], dynamic=settings["dynamic"])
    ours, theirs = DistributedDataParallel(compiled, **cap), DistributedDataParallel(twin, **cap)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (ours, theirs)]
    generator = torch.Generator().manual_seed(1 + rank)
    predicted = []
    for size in (6, 6, 4, 6):  # the last batch of the first epoch is smaller
        x = torch.randn(size, 3, 12, 12, generator=generator)
        y = torch.randint(0, 5, (size,), generator=generator)
        for m, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(m.train()(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            predicted.append([m.eval()(x) for m in (compiled, twin)])
    kinds = [(choice.kind, choice.then) for choice in backend.choices()]
    torch.save(
        {"model": model.state_dict(), "twin": twin.state_dict(), "predicted": predicted, "kinds": kinds,
         "original": compiled._orig_mod is model, "wrapped": list(compiled.state_dict())}, f"{folder}/rank{rank}.pt",
    )  # fmt: skip
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
