"""A training step with batch norms restructured, beside eager NCHW, eager channels_last and (with --inductor) Inductor.

    python benchmarks/19_batchnorm.py [--only block1,block2,densenet121,resnet50] [--threads 1] [--inductor]

Dense blocks 1 and 2 of DenseNet-121 alone, then whole networks at 224 x 224, random weights; forward and backward. All
forms run in turn; ratios are medians over pairs of neighbouring runs. Inductor compiles the blocks for minutes: ask for
it; it is left out where it takes more than three. `ours` is `patch_(model, example=x)` on the plain model: what a user
types, whatever it decides. `ours, compiled` is torch.compile(backend="drivetrain", options={"bn": "auto", "then":
"eager"}). Every level is timed on the blocks, unmeasured, in channels_last.
"""

from __future__ import annotations

import argparse
import copy
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain import nets
from drivetrain.base.timing import Timing, interleave
from drivetrain.graph.backend import register
from drivetrain.graph.batchnorm import BNPlan, patch_, restructure, sweeps, traffic
from drivetrain.nets.densenet import DenseLayer
from harness import Benchmark

# name -> (model, shape of one image, goal against the best peer)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "block1": (lambda: nn.Sequential(*[DenseLayer(64 + 32 * i, 32) for i in range(6)]), (64, 56, 56), 1.15),
    "block2": (lambda: nn.Sequential(*[DenseLayer(128 + 32 * i, 32) for i in range(12)]), (128, 28, 28), 1.15),
    "densenet121": (nets.densenet121, (3, 224, 224), 1.10),
    "resnet50": (nets.resnet50, (3, 224, 224), 1.05),
}
OURS = "ours"
LEVELS = ("stats_reuse", "rcf", "mvf", "bnff")
INDUCTOR_SECONDS = 180


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="cpu holds on a shared machine.")
    parser.add_argument("--inductor", action="store_true", help="Beside Inductor, too (minutes of compiling).")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    benchmark = Benchmark(
        "19", "batchnorm", title="19 batch norm restructuring",
        setting=f"training step, batch {options.batch}, float32, {options.threads} threads, {options.clock} time",
    )  # fmt: skip
    benchmark.fact("copy_bytes_per_second", copy_rate())
    for name in options.only.split(","):
        measure(benchmark, name, options)
        benchmark.finish()  # after each: a long run that is cut short has what it measured


def measure(benchmark: Benchmark, name: str, options: argparse.Namespace) -> None:
    """All forms of one model in turn."""
    make, image, goal = CASES[name]
    torch.manual_seed(0)
    model, x = make().train(), torch.randn(options.batch, *image)
    forms, seconds, plan = competitors(model, x, options.inductor and name.startswith("block"))
    steps = {label: step(run, values) for label, (run, values) in forms.items()}
    timings = interleave(steps, rounds=options.rounds, clock=options.clock)
    kept = {label: saved_bytes(run, values) for label, (run, values) in forms.items()}
    for label, timing in timings.items():
        benchmark.row(
            f"{name}: {label}", step=timing, times_faster_than_eager=timings["eager"].ratio(timing),
            activations_MB=kept[label] / 1e6, ready_s=seconds[label],
        )  # fmt: skip
    ours, peers = timings[OURS], {label: timing for label, timing in timings.items() if not label.startswith(OURS)}
    best = min(peers.values(), key=lambda timing: timing.median)
    benchmark.target(f"{name} against the best peer", measured=best.ratio(ours), goal=goal, better="higher")
    benchmark.target(f"{name} never slower than it", measured=best.ratio(ours), goal=0.98, better="higher")
    benchmark.target(f"{name} activations kept, of eager's", measured=kept[OURS] / kept["eager"], goal=0.75)
    start = time.perf_counter()
    restructure(model)
    benchmark.target(f"{name} rewrite, seconds", measured=time.perf_counter() - start, goal=10.0)
    moved = traffic(model, tuple(x.shape))
    edges = {level: moved.step_bytes(level) for level in ("baseline", "rcf", "mvf", "bnff")}
    benchmark.fact(f"{name}_edge_bytes", edges)
    benchmark.fact(f"{name}_seconds_saved", {
        "predicted": (edges["baseline"] - edges["bnff"]) / benchmark.facts["copy_bytes_per_second"],
        "measured": best.median - ours.median,
    })  # fmt: skip
    benchmark.fact(f"{name}_plan", {
        "level": plan.level, "layout": plan.layout, "applied": sum(edge.applied for edge in plan), "of": len(plan),
        "seconds": plan.seconds,
    })  # fmt: skip
    benchmark.fact("sweeps", {level: sum(sweeps(level)) for level in ("baseline", "rcf", "mvf", "bnff")})
    benchmark.fact(f"{name}_best_peer", min(peers, key=lambda label: peers[label].median))
    benchmark.fact(f"{name}_times_the_best_peer", {label: best.ratio(timing) for label, timing in timings.items()})


def competitors(
    model: nn.Module, x: Tensor, inductor: bool
) -> tuple[dict[str, tuple[Any, Tensor]], dict[str, float], BNPlan]:
    """Every form with its input, the seconds until it was ready to run, and what patch_ decided."""
    last, rows = copy.deepcopy(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    forms: dict[str, tuple[Any, Tensor]] = {"eager": (model, x), "eager channels_last": (last, rows)}
    seconds = dict.fromkeys(forms, 0.0)
    start = time.perf_counter()
    patched = copy.deepcopy(model)
    plan = patch_(patched, example=x.clone().requires_grad_(x.shape[1] != 3))
    forms[OURS] = (patched, x)
    seconds[OURS] = time.perf_counter() - start
    if x.shape[1] != 3:  # the blocks
        for level in LEVELS:
            made = copy.deepcopy(last)
            patch_(made, level=level)
            forms[f"{OURS}, level {level}"], seconds[f"{OURS}, level {level}"] = (made, rows), 0.0
    register()
    compiled: dict[str, Any] = {"ours, compiled": {"backend": "drivetrain", "options": {"bn": "auto", "then": "eager"}}}
    if inductor:
        compiled["Inductor"] = {}
    for label, arguments in compiled.items():
        start = time.perf_counter()
        made = torch.compile(copy.deepcopy(model), **arguments)
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(INDUCTOR_SECONDS)
        try:
            step(made, x)()
        except TimeoutError:
            print(f"{label}: not compiled within {INDUCTOR_SECONDS} s, left out")
            continue
        finally:
            signal.alarm(0)
        forms[label] = (made, x)
        seconds[label] = time.perf_counter() - start
    return forms, seconds, plan


def _too_long(*_: object) -> None:
    raise TimeoutError


def step(run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """A forward and backward pass; a block's input needs its gradient, an image does not."""
    needs = x.shape[1] != 3

    def once() -> None:
        value = x.detach().requires_grad_(needs)
        run(value).square().mean().backward()
        for parameter in run.parameters():  # type: ignore[attr-defined]
            parameter.grad = None

    return once


def saved_bytes(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """What autograd keeps for the backward, each storage once, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in run.parameters()}  # type: ignore[attr-defined]
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(value)  # so that no address is used twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run(x.detach().requires_grad_(x.shape[1] != 3))
    return sum(kept.values())


def copy_rate() -> float:
    """Bytes read and written a second by a large copy, the machine's own limit."""
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    timing: Timing = interleave({"copy": lambda: target.copy_(source)}, rounds=5)["copy"]
    return 2 * source.nbytes / timing.low


if __name__ == "__main__":
    main()
