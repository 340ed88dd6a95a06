"""One of 7 ranks that train on real digits: `python training.py FOLDER quick|slow`, with RANK and WORLD_SIZE set.

Leaves RANK.json.
All cases run one after another in the same processes. The last ranks are faulty, in each case in another way.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from drivetrain.base.errors import DrivetrainError
from drivetrain.base.seeds import numpy_generator
from drivetrain.comm import Exchange
from drivetrain.comm.aggregate import Quarantine
from drivetrain.comm.exchange import digest
from drivetrain.comm.transport.udp import Udp

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
STEPS = 200 if sys.argv[2:] == ["slow"] else 80


def digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(6).permutation(len(labels))
    x, y = torch.from_numpy(pixels[order]).float() / 16, torch.from_numpy(labels[order])
    return (x[360 + RANK :: WORLD], y[360 + RANK :: WORLD]), (x[:360], y[:360])


def sign_flip(gradient: torch.Tensor, step: int) -> None:
    gradient.mul_(-10)


def nan(gradient: torch.Tensor, step: int) -> None:
    gradient.view(-1)[0] = float("nan")


def late(gradient: torch.Tensor, step: int) -> None:
    if gradient.ndim == 2 and gradient.shape[1] == 64 and step < 3:  # once a step
        time.sleep(0.8)


def train(exchange: Exchange, attack=None, attackers: int = 2, steps: int = STEPS) -> dict:
    """Train, then say what all honest ranks share and what the exchange knows of each rank."""
    (x, y), (test_x, test_y) = DATA
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    _, optimizer = exchange.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    # To 0 in the end: what is compared is where training ends, not the noise of its last steps.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    order = torch.Generator().manual_seed(RANK)
    try:
        for step in range(steps):
            rows = torch.randint(len(x), (64,), generator=order)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            if attack is not None and WORLD - attackers <= RANK:
                for parameter in model.parameters():
                    attack(parameter.grad, step)
            optimizer.step()
            schedule.step()
    except DrivetrainError as error:
        exchange.close()
        return {"error": f"{type(error).__name__}: {error}"}
    report = exchange.report()
    with torch.no_grad():
        accuracy = (model(test_x).argmax(1) == test_y).double().mean().item()
    exchange.close()
    return {
        "accuracy": accuracy,
        "digest": digest(model.parameters()),
        "suspicion": [vars(row) for row in report.suspicion],
        "quarantined": report.quarantined,
    }


def lost(step: int, plan) -> np.ndarray:
    """One datagram of ten."""
    return numpy_generator(1, "drop", RANK, step).random(len(plan)) < 0.1


def robust(rule: str, attack, f: int = 2, codec: str = "raw", steps: int = STEPS, **options):
    """A case: training with f faulty ranks under a rule."""
    return lambda: train(Exchange(codec, rule, f=f, min_numel=100, **options), attack, attackers=f, steps=steps)


CASES = {
    "no attack": lambda: train(Exchange("raw")),
    "multi-krum sign_flip": robust("multi-krum", sign_flip, quarantine=Quarantine(after=40)),
    "median nan": robust("median", nan),
    "udp late": lambda: train(
        Exchange("raw", "multi-krum", f=2, transport=Udp(deadline_s=0.4)), late, attackers=1, steps=6
    ),
    "udp multi-krum": lambda: robust("multi-krum", sign_flip, transport=Udp(deadline_s=5, drop=lost))(),
}
SLOW_CASES = {
    "no attack": CASES["no attack"],
    "average sign_flip": lambda: train(Exchange("raw"), sign_flip),
    "multi-krum nan": robust("multi-krum", nan),
    "bulyan sign_flip": robust("bulyan", sign_flip, f=1),
    "bulyan nan": robust("bulyan", nan, f=1),
    "median sign_flip": robust("median", sign_flip),
    "mda sign_flip": robust("mda", sign_flip),
    "mda nan": robust("mda", nan),
    "multi-krum 3lc sign_flip": robust("multi-krum", sign_flip, codec="3lc"),
    "multi-krum momentum sign_flip": robust("multi-krum", sign_flip, momentum=0.5),
    "multi-krum server sign_flip": robust("multi-krum", sign_flip, trust="server"),
    "multi-krum replicated sign_flip": robust("multi-krum", sign_flip, trust="replicated"),
    "udp median": lambda: robust("median", sign_flip, transport=Udp(deadline_s=5, drop=lost))(),
}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    DATA = digits()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=RANK, world_size=WORLD)
    found = {}
    for name, case in (SLOW_CASES if sys.argv[2] == "slow" else CASES).items():
        found[name] = case()
        dist.barrier()
    (folder / f"{RANK}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # taking gloo's threads down one by one aborts now and then
