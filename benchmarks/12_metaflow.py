"""Inference at batch 1: rewritten programs beside eager channels_last, onnxruntime and Inductor with freezing (§6).

    python benchmarks/12_metaflow.py [--nets resnet50,sru] [--threads 1] [--inductor none] [--resume] [--rounds 15]

Each network and number of threads is a process of its own. All forms run in turn; ratios are medians over pairs of
neighbouring runs, short calls are repeated within a sample. Inductor takes part where `--inductor` says so; by default
where it compiles in less than about a minute. The result file is written after each network; `--resume` keeps what it
holds and measures only what is missing. Definitions are pytorchcv 0.0.74's (random weights) and drivetrain.nets'; the
recurrent classifier is sru_classifier (20 words, 1,024 units). onnxruntime gets and returns NumPy arrays, all others
tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.timing import Timing, interleave, machine
from drivetrain.graph.cost import CostTable
from drivetrain.graph.race import SAMPLE_S, settle_s
from drivetrain.graph.rewrite import optimize
from drivetrain.graph.rewrite.term import Graph
from harness import Benchmark

# name -> (pytorchcv module, its function, image size); others are drivetrain.nets
CONVOLUTIONAL = {
    "squeezenet": ("squeezenet", "squeezenet_v1_0", 224),
    "squeezeresnet": ("squeezenet", "squeezeresnet_v1_0", 224),
    "resnet50": ("resnet", "resnet50", 224),
    "inception-v3": ("inceptionv3", "inceptionv3", 299),
    "densenet121": ("densenet", "densenet121", 224),
}
# nets has a resnet50 and a densenet121, too: the same operators as above
OTHERS: dict[str, tuple[int, ...]] = {
    "lenet5": (1, 1, 28, 28), "mlp": (1, 1, 28, 28), "small_cnn": (1, 3, 32, 32), "resnet20": (1, 3, 32, 32),
    "resnet110": (1, 3, 32, 32), "densenet_small": (1, 3, 32, 32), "mobilenet_v1": (1, 3, 224, 224),
    "resnet18": (1, 3, 224, 224), "vgg16": (1, 3, 224, 224),
}  # fmt: skip
WORDS = {"sru": ("sru_classifier", 20000), "text_wcnn": ("text_wcnn", 1000), "lstm": ("lstm_language_model", 1000)}
EAGER_GOALS = {"squeezenet": 1.4, "resnet50": 1.25, "inception-v3": 1.3, "densenet121": 1.4, "sru": 2.5}
QUICK = "squeezenet,squeezeresnet,resnet50,inception-v3,sru,text_wcnn,lenet5,mlp,small_cnn,resnet20,mobilenet_v1"
EAGER, OURS, ONNX = "eager channels_last", "ours", "onnxruntime"


def main() -> None:
    """Measure one network when told so, else all of them in processes of their own."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nets", default=",".join([*CONVOLUTIONAL, *WORDS, *OTHERS]))
    options.add_argument("--threads", default="1,2")
    options.add_argument("--inductor", default=QUICK, help="Networks beside which Inductor runs; all or none.")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--resume", action="store_true", help="Keep what the result file holds of this machine.")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    found = options.parse_args()
    if found.one:
        print(json.dumps(measure(found.nets, int(found.threads), found.inductor == "all", found.rounds)))
        return
    known = measured_before() if found.resume else {}
    wanted = [(name, int(threads)) for threads in found.threads.split(",") for name in found.nets.split(",")]
    for name, threads in wanted:
        key = f"{name}, {threads} thr."
        if key not in known:
            inductor = found.inductor == "all" or name in found.inductor.split(",")
            started = time.monotonic()
            known[key] = in_a_process(name, threads, inductor, found.rounds)
            print(f"{key}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            with contextlib.redirect_stdout(io.StringIO()):  # a killed run keeps its rows
                written(known)
    written(known)


def written(known: dict[str, dict[str, Any]]) -> None:
    """The result file and its table from all measurements."""
    setting = "inference, batch 1, float32; ratios above 1: ours is faster"
    benchmark = Benchmark("12", "metaflow", title="12 relaxed graph substitutions", setting=setting)
    for key, found in known.items():
        report(benchmark, key, found)
    benchmark.finish()


def measured_before() -> dict[str, dict[str, Any]]:
    """What the result file holds, if it was measured on this machine."""
    path = Benchmark("12", "metaflow", title="", setting="").path
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    here = machine()
    if any(content["machine"].get(name) != here[name] for name in ("processor", "cores", "torch")):
        return {}
    return {key: found for key, found in content["facts"].items() if key.endswith("thr.") and "peak_flops" in found}


def in_a_process(name: str, threads: int, inductor: bool, rounds: int) -> dict[str, Any]:
    """One network's measurements; the process's last line."""
    command = [sys.executable, __file__, "--one", "--nets", name, "--threads", str(threads), "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, "--inductor", "all" if inductor else "none"], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(name: str, threads: int, inductor: bool, rounds: int) -> dict[str, Any]:
    """Times of every form of one network, in seconds, run by run; what the search did, cold and warm."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, example = network(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costs.json"
        cold = optimize(model, (example,), table=CostTable(path), rounds=rounds)
        # Once more for the search alone: the race among the forms is run already.
        warm = optimize(model, (example,), table=CostTable(path), rounds=1, then="eager")
    forms: dict[str, Callable[[], Any]] = {
        EAGER: lambda: model(example),
        ONNX: onnxruntime(model, example, threads),
        OURS: lambda: cold.module(example),
    }
    compiled_s = 0.0
    with torch.no_grad():
        if inductor:
            compiled = torch.compile(model, options={"freezing": True})
            started = time.monotonic()
            compiled(example)
            compiled_s = time.monotonic() - started
            forms["Inductor"] = lambda: compiled(example)
        times = interleave(forms, rounds=rounds, warmup=2, sample_s=SAMPLE_S, settle_s=settle_s())
    cost = cold.cost_after if cold.then.endswith("after search") else cold.cost_before
    assert cold.searched is not None
    form = cold.searched.forms[-1 if cold.then.endswith("after search") else 0]
    return {
        "times": {form: list(timing.samples) for form, timing in times.items()},
        "then": cold.then,
        "steps": {step.rule: step.times for step in cold.steps},
        "explored": cold.explored,
        "cold_s": cold.search_seconds,
        "warm_s": warm.search_seconds,
        "whole_s": cold.seconds,
        "inductor_s": compiled_s,
        "error": cold.max_abs_err,
        "forms_ms": {label: 1e3 * timing.median for label, timing in cold.measured.items()},
        "refused": cold.refused,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "weight_bytes": float(weights_read(form)),
        **peaks(),
    }


def weights_read(form: Graph) -> int:
    """Bytes of constants that a call reads from memory, each once; of tables only some rows are read."""
    tables = {torch.ops.aten.embedding.default, torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default}
    read = {
        inner: inner.meta.nbytes
        for node in form.order
        if not node.constant and node.op not in tables
        for inner in node.inputs
        if inner.constant
    }
    return sum(read.values())


def peaks() -> dict[str, float]:
    """What this machine does at most, now: operations a second in large products, bytes a second in a copy."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    image = torch.randn(1, 256, 28, 28).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 1, 1)
    source, target = torch.zeros(32 << 20), torch.empty(32 << 20)
    product = min(seconds(lambda: torch.mm(a, b)) for _ in range(40))
    convolution = min(seconds(lambda: torch.conv2d(image, weight)) for _ in range(40))
    copy = min(seconds(lambda: target.copy_(source)) for _ in range(6))
    best = max(2 * 512**3 / product, 2 * 256 * 256 * 28 * 28 / convolution)
    return {"peak_flops": best, "peak_bytes": 2 * source.nbytes / copy}


def seconds(run: Callable[[], Any]) -> float:
    """One run's time."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode, images and weights channels last, and an example."""
    if name in WORDS:
        built, vocabulary = WORDS[name]
        return nets.build(built, seed=0).eval(), torch.randint(0, vocabulary, (1, 20))
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


def report(benchmark: Benchmark, key: str, found: dict[str, Any]) -> None:
    """Row and targets of one network and number of threads."""
    name = key.partition(",")[0]
    forms = [form for form in (EAGER, "Inductor", ONNX, OURS) if form in found["times"]]
    times = {form: Timing(tuple(found["times"][form])) for form in forms}
    ratios = {form: timing.ratio(times[OURS]) for form, timing in times.items() if form != OURS}
    by_operations = 1e3 * found["flops"] / found["peak_flops"]
    by_memory = 1e3 * found["weight_bytes"] / found["peak_bytes"]
    benchmark.row(
        key,
        **{f"{form}, ms": timing.median * 1e3 for form, timing in times.items()},
        **{f"to_{form.partition(' ')[0]}": ratio for form, ratio in ratios.items()},
        by=found["then"],
        limit_ms=max(by_operations, by_memory),
        search_s=found["cold_s"],
        warm_s=found["warm_s"],
    )
    benchmark.fact(key, found)
    goal = EAGER_GOALS.get(name, 0.98)
    benchmark.target(f"{key}: to eager channels_last", measured=ratios[EAGER], goal=goal, better="higher")
    if name not in EAGER_GOALS:
        return
    best = 1.5 if name == "sru" else 0.98
    benchmark.target(f"{key}: to onnxruntime", measured=ratios[ONNX], goal=best, better="higher")
    benchmark.target(f"{key}: search, cold, s", measured=found["cold_s"], goal=60.0)
    benchmark.target(f"{key}: search, warm, s", measured=found["warm_s"], goal=3.0)
    if name != "sru":
        kept = found["steps"].get("enlarge-kernel", 0)
        benchmark.target(f"{key}: kernel enlargements kept (they lose on a CPU)", measured=kept, goal=0)


if __name__ == "__main__":
    main()
