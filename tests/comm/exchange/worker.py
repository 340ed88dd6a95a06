"""One rank of the exchange tests: `python worker.py FOLDER SCENARIO ...`, RANK and WORLD_SIZE set; leaves <rank>.pt."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drivetrain.base.errors import DrivetrainError, InvalidValue
from drivetrain.comm import Exchange, Partial
from drivetrain.comm.link import LinkProbe
from drivetrain.comm.state import digest
from drivetrain.comm.transport import Collective

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
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    start: int,
    poison: int | None = None,
    after: Callable[[], None] | None = None,
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
        if after is not None:
            after()
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
    exchange = Exchange("3lc", "trimmed-mean" if f else "average", f=f, min_numel=100)
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


def ddp_model(hidden: int, **options) -> tuple[nn.Module, DistributedDataParallel]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(40, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 10)
    )
    return model, DistributedDataParallel(model, **{"bucket_cap_mb": 0.05} | options)


def by(
    form: str, codec: str = "raw", steps: int = 6, accumulate: int = 1, hidden: int = 200, ddp=None, **options
) -> dict:
    """Train by "ddp" alone, with the exchange "attach"ed to it in many small buckets, or "prepare"d without DDP."""
    model, parallel = ddp_model(hidden, **(ddp or {}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    forward: nn.Module = parallel
    exchange = None
    if form == "attach":
        exchange = Exchange(codec, **options)
        exchange.attach(parallel)
    elif form == "prepare":
        exchange = Exchange(codec, **options)
        forward, optimizer = exchange.prepare(model, optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            generator = torch.Generator().manual_seed(1000 * step + 10 * part + RANK)
            x = torch.randn(16, 40, generator=generator)
            silent = form != "prepare" and part < accumulate - 1
            with parallel.no_sync() if silent else nullcontext():
                nn.functional.cross_entropy(forward(x), x[:, :10].argmax(1)).backward()
        optimizer.step()
    result = {
        "flat": torch.cat([p.detach().flatten() for p in model.parameters()]), "digest": digest(model.parameters()),
        "buffers": digest(model.buffers()),
    }  # fmt: skip
    if exchange is not None:
        report = exchange.report()
        keys = sorted(exchange.coder.push_feedback)
        result |= {"steps": report.steps, "keys": keys, "decision": report.decision, "ratio": report.ratio}
        exchange.close()
    return result


def auto(wire_s: float, latency_s: float) -> dict:
    """codec="auto" told that the link is so slow, whatever this machine measures."""
    mean = LinkProbe.mean

    def told(self, flat):
        mean(self, flat)
        self._wire[-1], self._latency[-1] = wire_s, latency_s

    LinkProbe.mean = told
    result = by("attach", "auto", steps=8)
    LinkProbe.mean = mean
    return result


def unused() -> dict:
    """Two heads, one used in turn: DDP gives zeros for the other, whose residual must still drain."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(40, 60), "a": nn.Linear(60, 30), "b": nn.Linear(60, 30)})

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x, head):
            return self.parts[head](self.parts["body"](x).relu())

    ddp = DistributedDataParallel(Heads(), find_unused_parameters=True)
    exchange = Exchange("3lc", min_numel=10, topology="sharded")
    exchange.attach(ddp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    for step in range(6):
        x = torch.randn(16, 40, generator=torch.Generator().manual_seed(step * 10 + RANK))
        optimizer.zero_grad()
        ddp(x, "a" if step == 0 else "b").square().mean().backward()
        optimizer.step()
        norms.append(exchange.report().parameters["parts.a.weight"].residual)
    exchange.close()
    return {"digest": digest(model.parameters()), "norms": norms}


def broken(form: str, f: int = 0, on_nonfinite: str = "raise", bad_step: int = 2, steps: int = 4, **options) -> dict:
    """Rank 1's gradient of "0.weight" holds 3 NaN at one step."""
    model, parallel = ddp_model(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    exchange = Exchange("3lc", "trimmed-mean" if f else "average", f=f, on_nonfinite=on_nonfinite, **options)
    forward: nn.Module = parallel
    if form == "attach":
        exchange.attach(parallel)
    else:
        forward, optimizer = exchange.prepare(model, optimizer)

    def poison(gradient):
        if RANK == 1 and at == bad_step:
            gradient = gradient.clone()
            gradient.view(-1)[:3] = float("nan")
        return gradient

    model[0].weight.register_hook(poison)
    before, seen = {}, {}
    for at in range(steps):
        x = torch.randn(16, 40, generator=torch.Generator().manual_seed(at * 10 + RANK))
        optimizer.zero_grad()
        if at == bad_step:
            before = exchange.coder.push_feedback.state_dict() | {"model": digest(model.parameters())}
        try:
            nn.functional.cross_entropy(forward(x), x[:, :10].argmax(1)).backward()
            optimizer.step()
        except Exception as error:
            seen = {"type": type(error).__name__, "error": str(error)}
        if at == bad_step:
            after = exchange.coder.push_feedback.state_dict() | {"model": digest(model.parameters())}
            same_model = before.pop("model") == after.pop("model")
            moved = max((float((after[key] - before[key]).abs().max()) for key in before), default=0.0)
            seen |= {"same_model": same_model, "moved": moved}
        if "error" in seen:
            break
    seen |= {"digest": digest(model.parameters()), "skipped": exchange.report().skipped}
    seen |= {"finite": all(bool(torch.isfinite(p).all()) for p in model.parameters())}
    exchange.close()
    return seen


def dies(form: str, how: str = "kill") -> dict:
    """The last rank ends at step 3, without a word or by an error of its own."""
    model, parallel = ddp_model(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exchange = Exchange("3lc", timeout_s=30)
    forward: nn.Module = parallel
    if form == "attach":
        exchange.attach(parallel)
    else:
        forward, optimizer = exchange.prepare(model, optimizer)
    start = time.monotonic()
    for step in range(200):
        if step == 3 and RANK == WORLD - 1:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        x = torch.randn(16, 40)
        optimizer.zero_grad()
        try:
            nn.functional.cross_entropy(forward(x), x[:, :10].argmax(1)).backward()
            optimizer.step()
        except DrivetrainError as error:
            return {"type": type(error).__name__, "error": str(error), "seconds": time.monotonic() - start}
    return {"error": "nobody noticed"}


def corrupted(topology: str = "sharded", f: int = 0, aggregate: str = "average", byte: int = 0) -> dict:
    """Rank 1's message to rank 0 is altered on its way, at the second step."""
    exchange = Exchange("3lc", aggregate, f=f, topology=topology, timeout_s=30)
    push = exchange.transport.push

    def altered(messages, *, step, expect):
        arrived = push(messages, step=step, expect=expect)
        if RANK == 0 and step == 1:
            arrived[1] = arrived[1].clone()
            arrived[1][byte] ^= 0xFF
        return arrived

    exchange.transport.push = altered
    exchange.register([("weight", torch.zeros(100_000)), ("bias", torch.zeros(2000))])
    values = []
    for step in range(3):
        generator = torch.Generator().manual_seed(step * 10 + RANK)
        gradients = {"weight": torch.randn(100_000, generator=generator), "bias": torch.ones(2000)}
        try:
            exchange.reduce(gradients)
        except DrivetrainError as error:
            return {"type": type(error).__name__, "error": str(error)}
        values.append(digest(gradients.values()))
    exchange.close()
    return {"values": values, "suspicion": exchange.report().suspicion}


def bug_on_one_rank() -> dict:
    """Rank 1's codec fails in the talking thread, under DDP."""
    _, parallel = ddp_model(64)
    exchange = Exchange("3lc", timeout_s=30)
    exchange.attach(parallel)
    if RANK == 1:

        def fails(*_):
            raise InvalidValue("comm: the codec of rank 1 gave up")

        exchange.coder.outgoing = fails
    try:
        parallel(torch.randn(16, 40)).sum().backward()
    except DrivetrainError as error:
        return {"type": type(error).__name__, "error": str(error)}
    return {"error": "nobody noticed"}


def equivocates(liar: int, f: int) -> dict:
    """One rank sends the last rank something else than the others."""
    exchange = Exchange("raw", "median", f=f, trust="replicated", min_numel=1)
    exchange.register([("weight", torch.zeros(300))])
    push = exchange.transport.push

    def two_faced(messages, *, step, expect):
        if liar == RANK and step == 1:
            messages = [*messages[:-1], messages[-1].clone()]
            messages[-1][-1] ^= 0x01
        return push(messages, step=step, expect=expect)

    exchange.transport.push = two_faced
    digests = []
    for _ in range(3):
        gradients = {"weight": torch.full((300,), float(RANK))}
        try:
            exchange.reduce(gradients)
        except DrivetrainError as error:
            exchange.close()
            return {"type": type(error).__name__, "error": str(error)}
        digests.append(digest(gradients.values()))
    exchange.close()
    return {"digests": digests, "suspicion": [row.nonfinite for row in exchange.report().suspicion]}


class Late(Collective):
    """A transport with a deadline that rank 2's messages to rank 0 miss, always."""

    deadline_s = 0.1

    def push(self, messages, *, step, expect):
        arrived = super().push(messages, step=step, expect=expect)
        return [None if RANK == 0 and rank == 2 and step % 2 else message for rank, message in enumerate(arrived)]


class Leaky(Collective):
    """A transport that loses every third value of rank 1's vectors, and sometimes all of them."""

    lossy = True

    def push(self, messages, *, step, expect):
        sent = [message.view(torch.uint8) for message in messages]
        arrived = [m.view(messages[0].dtype) for m in super().push(sent, step=step, expect=expect)]
        assert all(len(vector) == expect for vector in arrived)
        mask = torch.arange(expect) % 3 != 0
        lost = Partial(torch.where(mask, arrived[1], float("nan")), mask)
        return [arrived[0], None if step == 2 else lost, *arrived[2:]]


def over(kind: str, codec: str, aggregate: str, f: int, steps: int = 6) -> dict:
    transport = {"late": Late, "leaky": Leaky}[kind]()
    exchange = Exchange(codec, aggregate, f=f, transport=transport, min_numel=100)
    result = train(exchange, network(), steps)
    report = exchange.report()
    sent = {name: cost.residual for name, cost in report.parameters.items()}
    exchange.close()
    return result | {"lost": [row.lost_share for row in report.suspicion], "sent": sent}


def hostile(trust: str, codec: str, aggregate: str, steps: int = 30, **options) -> dict:
    exchange = Exchange(codec, aggregate, f=1, trust=trust, min_numel=100, **options)
    result = train(exchange, network(), steps, poison=1)
    report = exchange.report()
    exchange.close()
    return result | {"quarantined": report.quarantined, "z": [row.z_distance for row in report.suspicion]}


def delta(optimizer: str, codec: str = "raw", steps: int = 8, **options) -> dict:
    """The optimizer at the owners beside the optimizer everywhere."""
    left = {}
    for pull in ("gradient", "delta"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 10))
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.02}]
        made = getattr(torch.optim, optimizer)(groups, lr=0.05, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(made, 3, 0.5)
        exchange = Exchange(codec, pull=pull, topology="sharded", min_numel=100, **options)
        exchange.prepare(model, made)
        result = go_on(model, made, steps, 0, after=schedule.step)
        left[pull] = {"flat": torch.cat([p.detach().flatten() for p in model.parameters()])} | result
        exchange.close()
    return left


def sparse(form: str) -> dict:
    model = nn.Sequential(nn.EmbeddingBag(50, 8, sparse=True), nn.Linear(8, 2))
    exchange = Exchange("3lc")
    if form == "prepare":
        exchange.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    else:
        exchange.attach(DistributedDataParallel(model))
    return {}


def unfit_hook(**options) -> dict:
    exchange = Exchange("3lc", **options)
    exchange.attach(ddp_model(20)[1])
    return {}


def main() -> None:
    folder, scenarios = Path(sys.argv[1]), sys.argv[2:]
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=RANK, world_size=WORLD)
    results = []
    for scenario in scenarios:
        try:
            result = eval(scenario)  # a call of one of the functions above, from our own tests
        except DrivetrainError as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        results.append(result if isinstance(result, dict) else {})
    torch.save(results, folder / f"{RANK}.pt")
    if not any("dies" in scenario for scenario in scenarios):
        dist.barrier()
    os._exit(0)  # taking gloo's threads down one by one aborts now and then


if __name__ == "__main__":
    main()
