"""What a step and an averaging take here: a short run of real ranks, over loopback or in the job that calls it.

measure(workers=2)                    starts ranks on this machine
measure() under torchrun              is one of that job's ranks, and measures its network
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from drivetrain.base.errors import InvalidValue
from drivetrain.base.modules import load_attribute

PERIOD = 5  # local steps between the averagings that are timed


@dataclass(frozen=True)
class Measured:
    """Y and D of a model on a network.

    Attributes:
        y, d: seconds of a local step (slowest rank) and of an averaging.
        workers, parameters: ranks, and values that are averaged.
        bytes: that a rank sends in an averaging.
        over: "loopback", or "the job's network".
    """

    y: float
    d: float
    workers: int
    parameters: int
    bytes: int
    over: str

    @property
    def alpha(self) -> float:
        return self.d / self.y


def measure(
    model: str | None = None,
    data: str | None = None,
    *,
    loss: str = "cross_entropy",
    workers: int = 2,
    batch: int = 32,
    syncs: int = 8,
    codec: str | None = None,
) -> Measured:
    """Train for `syncs` periods and read Y and D off.

    Args:
        model: "module:attribute" of a module or a function that makes one; None: a perceptron, 784-1024-1024-10.
        data: "module:attribute" of batches (inputs, targets) or a function that gives them; needed with `model`.
        loss: a name in torch.nn.functional: (outputs, targets) -> a mean.
        workers: ranks to start, 2 or more; under torchrun the job's are taken.
        batch: rows of the built-in data.
        codec: what carries the model's change.

    Raises:
        InvalidValue: a model without data, fewer than two workers, an unknown loss. RankFailed: a rank did.
    """
    options = {"model": model, "data": data, "loss": loss, "batch": batch, "syncs": syncs, "codec": codec}
    if (model is None) != (data is None):
        raise InvalidValue("comm: tau: give --model and --data together, or neither")
    if not hasattr(functional, loss):
        raise InvalidValue(f"comm: tau: torch.nn.functional has no loss {loss!r}", hint="for example cross_entropy")
    if syncs < 2 or batch < 1:
        raise InvalidValue(f"comm: tau: syncs={syncs}, batch={batch}: wanted at least 2 averagings and 1 row")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _as_rank("the job's network", options)
    if workers < 2:
        raise InvalidValue(f"comm: tau: workers={workers}, wanted 2 or more: one worker has nobody to average with")
    import json

    from .. import testbed

    with testbed.loopback(workers) as bed:
        ended = bed.run("drivetrain.comm.sync.probe", [json.dumps(options)], timeout_s=300)
    return Measured(**ended.results[0])


def _as_rank(over: str, options: dict[str, Any]) -> Measured:
    """This process's part of the measurement."""
    from .local import LocalUpdate

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = _model(options["model"])
    batches = _batches(options["data"], options["batch"])
    local = LocalUpdate(
        torch.optim.SGD(model.parameters(), lr=1e-3), model, f"fixed:{PERIOD}", codec=options["codec"],
    )  # fmt: skip
    loss_of = getattr(functional, options["loss"])
    for _ in range(options["syncs"] * PERIOD):
        x, y = next(batches)
        local.zero_grad()
        loss_of(model(x), y).backward()
        local.step()
    local.sync(force=True)  # its notes carry the D of the averaging before
    report = local.report()
    return Measured(
        report.y, report.d, dist.get_world_size(), local.layout.numel, local.rows[1].bytes, over
    )  # fmt: skip


def _model(reference: str | None) -> nn.Module:
    if reference is None:
        return nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    found = load_attribute(reference, Path.cwd(), where="--model")
    model = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(model, nn.Module):
        raise InvalidValue(f"comm: tau: --model {reference} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _batches(reference: str | None, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end."""
    if reference is None:
        x, y = torch.randn(rows, 784), torch.randint(10, (rows,))
        while True:
            yield x, y
    found = load_attribute(reference, Path.cwd(), where="--data")
    data: Iterable[Any] = found() if callable(found) else found
    while True:
        seen = False
        for x, y in data:
            seen = True
            yield x, y
        if not seen:
            raise InvalidValue(f"comm: tau: --data {reference} gave no batch")


def main() -> None:
    """A rank of `measure`."""
    import json

    from .. import testbed

    measured = _as_rank("loopback", json.loads(sys.argv[1]))
    testbed.hand_back(asdict(measured))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # taking gloo's threads down aborts now and then


if __name__ == "__main__":
    main()
