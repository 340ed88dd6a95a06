"""One rank of the exchange tests: `python worker.py SCENARIO FOLDER`, RANK and WORLD_SIZE set; leaves <rank>.pt."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from drivetrain.base.errors import DrivetrainError
from drivetrain.comm.exchange import Exchange, digest

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def network(hidden: int = 64) -> nn.Module:
    torch.manual_seed(RANK)  # differs: `prepare` must bring rank 0's weights to all
    return nn.Sequential(nn.Linear(40, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def train(exchange: Exchange, model: nn.Module, steps: int, start: int = 0, poison: int | None = None) -> dict:
    """Train on random data of this rank's own; `poison` is a rank that sends a thousand times the opposite."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    exchange.prepare(model, optimizer)
    return go_on(model, optimizer, steps, start, poison)


def go_on(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int, poison: int | None = None
) -> dict:
    losses = []
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(1000 * step + RANK)
        x = torch.randn(16, 40, generator=generator)
        y = x[:, :10].argmax(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if poison == RANK:
            for parameter in model.parameters():
                parameter.grad.mul_(-1000)
        optimizer.step()
        losses.append(loss.item())
    return {"digest": digest(model.parameters()), "losses": losses, "model": model.state_dict()}


def same(
    codec: str = "3lc", aggregate: str = "average", f: int = 0, poison: int | None = None, steps: int = 30, **options
) -> dict:
    exchange = Exchange(codec, aggregate, f=f, **{"min_numel": 100, "topology": "auto" if f else "sharded"} | options)
    result = train(exchange, network(), steps, poison=poison)
    report = exchange.report()
    return result | {
        "ratio": report.ratio,
        "sent": exchange.transport.sent,
        "suspicion": report.suspicion,
        "residual": report.residual_norm,
        "seconds": report.seconds,
        "parameters": {name: (cost.raw, cost.wire) for name, cost in report.parameters.items()},
    }


def mean_of_gradients(codec: str) -> dict:
    """One exchange of known gradients: rank r gives r + 1 everywhere."""
    exchange = Exchange(codec, min_numel=100)
    named = [("weight", torch.zeros(333)), ("bias", torch.zeros(7))]
    exchange.register(named)
    gradients = {name: torch.full_like(p, RANK + 1.0) for name, p in named}
    exchange.reduce(gradients)
    return {"gradients": gradients}


def not_finite(f: int) -> dict:
    exchange = Exchange("3lc", "median" if f else "average", f=f, min_numel=100)
    exchange.register([("weight", torch.zeros(400))])
    gradients = {"weight": torch.full((400,), float(RANK))}
    if RANK == 1:
        gradients["weight"][5] = float("nan")
    exchange.reduce(gradients)
    return {"gradients": gradients}


def unlike_models() -> dict:
    return train(Exchange("raw"), network(64 if RANK == 0 else 32), 1)


def interrupted() -> dict:
    """Ten steps, a checkpoint, ten more; and the ten more again from the checkpoint."""
    first = Exchange("3lc", min_numel=100, topology="sharded")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    first.prepare(model, optimizer)
    go_on(model, optimizer, 10, 0)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    state = first.state_dict()
    whole = go_on(model, optimizer, 10, 10)["digest"]
    again = Exchange("3lc", min_numel=100, topology="sharded")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.load_state_dict(saved)
    again.prepare(model, optimizer)
    again.load_state_dict(state)
    return {"whole": whole, "resumed": go_on(model, optimizer, 10, 10)["digest"], "state": state}


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
