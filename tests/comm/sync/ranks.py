"""Real processes for the tests of averaging: each case of `CASES` runs as every rank of a gloo job over loopback.

python ranks.py CASE RANK WORLD RENDEZVOUS OUT
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from drivetrain.base.errors import DrivetrainError
from drivetrain.comm.sync import AdaComm, Levels, LocalUpdate

STEPS = 24


class Clock:
    """Seconds that a test decides; each look at it takes a little, as on a real machine."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


def net(seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = nn.BatchNorm1d(9) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(5, 9), middle, nn.Linear(9, 3))


def batch(step: int, rank: int, rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(rows, 5, generator=generator)
    return x, x[:, :3].square()


def train(model: nn.Module, local: LocalUpdate, rank: int, steps: range, clock: Clock | None = None) -> None:
    for step in steps:
        x, y = batch(step, rank)
        local.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        local.observe(loss)
        if clock is not None:
            clock.now += 1.0
        local.step()


def everything(model: nn.Module, local: LocalUpdate) -> list[torch.Tensor]:
    """All that ranks must share."""
    outer = local.anchor.outer.state_dict()["state"] if local.anchor.outer is not None else {}
    moments = [t for state in outer.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return [t.detach().clone() for t in [*model.state_dict().values(), *local.anchor.values, *moments]]


def synchronous(rank: int, world: int) -> dict:
    """tau = 1 beside one process that trains on all ranks' rows together."""
    model = net()
    train(model, LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:1"), rank, range(STEPS))
    alone = net()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.05)
    for step in range(STEPS):
        x, y = (torch.cat(part) for part in zip(*(batch(step, r) for r in range(world)), strict=True))
        optimizer.zero_grad()
        (alone(x) - y).square().mean().backward()
        optimizer.step()
    return {"model": list(model.parameters()), "alone": list(alone.parameters())}


OPTIONS = {
    "plain": {},
    "outer": {"outer": lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9, nesterov=True)},
    "block": {"block_momentum": 0.3},
    "average": {"momentum": "average"},
    "keep": {"momentum": "keep"},
    "threelc": {"codec": "3lc"},
    "fp16": {"codec": "fp16"},
    "median": {"aggregator": "median"},
    "krum": {"aggregator": "multi-krum"},
    "weights": {"weights": 1.0},
    "steps": {"weights": "steps", "balance": True},
    "robust_codec": {"aggregator": "median", "codec": "3lc"},
    "adam": {"momentum": "average"},
}


def make(name: str, rule: object = "fixed:4", **more: object) -> tuple[nn.Module, LocalUpdate]:
    model = net(seed=dist.get_rank(), norm=True)  # all ranks begin with rank 0's values
    if name == "adam":
        inner: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    else:
        inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, LocalUpdate(inner, model, rule, **OPTIONS.get(name, {}), **more)


def identical(rank: int, world: int) -> dict:
    """After an averaging all ranks hold the same bits, whatever the options; and the mean where it is a mean."""
    found = {}
    for name in OPTIONS:
        if name == "krum" and world < 3:
            continue
        model, local = make(name)
        train(model, local, rank, range(7))
        change = local.layout.change(local.anchor.values)
        sums = change.clone()
        dist.all_reduce(sums)
        anchor = local.layout.flat(local.anchor.values)
        local.sync()
        moved = local.layout.flat(list(model.parameters())) - anchor
        found[name] = {"shared": everything(model, local), "mean": sums / world, "moved": moved,
                       "bytes": local.rows[-1].bytes, "rows": len(local.rows)}  # fmt: skip
    return found


def momentum_forms(rank: int, world: int) -> dict:
    """Section 5, item 5: three ways to write one update."""
    found = {}
    forms = {
        "plain": {},
        "beta 0": {"block_momentum": 0.0},
        "outer lr 1": {"outer": lambda p: torch.optim.SGD(p, lr=1.0)},
        "block 0.4": {"block_momentum": 0.4},
        "outer 0.4": {"outer": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.4)},
    }
    for name, options in forms.items():
        model = net()
        local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:3", **options)
        train(model, local, rank, range(STEPS))
        found[name] = [p.detach().clone() for p in model.parameters()]
    return found


def decisions(rank: int, world: int) -> dict:
    """Ranks whose clocks run differently take the same decisions; rank 1's clock is far ahead and 3x faster."""
    model = net()
    clock = Clock(start=1e4 * rank)
    rule = AdaComm(tau0=8, interval_s=6.0, gamma=0.5)
    local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, rule, clock=clock)
    seen = []
    for step in range(60):
        x, y = batch(step, rank)
        local.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        local.observe(loss)
        clock.now += 1.0 + 2 * rank
        local.step()
        seen.append(local.tau)
    return {
        "taus": seen,
        "syncs": [row.step for row in local.rows],
        "y": local.rows[-1].y,
        "loss": [r.loss for r in local.rows],
    }


def resume(rank: int, world: int) -> dict:
    """Section 5, item 7: save in mid-period, go on in new objects, and compare with never having stopped."""
    found = {}
    cases = {"plain": {}, "outer": OPTIONS["outer"], "block": OPTIONS["block"], "threelc": OPTIONS["threelc"],
             "average": OPTIONS["average"], "delay": {"delay": 2}}  # fmt: skip
    for name, options in cases.items():
        runs = []
        for stop in (None, 11 if name != "delay" else 9):  # 9: one step after an averaging was sent, tau = 4
            clock = Clock()
            model = net(norm=True)
            local = _saved_form(model, options, clock)
            train(model, local, rank, range(stop or STEPS), clock)
            if stop is not None:
                path = Path(os.environ["TMPDIR"]) / f"saved-{name}-{rank}.pt"
                torch.save({"model": model.state_dict(), "optimizer": local.state_dict()}, path)
                model, clock = net(seed=5, norm=True), Clock(start=777.0)
                local = _saved_form(model, options, clock)
                saved = torch.load(path, weights_only=False)
                model.load_state_dict(saved["model"])
                local.load_state_dict(saved["optimizer"])
                train(model, local, rank, range(stop, STEPS), clock)
            runs.append(([*model.state_dict().values()], [row.step for row in local.rows], local.tau))
        found[name] = runs
    return found


def _saved_form(model: nn.Module, options: dict, clock: Clock) -> LocalUpdate:
    inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rule = AdaComm(tau0=4, interval_s=10.0) if "delay" not in options else "fixed:4"
    return LocalUpdate(inner, model, rule, clock=clock, **options)


def delayed(rank: int, world: int) -> dict:
    """One averaging with delay 2: what is applied is mean + (x_now - x_sent)."""
    model = net()
    local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:4", delay=2)
    train(model, local, rank, range(4))
    sent = local.layout.flat(list(model.parameters()))
    mean = sent.clone()
    dist.all_reduce(mean)
    train(model, local, rank, range(4, 5))
    before = local.layout.flat(list(model.parameters()))
    plain = net()
    probe = torch.optim.SGD(plain.parameters(), lr=0.05)
    for p, value in zip(plain.parameters(), local.layout.pieces(before, list(model.parameters())), strict=True):
        p.data.copy_(value)
    x, y = batch(5, rank)
    (plain(x) - y).square().mean().backward()
    probe.step()
    train(model, local, rank, range(5, 6))
    now = local.layout.flat(list(plain.parameters()))
    return {"model": local.layout.flat(list(model.parameters())), "wanted": mean / world + (now - sent),
            "anchor": local.layout.flat(local.anchor.values)}  # fmt: skip


def broken(rank: int, world: int) -> dict:
    """NaN on rank 1 hangs nobody and spoils nothing."""
    model = net()
    local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:4")
    train(model, local, rank, range(3))
    if rank == 1:
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
    kept = local.layout.flat(list(model.parameters()))
    train(model, local, rank, range(3, 4)) if rank == 1 else local.sync()
    return {"kept": kept, "model": local.layout.flat(list(model.parameters())), "excluded": local.rows[-1].excluded}


def refusals(rank: int, world: int) -> dict:
    """What is refused, and that all ranks refuse together."""
    found = {}

    def attempt(name: str, call) -> None:
        try:
            call()
            found[name] = "accepted"
        except DrivetrainError as error:
            found[name] = str(error)

    def local(width: int = 4, **options) -> LocalUpdate:
        model = nn.Linear(3, width)
        return LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.1), model, **{"rule": "fixed:2", **options})

    attempt("shapes", lambda: local(4 + rank))
    attempt("options", lambda: local(delay=rank))
    attempt("weights", lambda: local(weights=-1.0))
    attempt("krum", lambda: local(aggregator="krum", f=1))
    attempt("f", lambda: local(f=1))

    class Wrong:
        tau0, interval_s, name = 2, 0.0, "wrong"

        def next(self, s):
            return 0.5

        def __repr__(self):
            return "Wrong()"

    def run(rule: object) -> None:
        optimizer = local(rule=rule)
        for _ in range(2):
            optimizer.observe(1.0)
            optimizer.step()

    attempt("rule", lambda: run(Wrong()))
    attempt("f_inf", lambda: run(AdaComm(tau0=2, interval_s=0.0, f_inf=3.0)))

    def out_of_step() -> None:
        optimizer = local()
        optimizer.syncs += rank
        optimizer.step()
        optimizer.step()

    attempt("out of step", out_of_step)
    attempt("drain", lambda: local(aggregator="median").drain())
    return found


def leaves(rank: int, world: int) -> dict:
    """Rank 1 ends without a word at step 6; the others name it and keep their model."""
    model = net()
    local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:4", timeout=20)
    train(model, local, rank, range(6))
    if rank == 1:
        os._exit(0)
    anchor = local.layout.flat(local.anchor.values)
    train(model, local, rank, range(6, 7))
    try:
        train(model, local, rank, range(7, 8))
    except DrivetrainError as error:
        same = torch.equal(anchor, local.layout.flat(local.anchor.values))
        return {"error": str(error), "ranks": error.ranks, "anchor kept": same}
    return {}


def levels(rank: int, world: int) -> dict:
    """Four ranks in two nodes: alike inside a node every 2 steps, alike everywhere every 6."""
    model = net(norm=True)
    local = LocalUpdate(
        torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:6", levels=Levels.of_world(2, every=2)
    )
    train(model, local, rank, range(4))
    inside = [t.clone() for t in model.state_dict().values()]
    train(model, local, rank, range(4, 6))
    return {"inside": inside, "everywhere": everything(model, local), "rows": len(local.rows)}


def uneven(rank: int, world: int) -> dict:
    """Rank 0's data ends after 5 steps, the others' after 11, with tau = 4: all join until all have ended."""
    found = {}
    for name, options in {"plain": {}, "steps": {"weights": "steps"}, "delay": {"delay": 2}}.items():
        model = net()
        local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:4", **options)
        train(model, local, rank, range(5 if rank == 0 else 11))
        local.drain()
        ended = [p.detach().clone() for p in model.parameters()]
        train(model, local, rank, range(20, 24))  # the next epoch goes on as usual
        local.sync(force=True)
        found[name] = {"ended": ended, "model": everything(model, local), "syncs": local.syncs,
                       "steps": [row.steps for row in local.rows]}  # fmt: skip
    return found


def alone_counts(rank: int, world: int) -> dict:
    """Where one rank has steps, the mean is its model, not half of its way."""
    model = net()
    local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:4")
    train(model, local, rank, range(3) if rank == 1 else range(0))
    own = local.layout.flat(list(model.parameters()))
    local.sync(force=True)
    return {"own": own, "model": local.layout.flat(list(model.parameters()))}


def balance(rank: int, world: int) -> dict:
    """Rank 1 needs three times as long for a step: rank 0 does three times the steps of a period."""
    model, clock = net(), Clock()
    local = LocalUpdate(
        torch.optim.SGD(model.parameters(), lr=0.05), model, "fixed:4", balance=True, clock=clock, timeout=60
    )
    step = 0
    while local.syncs < 4:
        x, y = batch(step, rank)
        local.zero_grad()
        (model(x) - y).square().mean().backward()
        clock.now += 1.0 if rank == 0 else 3.0
        local.step()
        step += 1
    return {"steps": [row.steps for row in local.rows], "model": everything(model, local)}


def prepared(rank: int, world: int) -> dict:
    """The exchange's sync slot: its codec carries the changes, its rule combines them."""
    from drivetrain.comm import Exchange
    from drivetrain.comm.sync import prepare_local

    found = {}
    for name, options in {
        "raw": {"codec": "raw"},
        "3lc": {"codec": "3lc"},
        "median": {"codec": "raw", "aggregate": "median", "f": 1},
    }.items():
        models = []
        for way in ("exchange", "prepare_local"):
            model = net()
            inner = torch.optim.SGD(model.parameters(), lr=0.05)
            if way == "exchange":
                model, local = Exchange(sync="fixed:4", min_numel=1, **options).prepare(model, inner)
            else:
                model, local = prepare_local(model, inner, "fixed:4", **options)
            assert isinstance(local, LocalUpdate)
            train(model, local, rank, range(8))
            models.append([p.detach().clone() for p in model.parameters()])
        found[name] = {"models": models, "bytes": local.rows[-1].bytes}
    return found


def digits(rank: int, world: int) -> dict:
    """The digits, divided among the ranks: plain averaging, 3LC on the changes, and a hostile last rank."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    own = slice(rank, None, world)
    found = {}
    robust = {"aggregator": "median", "f": 1}
    cases = {
        "plain": {},
        "3lc": {"codec": "3lc"},
        "undefended": {},
        "median": robust,
        "median 3lc": {**robust, "codec": "3lc"},
    }
    for name, options in cases.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        local = LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.3), model, "fixed:5", **options)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(150):
            rows = torch.randint(len(x[own]), (16,), generator=generator)
            local.zero_grad()
            loss = nn.functional.cross_entropy(model(x[own][rows]), y[own][rows])
            (loss if name in ("plain", "3lc") or rank < world - 1 else -3 * loss).backward()
            local.observe(loss.clamp(max=10))
            local.step()
        with torch.no_grad():
            final = nn.functional.cross_entropy(model(x), y)
        found[name] = {"loss": float(final), "bytes": local.report().bytes, "model": list(model.parameters())}
    return found


CASES = {
    case.__name__: case
    for case in (
        synchronous,
        identical,
        momentum_forms,
        decisions,
        resume,
        delayed,
        broken,
        refusals,
        leaves,
        levels,
        uneven,
        alone_counts,
        balance,
        prepared,
        digits,
    )
}


def run(case: str, folder: Path, world: int = 2) -> list[dict]:
    """Run a case as `world` processes; what each rank found (None for a rank that left)."""
    outputs = [folder / f"rank{rank}.pt" for rank in range(world)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(folder)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, case, str(rank), str(world), str(folder / "rendezvous"), str(outputs[rank])],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        texts = [process.communicate(timeout=120)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * world, "\n".join(texts)
    return [torch.load(path, weights_only=False) if path.exists() else None for path in outputs]


def main() -> None:
    case, rank, world, rendezvous, out = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world))
    found = CASES[case](int(rank), int(world))
    torch.save(found, out)
    if case != "leaves":
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # taking gloo's threads down aborts now and then


if __name__ == "__main__":
    main()
