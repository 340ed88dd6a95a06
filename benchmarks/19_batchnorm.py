"""A training step with batch norms restructured, beside eager NCHW, eager channels_last and (with --inductor) Inductor.

    python benchmarks/19_batchnorm.py [--only block1,block2,densenet121,resnet50] [--threads 1] [--inductor]

Dense blocks 1 and 2 of DenseNet-121 alone, then whole networks at 224 x 224, random weights; forward and backward. All
forms run in turn; ratios are medians over pairs of neighbouring runs. Inductor compiles for minutes: ask for it.
`ours` is `patch_`, `ours, compiled` is torch.compile(backend="drivetrain", options={"bn": "auto", "then": "eager"}).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain import nets
from drivetrain.base.timing import Timing, interleave
from drivetrain.graph.backend import register
from drivetrain.graph.batchnorm import patch_, sweeps, traffic
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
    forms, seconds = competitors(model, x, options.inductor)
    steps = {label: step(run, values) for label, (run, values) in forms.items()}
    timings = interleave(steps, rounds=options.rounds, clock=options.clock)
    ours = min((timings[label] for label in timings if label.startswith(OURS)), key=lambda timing: timing.median)
    peers = {label: timing for label, timing in timings.items() if not label.startswith(OURS)}
    kept = {label: saved_bytes(run, values) for label, (run, values) in forms.items()}
    for label, timing in timings.items():
        benchmark.row(
            f"{name}: {label}", step=timing, times_faster_than_eager=timings["eager"].ratio(timing),
            activations_MB=kept[label] / 1e6, ready_s=seconds[label],
        )  # fmt: skip
    best = min(peers.values(), key=lambda timing: timing.median)
    benchmark.target(f"{name} against the best peer", measured=best.ratio(ours), goal=goal, better="higher")
    benchmark.target(f"{name} activations kept, of eager's", measured=kept[OURS] / kept["eager"], goal=0.75)
    benchmark.target(f"{name} rewrite, seconds", measured=seconds[OURS], goal=10.0)
    moved = traffic(model, tuple(x.shape))
    benchmark.fact(f"{name}_edge_bytes", {level: moved.step_bytes(level) for level in ("baseline", "bnff")})
    benchmark.fact("sweeps", {"baseline": sum(sweeps("baseline")), "bnff": sum(sweeps("bnff"))})


def competitors(model: nn.Module, x: Tensor, inductor: bool) -> tuple[dict[str, tuple[Any, Tensor]], dict[str, float]]:
    """Every form with its input, and the seconds until it was ready to run."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    forms = {"eager": (model, x), "eager channels_last": (last, x.to(memory_format=torch.channels_last))}
    seconds = dict.fromkeys(forms, 0.0)
    start = time.perf_counter()
    patched = copy.deepcopy(model)
    patch_(patched)
    forms[OURS] = (patched, x)
    seconds[OURS] = time.perf_counter() - start
    register()
    compiled: dict[str, Any] = {"ours, compiled": {"backend": "drivetrain", "options": {"bn": "auto", "then": "eager"}}}
    if inductor:
        compiled["Inductor"] = {}
    for label, arguments in compiled.items():
        start = time.perf_counter()
        made = torch.compile(copy.deepcopy(model), **arguments)
        step(made, x)()
        forms[label] = (made, x)
        seconds[label] = time.perf_counter() - start
    return forms, seconds


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
