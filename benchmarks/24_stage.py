"""24 staging: overhead of a call, look-up among many traces, many small operators, ResNet-50, time to trace.

Peers in the same run: torch eager, torch.compile, torch.export; TensorFlow where TF_PYTHON names an interpreter of it.
CPU seconds of this process with one thread, in turn, medians.

    TF_PYTHON=/path/to/python python benchmarks/24_stage.py
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from drivetrain.base.timing import Timing, interleave
from drivetrain.graph import function
from drivetrain.nets import build
from harness import Benchmark
from stage_tasks import PRECISION, SAMPLES, leapfrog

CALLS = 5_000
ROUNDS = 15


def per_call(runs: dict[str, Callable[[], object]], calls: int, rounds: int = ROUNDS) -> dict[str, Timing]:
    """CPU seconds of one call of each, in turn."""

    def repeated(run: Callable[[], object]) -> Callable[[], None]:
        def many() -> None:
            for _ in range(calls):
                run()

        return many

    found = interleave({name: repeated(run) for name, run in runs.items()}, rounds=rounds, clock="cpu")
    return {name: Timing(tuple(s / calls for s in timing.samples)) for name, timing in found.items()}


def microseconds(timing: Timing) -> str:
    """Median and spread in µs."""
    return f"{timing.median * 1e6:.2f} ({timing.low * 1e6:.2f}-{timing.high * 1e6:.2f})"


def difference(one: Timing, other: Timing) -> float:
    """Median of the pairwise differences in µs."""
    return statistics.median(a - b for a, b in zip(one.samples, other.samples, strict=True)) * 1e6


def overhead(b: Benchmark) -> None:
    """A call of a cached Function beside its bare graph, with 4 and 12 tensors; with torch.compile."""

    def add(a: object, b: object, c: object, d: object) -> object:
        return a + b  # type: ignore[operator]

    def first(xs: list[torch.Tensor]) -> torch.Tensor:
        return xs[0] + xs[1]

    four, twelve = [torch.ones(3) for _ in range(4)], [torch.ones(3) for _ in range(12)]
    ours, listed = function(add, backend="eager"), function(first, backend="eager")
    compiled, aot = torch.compile(add, backend="eager"), torch.compile(add, backend="aot_eager")
    lowered = function(add, options={"then": "eager"})
    for run in (ours, compiled, aot, lowered):
        run(*four)
    listed(four), listed(twelve)
    bare = ours.traces[0].run
    found = per_call(
        {
            "bare graph": lambda: bare(*four),
            "torch eager": lambda: add(*four),
            "drivetrain.function, its own executor": lambda: ours(*four),
            "drivetrain.function, through aot_autograd": lambda: lowered(*four),
            'torch.compile(backend="eager")': lambda: compiled(*four),
            'torch.compile(backend="aot_eager")': lambda: aot(*four),
            "a list of 4 tensors": lambda: listed(four),
            "a list of 12 tensors": lambda: listed(twelve),
        },
        CALLS,
    )
    for name, timing in found.items():
        b.row(name, cpu_us=microseconds(timing), over_bare_us=difference(timing, found["bare graph"]))
    b.target(
        "overhead of a call with 4 tensors over its bare graph <= 15 us",
        measured=difference(found["drivetrain.function, its own executor"], found["bare graph"]),
        goal=15,
    )
    leaf = difference(found["a list of 12 tensors"], found["a list of 4 tensors"]) / 8
    b.target("each further leaf <= 1 us", measured=leaf, goal=1)
    b.fact("overhead_us", {name: difference(timing, found["bare graph"]) for name, timing in found.items()})


def look_up(b: Benchmark) -> None:
    """The same call among 1, 64 and 1000 traces; torch.compile among 64 of its own."""

    def scaled(x: torch.Tensor, k: int) -> torch.Tensor:
        return x * k

    x = torch.ones(3)
    one, many, most = (function(scaled, backend="eager", max_traces=1000) for _ in range(3))
    one(x, 0)
    for k in range(1000):
        most(x, k)
        if k < 64:
            many(x, k)
    torch._dynamo.config.recompile_limit = 100
    torch._dynamo.config.specialize_int = True
    alone, guarded = (torch.compile(lambda x, k: x * k, backend="eager") for _ in range(2))
    alone(x, 0)
    for k in range(64):
        guarded(x, k)
    always, turn = itertools.cycle([0] * 64), itertools.cycle(range(64))  # 64 kinds of calls, one after the other
    found = per_call(
        {
            "drivetrain, 1 trace": lambda: one(x, next(always)),
            "drivetrain, 64 traces in turn": lambda: many(x, next(turn)),
            "drivetrain, 64 of 1000 traces in turn": lambda: most(x, next(turn)),
            "torch.compile, 1 graph": lambda: alone(x, next(always)),
            "torch.compile, 64 graphs in turn": lambda: guarded(x, next(turn)),
        },
        CALLS,
    )
    for name, timing in found.items():
        b.row(name, cpu_us=microseconds(timing))
    extra = difference(found["drivetrain, 64 traces in turn"], found["drivetrain, 1 trace"])
    b.target("look-up among 64 traces: extra <= 2 us", measured=extra, goal=2)
    b.fact("look_up_extra_us", {
        "drivetrain 64": extra,
        "drivetrain 1000": difference(found["drivetrain, 64 of 1000 traces in turn"], found["drivetrain, 1 trace"]),
        "torch.compile 64": difference(found["torch.compile, 64 graphs in turn"], found["torch.compile, 1 graph"]),
    })  # fmt: skip


def small_operators(b: Benchmark) -> None:
    """Ten leapfrog steps: many small operators, where Python and dispatch are what costs."""
    torch.manual_seed(0)
    args = (torch.randn(SAMPLES, 2), torch.randn(SAMPLES, 2), torch.tensor(PRECISION), torch.tensor([0.99, 0.99]))
    staged, lowered = function(leapfrog, backend="eager"), function(leapfrog, backend="inductor")
    compiled = torch.compile(leapfrog)
    for run in (staged, lowered, compiled):
        run(*args)
        for ours, theirs in zip(run(*args), leapfrog(*args), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    found = per_call(
        {
            "torch eager": lambda: leapfrog(*args),
            "drivetrain.function, its own executor": lambda: staged(*args),
            "drivetrain.function, inductor": lambda: lowered(*args),
            "torch.compile (inductor)": lambda: compiled(*args),
        },
        300,
    )
    eager = found["torch eager"]
    ratios = {name: eager.ratio(timing) for name, timing in found.items()}
    for name, timing in found.items():
        b.row(f"leapfrog: {name}", cpu_us=microseconds(timing), times_eager=ratios[name])
    b.target("leapfrog, inductor: >= 2.5x torch eager", measured=ratios["drivetrain.function, inductor"], goal=2.5,
             better="higher")  # fmt: skip
    tensorflow = tensorflow_times()
    for name, timing in tensorflow.items():
        if name != "overhead":
            ratios[f"TensorFlow {name}"] = eager.median / timing.median
            b.row(f"leapfrog: TensorFlow {name}", cpu_us=microseconds(timing), times_eager=eager.median / timing.median)
        else:
            b.row("TensorFlow: a tf.function of a + b, 4 tensors", cpu_us=microseconds(timing))
    if tensorflow:
        ours = found["drivetrain.function, inductor"].median
        b.target("leapfrog, inductor: >= 3x tf.function", measured=tensorflow["tf.function"].median / ours, goal=3,
                 better="higher")  # fmt: skip
    b.fact("leapfrog_times_eager", ratios)
    b.fact("leapfrog_operators", staged.traces[0].nodes)


def tensorflow_times() -> dict[str, Timing]:
    """TensorFlow's times from an interpreter of its own; none if TF_PYTHON is not set."""
    python = os.environ.get("TF_PYTHON")
    if not python:
        print("TF_PYTHON is not set: without TensorFlow's rows", file=sys.stderr)
        return {}
    script = Path(__file__).with_name("stage_tasks.py")
    done = subprocess.run([python, str(script)], capture_output=True, text=True, timeout=600)
    if done.returncode:
        print(f"TensorFlow failed: {done.stderr[-300:]}", file=sys.stderr)
        return {}
    return {name: Timing(tuple(samples)) for name, samples in json.loads(done.stdout.splitlines()[-1]).items()}


def network(b: Benchmark) -> None:
    """ResNet-50, one image: kernels dominate; staging must not cost. And how long tracing it takes."""
    model, x = build("resnet50").eval(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        staged = function(model, backend="eager")
        staged(x)
        assert torch.equal(staged(x), model(x))
        lowered = function(model, backend="inductor")
        lowered(x)
        assert torch.allclose(lowered(x), model(x), rtol=1e-3, atol=1e-3)
        found = per_call(
            {
                "ResNet-50: torch eager": lambda: model(x),
                "ResNet-50: staged, its own executor": lambda: staged(x),
                "ResNet-50: staged, inductor": lambda: lowered(x),
            },
            1,
            25,
        )

        def trace_anew() -> object:
            staged.clear()
            return staged.concrete(x)

        def export() -> object:
            return torch.export.export(model, (x,), strict=False)

        traced = interleave({"trace": trace_anew, "export": export}, rounds=5, clock="cpu")
    eager = found["ResNet-50: torch eager"]
    for name, timing in found.items():
        b.row(name, cpu_us=microseconds(timing), times_eager=eager.ratio(timing))
    worst = min(eager.ratio(timing) for timing in found.values() if timing is not eager)
    b.target("ResNet-50 staged, one image: never below 0.98x eager", measured=worst, goal=0.98, better="higher")
    for name, timing in traced.items():
        b.row(f"ResNet-50: time to {name}", cpu_s=timing)
    b.target("time to trace ResNet-50: <= 2x torch.export", measured=traced["trace"].ratio(traced["export"]), goal=2)


def main() -> None:
    """Run all parts and write the result."""
    torch.set_num_threads(1)
    b = Benchmark("24", "stage", title="24 staging", setting="CPU seconds, one thread; leapfrog: 200 x 2, 10 steps")
    overhead(b)
    look_up(b)
    small_operators(b)
    network(b)
    b.finish()


if __name__ == "__main__":
    main()
