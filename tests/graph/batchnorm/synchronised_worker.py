"""One rank of test_synchronised: half of a batch through a patched model with SyncBatchNorm, its results in a file."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from drivetrain.graph.batchnorm import patch_


def main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    given = torch.load(f"{folder}/given.pt")
    model = nn.Sequential(nn.SyncBatchNorm(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
    model.load_state_dict(given["state"])
    (edge,) = patch_(model, level="bnff")
    assert edge.applied
    part = slice(0, 2) if rank == 0 else slice(2, 5)  # unequal halves
    x = given["x"][part].clone().requires_grad_()
    y = model(x)
    y.backward(given["dy"][part])
    found = {"y": y.detach(), "dx": x.grad, "grads": [p.grad for p in model.parameters()], "state": model.state_dict()}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
