"""One rank of the distributed YellowFin tests: python distributed_worker.py MODE RANK WORLD RENDEZVOUS OUT."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from drivetrain.optim import YellowFin

STEPS = 40


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 5))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 7, generator=generator)
    return x, x[:, :5].square()


def loss_on(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (net(x) - y).square().mean()


def alone() -> tuple[list[torch.Tensor], object]:
    """The same training in one process on whole batches."""
    net = model()
    optimizer = YellowFin(net.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_on(net, *batch(step)).backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()], optimizer.stats()


def ddp(rank: int, world: int) -> tuple[list[torch.Tensor], object]:
    net = DistributedDataParallel(model())
    return train(net, YellowFin(net.parameters()), rank, world)


def fsdp(rank: int, world: int) -> tuple[list[torch.Tensor], object]:
    net = model()
    mesh = init_device_mesh("cpu", (world,))
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    optimizer = YellowFin(net.parameters())
    params, stats = train(net, optimizer, rank, world)
    assert all(isinstance(optimizer.state[p]["gradient_average"], DTensor) for p in net.parameters())
    return params, stats


def mixed(rank: int, world: int) -> tuple[list[torch.Tensor], object]:
    """A mesh of two dimensions: one weight replicated over the first and sharded over the second, others reversed."""
    net = model()
    mesh = init_device_mesh("cpu", (world, 1))
    kinds = [[Replicate(), Shard(0)], [Shard(0), Replicate()], [Shard(1), Replicate()], [Replicate(), Replicate()]]
    params = [
        nn.Parameter(distribute_tensor(p.detach(), mesh, k)) for p, k in zip(net.parameters(), kinds, strict=True)
    ]
    optimizer = YellowFin(params)
    for step in range(STEPS):
        net.zero_grad()
        with torch.no_grad():
            for p, d in zip(net.parameters(), params, strict=True):
                p.copy_(d.full_tensor())
        loss_on(net, *batch(step)).backward()
        for p, d, k in zip(net.parameters(), params, kinds, strict=True):
            d.grad = distribute_tensor(p.grad, mesh, k)
        optimizer.step()
    return [d.full_tensor().detach() for d in params], optimizer.stats()


def shards(rank: int, world: int) -> tuple[list[torch.Tensor], object]:
    """Plain tensors, each process holding its rows, tied together by process_group."""
    net = model()
    rows = [p.shape[0] * rank // world for p in net.parameters()]
    ends = [p.shape[0] * (rank + 1) // world for p in net.parameters()]
    mine = [nn.Parameter(p.detach()[a:b].clone()) for p, a, b in zip(net.parameters(), rows, ends, strict=True)]
    optimizer = YellowFin(mine, process_group=dist.group.WORLD)
    for step in range(STEPS):
        net.zero_grad()
        with torch.no_grad():
            for p, whole in zip(net.parameters(), gather(mine), strict=True):
                p.copy_(whole)
        loss_on(net, *batch(step)).backward()
        for p, m, a, b in zip(net.parameters(), mine, rows, ends, strict=True):
            m.grad = p.grad[a:b].clone()
        optimizer.step()
    return gather(mine), optimizer.stats()


def gather(mine: list[nn.Parameter]) -> list[torch.Tensor]:
    every: list = [None] * dist.get_world_size()
    dist.all_gather_object(every, [p.detach() for p in mine])
    return [torch.cat([part[i] for part in every]) for i in range(len(mine))]


def train(net: nn.Module, optimizer: YellowFin, rank: int, world: int) -> tuple[list[torch.Tensor], object]:
    for step in range(STEPS):
        x, y = (part.chunk(world)[rank] for part in batch(step))
        optimizer.zero_grad()
        loss_on(net, x, y).backward()
        optimizer.step()
    return [
        p.full_tensor().detach() if isinstance(p, DTensor) else p.detach() for p in net.parameters()
    ], optimizer.stats()


def main() -> None:
    mode, rank, world, rendezvous, out = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world))
    params, stats = {"ddp": ddp, "fsdp": fsdp, "mixed": mixed, "shards": shards}[mode](int(rank), int(world))
    expected, alone_stats = alone()
    torch.save({"params": params, "stats": vars(stats), "alone": expected, "alone_stats": vars(alone_stats)}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
