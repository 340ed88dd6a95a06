"""Inference at batch 1: rewritten programs beside eager channels_last, onnxruntime and (with --inductor) Inductor (§6).

    python benchmarks/12_metaflow.py [--nets resnet50,sru] [--threads 1] [--inductor]

Each network and number of threads is a process of its own. All forms run in turn; ratios are medians over pairs of
neighbouring runs. Inductor compiles for minutes, so it is asked for. Definitions are pytorchcv 0.0.74's (random
weights), the recurrent classifier is drivetrain.nets.sru_classifier (20 words, 1,024 units).
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.timing import Timing, interleave
from drivetrain.graph.cost import CostTable
from drivetrain.graph.rewrite import optimize
from harness import Benchmark

# name -> (pytorchcv module, its function, image size); others are drivetrain.nets
CONVOLUTIONAL = {
    "squeezenet": ("squeezenet", "squeezenet_v1_0", 224),
    "resnet50": ("resnet", "resnet50", 224),
    "inception-v3": ("inceptionv3", "inceptionv3", 299),
    "densenet121": ("densenet", "densenet121", 224),
}
OTHERS: dict[str, tuple[int, ...]] = {
    "lenet5": (1, 1, 28, 28), "small_cnn": (1, 3, 32, 32), "resnet20": (1, 3, 32, 32), "mobilenet_v1": (1, 3, 224, 224),
    "mlp": (1, 1, 28, 28),
}  # fmt: skip
EAGER_GOALS = {"squeezenet": 1.4, "resnet50": 1.25, "inception-v3": 1.3, "densenet121": 1.4, "sru": 2.5}
ROUNDS = 21


def main() -> None:
    """Measure one network when told so, else all of them in processes of their own."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nets", default=",".join([*CONVOLUTIONAL, "sru", *OTHERS]))
    options.add_argument("--threads", default="1,2")
    options.add_argument("--inductor", action="store_true", help="Beside Inductor with freezing, too.")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    found = options.parse_args()
    if found.one:
        print(json.dumps(measure(found.nets, int(found.threads), found.inductor)))
        return
    benchmark = Benchmark(
        "12", "metaflow", title="12 relaxed graph substitutions", setting="inference, batch 1, float32"
    )
    for threads in found.threads.split(","):
        for name in found.nets.split(","):
            report(benchmark, name, int(threads), in_a_process(name, threads, found.inductor))
    benchmark.finish()


def in_a_process(name: str, threads: str, inductor: bool) -> dict[str, Any]:
    """One network's measurements; the process's last line."""
    command = [sys.executable, __file__, "--one", "--nets", name, "--threads", threads]
    done = subprocess.run(
        [*command, *(["--inductor"] if inductor else [])], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(name: str, threads: int, inductor: bool) -> dict[str, Any]:
    """Times of every form of one network, in seconds, run by run; what the search did, cold and warm."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, example = network(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costs.json"
        cold = optimize(model, (example,), table=CostTable(path))
        warm = optimize(model, (example,), table=CostTable(path))
    forms: dict[str, Callable[[], Any]] = {
        "eager channels_last": lambda: model(example),
        "onnxruntime": onnxruntime(model, example, threads),
        "ours": lambda: warm.module(example),
    }
    if inductor:
        import torch._inductor.config as config

        config.freezing = True
        compiled = torch.compile(model)
        forms["Inductor"] = lambda: compiled(example)
    with torch.no_grad():
        times = interleave(forms, rounds=ROUNDS, warmup=3)
    return {
        "times": {form: list(timing.samples) for form, timing in times.items()},
        "then": warm.then,
        "steps": {step.rule: step.times for step in warm.steps},
        "cold_s": cold.search_seconds,
        "warm_s": warm.search_seconds,
        "error": warm.max_abs_err,
        "forms_ms": {label: 1e3 * timing.median for label, timing in warm.measured.items()},
        "flops": warm.cost_after.flops,
        "bytes": warm.cost_after.bytes,
    }


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode, images and weights channels last, and an example."""
    if name == "sru":
        return nets.build("sru_classifier", seed=0).eval(), torch.randint(0, 20000, (1, 20))
    if name in CONVOLUTIONAL:
        module, function, size = CONVOLUTIONAL[name]
        model = getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)().eval()
        shape: tuple[int, ...] = (1, 3, size, size)
    else:
        model = nets.build(name, seed=0, **({"image_size": 28} if name == "lenet5" else {})).eval()
        shape = OTHERS[name]
    return model.to(memory_format=torch.channels_last), torch.randn(shape).contiguous(memory_format=torch.channels_last)


def onnxruntime(model: nn.Module, example: torch.Tensor, threads: int) -> Callable[[], Any]:
    """The original in onnxruntime, as its users run it: exported, all of its own optimisations on."""
    import onnxruntime as ort

    with torch.no_grad():
        program = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString(), options)
    feed = {session.get_inputs()[0].name: example.contiguous().numpy()}
    return lambda: session.run(None, feed)


def report(benchmark: Benchmark, name: str, threads: int, found: dict[str, Any]) -> None:
    """Rows and targets of one network."""
    times = {form: Timing(tuple(samples)) for form, samples in found["times"].items()}
    ours = times["ours"]
    ratios = {form: timing.ratio(ours) for form, timing in times.items() if form != "ours"}
    columns = {f"{form}, ms": timing.median * 1e3 for form, timing in times.items()}
    gains = {f"to_{form}": ratio for form, ratio in ratios.items()}
    benchmark.row(
        f"{name}, {threads} thr.",
        **columns,
        **gains,
        by=found["then"],
        search_s=found["cold_s"],
        warm_s=found["warm_s"],
    )
    benchmark.fact(f"{name}, {threads} threads", found)
    where = f"{name}, {threads} thr."
    goal = EAGER_GOALS.get(name, 0.98)
    benchmark.target(
        f"{where}: to eager channels_last", measured=ratios["eager channels_last"], goal=goal, better="higher"
    )
    if name in EAGER_GOALS:
        best = 1.5 if name == "sru" else 0.98
        benchmark.target(f"{where}: to onnxruntime", measured=ratios["onnxruntime"], goal=best, better="higher")
        benchmark.target(f"{where}: search, cold, s", measured=found["cold_s"], goal=60.0)
        benchmark.target(f"{where}: search, warm, s", measured=found["warm_s"], goal=3.0)
    if name == "squeezenet":
        kept = found["steps"].get("enlarge-kernel", 0)
        benchmark.target(f"{where}: kernel enlargements kept (they lose on a CPU)", measured=kept, goal=0)


if __name__ == "__main__":
    main()
