"""Timing on machines that are never quiet: competitors run in turn, and medians are quoted with their spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs of one thing.

    Attributes:
        samples: every run, in order.
        median, low, high: the middle, the fastest and the slowest run.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        return min(self.samples)

    @property
    def high(self) -> float:
        return max(self.samples)

    def ratio(self, other: Timing) -> float:
        """The median of the pairwise ratios to `other`: a drift of the machine cancels inside each pair."""
        if len(self.samples) == len(other.samples):
            return statistics.median(a / b for a, b in zip(self.samples, other.samples, strict=True))
        return self.median / other.median

    def __str__(self) -> str:
        scale, unit = (1e3, "ms") if self.median < 1 else (1.0, "s")
        low, mid, high = (_figures(value * scale) for value in (self.low, self.median, self.high))
        return f"{mid} {unit} ({low}-{high})"


def _figures(value: float) -> str:
    """Three figures, never an exponent for what people read: 0.0123, 4.56, 123, 12345."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def interleave(
    competitors: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    clock: Literal["wall", "cpu"] = "wall",
    sample_s: float = 0.0,
    settle_s: float = 0.0,
) -> dict[str, Timing]:
    """Run every competitor once a round, in turn, so that a slow minute of the machine hits all of them.

    Args:
        competitors: name -> the thing to run, without arguments.
        rounds: how many counted runs of each.
        warmup: how many uncounted rounds come first.
        clock: "wall" seconds or "cpu" seconds of this process (user + system, all threads).
        sample_s: a sample is as many calls as take about this long, and counts as one of them: what is short is timed
            by its work and not by the clock. 0 makes every call a sample, without the two calls that tell its length.
        settle_s: before each sample wait so long, then make uncounted calls for twice as long. Where competitors have
            thread pools of their own, the last one's threads spin on, and the next one's are not spread over the cores
            yet.
    """
    read = _CLOCKS[clock]
    calls = {name: _calls(run, sample_s, read) for name, run in competitors.items()}
    samples: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    for round_number in range(warmup + rounds):
        # Going forward and backward in turn keeps a competitor from always running in another's cache shadow.
        for name in names if round_number % 2 == 0 else reversed(names):
            run = competitors[name]
            if settle_s:
                _settle(run, settle_s)
            start = read()
            for _ in range(calls[name]):
                run()
            seconds = (read() - start) / calls[name]
            if round_number >= warmup:
                samples[name].append(seconds)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _settle(run: Callable[[], Any], seconds: float) -> None:
    time.sleep(seconds)
    end = time.perf_counter() + 2 * seconds
    run()
    while time.perf_counter() < end:
        run()


def _calls(run: Callable[[], Any], sample_s: float, read: Callable[[], float]) -> int:
    """How many calls a sample needs."""
    if not sample_s:
        return 1
    run()  # the first call may compile or allocate
    start = read()
    run()
    return max(1, int(sample_s / max(read() - start, 1e-7)))


def machine() -> dict[str, Any]:
    """What a figure was measured on: processor, cores, memory, Python, torch, date."""
    from importlib.metadata import version

    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch").partition("+")[0],
        "date": date.today().isoformat(),
    }


def machine_line() -> str:
    """`machine()` in one line, for the head of a table."""
    facts = machine()
    return f"{facts['processor']}, {facts['cores']} cores (noisy), torch {facts['torch']}, {facts['date']}"


def processor_name() -> str:
    """The processor's own name where the system tells it, else the architecture."""
    try:
        with open("/proc/cpuinfo") as source:
            for line in source:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.machine()
