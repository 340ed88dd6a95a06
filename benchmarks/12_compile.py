"""torch.compile(model, backend="drivetrain") at batch 1: without options and frozen, beside eager and Inductor.

    python benchmarks/12_compile.py [--nets resnet50,sru] [--threads 1] [--optimize]

Each network is a process of its own; each compilation starts with empty caches (Inductor's, and the table of costs).
All forms run in turn; ratios are medians over pairs of neighbouring runs. A sample is as many calls as take 20 ms.
Definitions are pytorchcv 0.0.74's (random weights) and drivetrain.nets'. `--optimize` adds drivetrain.graph.optimize.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._inductor.utils import fresh_cache

from drivetrain import nets
from drivetrain.base.timing import Timing, interleave
from drivetrain.graph import backend, optimize
from drivetrain.graph.race import settle_s
from drivetrain.graph.verify import difference
from harness import Benchmark

CONVOLUTIONAL = {"resnet50": ("resnet", "resnet50"), "squeezenet": ("squeezenet", "squeezenet_v1_0")}
NETS = (*CONVOLUTIONAL, "small_cnn", "sru")
EAGER, LAST, INDUCTOR = "eager", "eager channels_last", "Inductor"
OURS, FROZEN, OPTIMIZE = 'backend="drivetrain"', "freeze=True", "graph.optimize"
ROUNDS, SAMPLE_S = 15, 0.02


def main() -> None:
    """Measure one network when told so, else all of them in processes of their own."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nets", default=",".join(NETS))
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--optimize", action="store_true", help="Beside drivetrain.graph.optimize, too.")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    found = options.parse_args()
    if found.one:
        print(json.dumps(measure(found.nets, found.threads, found.optimize)))
        return
    benchmark = Benchmark(
        "12", "compile", title="12 torch.compile", setting=f"inference, batch 1, float32, {found.threads} thread(s)"
    )
    for name in found.nets.split(","):
        command = [sys.executable, __file__, "--one", "--nets", name, "--threads", str(found.threads)]
        done = subprocess.run(
            [*command, *(["--optimize"] if found.optimize else [])], stdout=subprocess.PIPE, text=True, check=True
        )
        report(benchmark, name, json.loads(done.stdout.splitlines()[-1]))
    benchmark.finish()


def measure(name: str, threads: int, with_optimize: bool) -> dict[str, Any]:
    """Seconds of every form of one network, run by run; what compiling took, and what was chosen."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, example = network(name)
    forms: dict[str, Callable[[], Any]] = {EAGER: lambda: model(example)}
    if example.dim() == 4:
        images = copy.deepcopy(model).to(memory_format=torch.channels_last)
        laid_out = example.contiguous(memory_format=torch.channels_last)
        forms[LAST] = lambda: images(laid_out)
    compiled: dict[str, Callable[[], Callable[..., Any]]] = {
        INDUCTOR: lambda: torch.compile(model),
        OURS: lambda: torch.compile(model, backend="drivetrain"),
        FROZEN: lambda: torch.compile(model, backend="drivetrain", options={"freeze": True}),
    }
    if with_optimize:
        compiled[OPTIMIZE] = lambda: optimize(model, (example,)).module
    took, chosen, errors = dict[str, float](), dict[str, Any](), dict[str, float]()
    backend.register()
    with torch.no_grad(), ExitStack() as until_the_end:
        expected = [model(example)]
        torch.compile(torch.relu)(example.float())  # what Inductor does once in a process
        for form, build in compiled.items():
            torch._dynamo.reset()
            until_the_end.enter_context(fresh_cache())
            os.environ["DRIVETRAIN_CACHE"] = until_the_end.enter_context(tempfile.TemporaryDirectory())
            start = time.perf_counter()
            run = build()
            got = run(example)
            took[form] = time.perf_counter() - start
            errors[form] = difference(expected, [got])[0]
            if form in (OURS, FROZEN):
                choice = backend.choices()[-1]
                chosen[form] = {
                    "then": choice.then,
                    "ms": {label: 1e3 * timing.median for label, timing in choice.measured.items()},
                    "refused": choice.refused,
                }
            forms[form] = caller(run, example)
        times = interleave(forms, rounds=ROUNDS, warmup=2, sample_s=SAMPLE_S, settle_s=settle_s())
    return {
        "times": {form: list(timing.samples) for form, timing in times.items()},
        "compile_s": took,
        "chosen": chosen,
        "error": errors,
    }


def caller(run: Callable[..., Any], example: torch.Tensor) -> Callable[[], Any]:
    """A call without arguments."""
    return lambda: run(example)


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode, as it comes, and an example."""
    if name == "sru":
        return nets.build("sru_classifier", seed=0).eval(), torch.randint(0, 20000, (1, 20))
    if name in CONVOLUTIONAL:
        module, function = CONVOLUTIONAL[name]
        model: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)()
        return model.eval(), torch.randn(1, 3, 224, 224)
    return nets.build(name, seed=0).eval(), torch.randn(1, 3, 32, 32)


def report(benchmark: Benchmark, name: str, found: dict[str, Any]) -> None:
    """A row for each form of one network, and its targets."""
    times = {form: Timing(tuple(samples)) for form, samples in found["times"].items()}
    eager, inductor = times[EAGER], times[INDUCTOR]
    best = min((times[form] for form in (EAGER, LAST) if form in times), key=lambda timing: timing.median)
    for form, timing in times.items():
        benchmark.row(
            f"{name}, {form}",
            ms=timing.median * 1e3,
            spread=f"{timing.low * 1e3:.3g}-{timing.high * 1e3:.3g}",
            to_eager=eager.ratio(timing),
            to_Inductor=inductor.ratio(timing),
            compile_s=found["compile_s"].get(form, ""),
            runs=found["chosen"].get(form, {}).get("then", ""),
        )
    benchmark.fact(name, found)
    goals = {OURS: eager, FROZEN: best}
    for form, peer in goals.items():
        to = "eager" if peer is eager else "the faster eager form"
        benchmark.target(f"{name}: {form} to {to}", measured=peer.ratio(times[form]), goal=0.98, better="higher")
        benchmark.target(
            f"{name}: {form} to Inductor", measured=inductor.ratio(times[form]), goal=0.98, better="higher"
        )
    benchmark.target(
        f"{name}: freeze=True to without", measured=times[OURS].ratio(times[FROZEN]), goal=0.98, better="higher"
    )
    if OPTIMIZE in times:
        ratio = times[OPTIMIZE].ratio(times[FROZEN])
        benchmark.target(f"{name}: freeze=True to graph.optimize", measured=ratio, goal=0.95, better="higher")
    benchmark.target(f"{name}: largest relative error", measured=max(found["error"].values()), goal=1e-4)


if __name__ == "__main__":
    main()
