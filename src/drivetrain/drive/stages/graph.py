"""[graph]: the trained model, rewritten for fast inference on this machine and held against the original."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from drivetrain.base.config import Section
from drivetrain.base.errors import DrivetrainError, RunFailed
from drivetrain.base.files import write_json, write_text

from ..report.parts import Bars, Facts, Part, Table, Text
from ..splits import read_tensors
from ..stage import Drive, Outcome, Stage
from ..trained import load_model
from ..worker import predictions

RESULT = "rewrite.json"


class GraphConfig(Section):
    """[graph]."""

    batch_size: int = Field(1, ge=1, description="rows of a call, as they will be served")
    then: Literal["auto", "eager", "onednn", "onnxruntime", "inductor"] = Field(
        "auto", description="how to run; auto measures"
    )
    alpha: float = Field(1.05, ge=1, description="how much dearer than the best a program may be to be followed")
    budget: int = Field(300, ge=0, description="programs that the search takes up at most")
    seconds: float = Field(60.0, gt=0, description="of the search")
    tolerance: float = Field(1e-4, gt=0, description="largest difference of an output, relative to the largest output")
    required: bool = Field(True, description="false: a model that can't be captured goes on as it is")


def run(config: GraphConfig, drive: Drive) -> Outcome:
    """Capture, rewrite, compare on every whole batch of the test split, write the program."""
    from drivetrain.graph.rewrite import optimize, to_html
    from drivetrain.graph.rewrite.report import verdict

    task = json.loads((drive.artifacts("train") / "task.json").read_text())
    model = load_model(drive.run_folder)
    data = read_tensors(drive, features=task["features"], regression=task["task"] == "regression")
    if len(data.test_x) < config.batch_size:
        raise RunFailed(
            f"graph: batch_size is {config.batch_size}, the test split has {len(data.test_x)} rows",
            hint=drive.locate("graph", "batch_size"),
        )
    example = data.test_x[: config.batch_size]
    try:
        result = optimize(
            model, (example,), then=config.then, alpha=config.alpha, budget=config.budget,
            time_limit_s=config.seconds, tolerance=config.tolerance,
        )  # fmt: skip
        program = result.program()
    except DrivetrainError as error:
        if config.required:
            raise
        write_json(drive.work / RESULT, {"refused": f"{error}", "hint": error.hint})
        return Outcome(True, f"the model stays as it is: {error}")
    rows, changed, worst = compare(model, result.module, data.test_x, config.batch_size, task["task"])
    if worst > config.tolerance:
        raise RunFailed(
            f"graph: on the test split outputs differ by {worst:.2g} of the largest; [graph] tolerance is "
            f"{config.tolerance:g}",
            hint="a model that is not continuous, or half precision? a larger tolerance accepts it",
        )
    program.save(drive.work / "model.pt2")
    write_text(drive.work / "rewrite.html", to_html(result, f"{drive.name}: what was rewritten"))
    write_json(drive.work / RESULT, {
        "verdict": verdict(result), "then": result.then, "gain": result.gain, "rows": rows,
        "changed predictions": changed, "largest difference": worst, "batch size": config.batch_size,
        "milliseconds": {label: 1e3 * timing.median for label, timing in result.measured.items()},
        "steps": {step.rule: step.times for step in result.steps}, "not built": result.refused,
        "left out": {**result.failures, **dict.fromkeys(result.wrong, "it computes something else")},
        "search seconds": result.search_seconds,
    })  # fmt: skip
    return Outcome(True, f"{result.gain:.2f}x faster by {result.then} at batch size {config.batch_size}")


@torch.no_grad()
def compare(model: nn.Module, rewritten: nn.Module, x: Tensor, batch_size: int, task: str) -> tuple[int, int, float]:
    """Rows compared, predictions that changed, largest difference relative to the largest output."""
    rows, changed, gap, largest = 0, 0, 0.0, 0.0
    for batch in x[: len(x) // batch_size * batch_size].split(batch_size):
        expected, got = model(batch), rewritten(batch)
        rows += len(batch)
        gap = max(gap, float((expected - got).abs().max()))
        largest = max(largest, float(expected.abs().max()))
        if task == "classification":
            changed += int((predictions(expected, task) != predictions(got, task)).sum())
    return rows, changed, gap / max(largest, 1e-30)


def inputs(config: GraphConfig, drive: Drive) -> Mapping[str, str]:
    """Nothing but the stages before it."""
    return {}


def show(folder: Path) -> Iterable[Part]:
    """What was gained, by what, and how it was checked."""
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    if "refused" in found:
        yield Text(f"The model was not rewritten: {found['refused']}")
        return
    yield Text(found["verdict"])
    yield Facts({
        "batch size": found["batch size"], "rows of the test split compared": found["rows"],
        "predictions that changed": found["changed predictions"],
        "largest difference, relative": found["largest difference"],
        "seconds of the search": round(found["search seconds"], 2),
    })  # fmt: skip
    times = sorted(found["milliseconds"].items(), key=lambda item: item[1])
    yield Bars("Milliseconds a call", [label for label, _ in times], [ms for _, ms in times], unit="ms")
    if found["steps"]:
        yield Table(("rewrite", "times"), list(found["steps"].items()))
    for label, why in found["not built"].items():
        yield Text(f"Not built: {label}: {why}")
    for rule, why in found["left out"].items():
        yield Text(f"Rule left out: {rule}: {why}")


STAGE = Stage("graph", "Rewriting", ("data", "train"), GraphConfig, run, inputs, show, needs=("data", "train"))
