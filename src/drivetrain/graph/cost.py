"""The table of what operators cost on this machine: measured once for each operator, shape and layout, and kept.

One table serves rewriting (12), batch-norm restructuring (19) and planning (25). It is a JSON file by hardware key, so
that it can be carried from the machine where it was measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from drivetrain.base.errors import InvalidValue
from drivetrain.base.files import write_json
from drivetrain.base.timing import processor_name

FORMAT = 1


@dataclass(frozen=True)
class Cost:
    """What an operator, or a whole program, costs.

    Attributes:
        time_us: microseconds.
        flops: floating-point operations, a multiply-add counted as two.
        bytes: read and written.
        launches: kernels started.
    """

    time_us: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.time_us + other.time_us, self.flops + other.flops, self.bytes + other.bytes,
            self.launches + other.launches,
        )  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A measured time.

    Attributes:
        us: median, microseconds.
        n: number of runs.
        mad: median absolute deviation, microseconds.
    """

    us: float
    n: int
    mad: float


class CostTable:
    """Measured times by key, in a file.

    Args:
        path: the JSON file; None keeps the table in memory. `default_path` is the machine's own.
        threads: PyTorch threads the times hold for; part of the hardware key.

    Raises:
        InvalidValue: the file is of other hardware, or is no cost table.
    """

    def __init__(self, path: Path | None = None, threads: int | None = None) -> None:
        self.path, self.hardware = path, hardware(threads)
        self.times: dict[str, Measured] = {}
        self.added = 0
        if path is not None and path.exists():
            self.times = _read(path, self.hardware)

    def time(self, key: str, run: Callable[[], Any]) -> Measured:
        """The time of an operator, measured if the table lacks it.

        Args:
            key: names operator, shapes, strides, dtypes and attributes.
            run: executes it once.
        """
        if key not in self.times:
            self.times[key] = measure(run)
            self.added += 1
        return self.times[key]

    def save(self) -> None:
        """Write what was added to the file."""
        if self.path is not None and self.added:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            ops = {key: asdict(value) for key, value in sorted(self.times.items())}
            write_json(self.path, {"format": FORMAT, "hw": self.hardware, "ops": ops})
            self.added = 0


def measure(run: Callable[[], Any], *, least: int = 15, budget_s: float = 0.02) -> Measured:
    """Time something small: its median over at least `least` runs, more where they fit into the budget."""
    run()
    run()
    samples: list[float] = []
    stop = time.perf_counter() + budget_s
    while len(samples) < least or (time.perf_counter() < stop and len(samples) < 200):
        start = time.perf_counter()
        run()
        samples.append(1e6 * (time.perf_counter() - start))
    median = statistics.median(samples)
    return Measured(round(median, 3), len(samples), round(statistics.median(abs(s - median) for s in samples), 3))


def fastest_of(*forms: Callable[[], Any], rounds: int = 4) -> list[Measured]:
    """The fastest run of each form, in turn, `mad` their spread: what else a machine does only slows a run down."""
    samples: list[list[float]] = [[] for _ in forms]
    for turn in range(rounds + 1):  # the first one may compile or allocate
        for times, form in zip(samples, forms, strict=True):
            start = time.perf_counter()
            form()
            if turn:
                times.append(1e6 * (time.perf_counter() - start))
    return [Measured(round(min(times), 3), rounds, round(max(times) - min(times), 3)) for times in samples]


def hardware(threads: int | None = None) -> dict[str, Any]:
    """What measured times depend on besides the operator."""
    return {
        "cpu": processor_name(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
        "device": "cpu",
    }


def default_path(threads: int | None = None) -> Path:
    """Where this machine's table lies: under $DRIVETRAIN_CACHE, by default ~/.cache/drivetrain."""
    root = Path(os.environ.get("DRIVETRAIN_CACHE") or Path.home() / ".cache" / "drivetrain")
    key = hashlib.sha256(json.dumps(hardware(threads), sort_keys=True).encode()).hexdigest()[:16]
    return root / "costs" / f"{key}.json"


def _read(path: Path, here: dict[str, Any]) -> dict[str, Measured]:
    try:
        content = json.loads(path.read_text())
        found, ops = content["hw"], content["ops"]
        times = {key: Measured(float(row["us"]), int(row["n"]), float(row["mad"])) for key, row in ops.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValue(f"graph: {path} is no cost table: {error}", hint="remove it; it is measured again") from None
    if found != here:
        different = next(key for key in here if found.get(key) != here[key])
        raise InvalidValue(
            f"graph: {path} was measured with {different} = {found.get(different)!r}, here it is {here[different]!r}"
        )
    if not all(math.isfinite(value.us) and value.us >= 0 for value in times.values()):
        raise InvalidValue(f"graph: {path} holds a time that is no number", hint="remove it; it is measured again")
    return times
