"""[train] compile: the training step through a graph compiler, and what that took.

The compiler sees the module inside DistributedDataParallel or the exchange, in training mode only: test rows are
predicted by the module as it is, and its state_dict is saved.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from drivetrain.base.errors import DrivetrainError, InvalidValue
from drivetrain.base.files import write_json

from .report.parts import Facts, Part
from .stage import Drive

TIMES = "compile_times.json"
Backend = Literal["off", "drivetrain", "inductor"]


def check(backend: Backend, options: Mapping[str, Any], drive: Drive) -> None:
    """Refuse options that the backend doesn't know, before any worker starts.

    Raises:
        InvalidValue: names the nearest option, and the key's place.
    """
    where = drive.locate("train", "compile_options")
    try:
        if backend == "drivetrain":
            from drivetrain.graph import backend as compiler

            compiler.check(options)
        elif backend == "inductor":
            torch.compile(nn.Identity(), backend="inductor", options=dict(options))
        elif options:
            raise InvalidValue("train: compile_options without compile", hint='compile = "drivetrain"')
    except DrivetrainError as error:
        raise InvalidValue(error.message, hint=error.hint, where=where) from error
    except RuntimeError as error:
        raise InvalidValue(f"train: {str(error).partition(', known')[0]}", where=where) from error


def compiled(model: nn.Module, backend: Backend, options: Mapping[str, Any]) -> nn.Module:
    """The module to call in training; it shares its parameters with `model`."""
    if backend == "off":
        return model
    if backend == "drivetrain":
        options = {"bn": "auto", **options}
    # Batches of a drive all have one size: what is compiled for it is faster than for any.
    made: nn.Module = torch.compile(model, backend=backend, options=dict(options), dynamic=False)  # type: ignore[assignment]
    return made


class StepClock:
    """Seconds of each step, of which the first ones compile, and how much was compiled."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one step."""
        start = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - start)

    def write(self, folder: Path) -> None:
        """What the report shows."""
        if self.seconds:
            later = self.seconds[1:] or self.seconds
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            write_json(
                folder / TIMES, {"first": self.seconds[0], "step": statistics.median(later), "graphs": graphs}
            )  # fmt: skip


def show(folder: Path, backend: str) -> Iterable[Part]:
    """What compiling took, and a step after it."""
    if backend == "off" or not (folder / TIMES).exists():
        return
    times = json.loads((folder / TIMES).read_text())
    yield Facts({
        "compiled by": backend, "graphs compiled": times["graphs"],
        "seconds of the first step, which compiles": round(times["first"], 2),
        "milliseconds of a later step": round(1e3 * times["step"], 2),
    })  # fmt: skip
