"""08 statistical CI: labels beside the paper's estimators on its grid, and seconds to plan and to decide.

For the peer set MLFLOW_PYTHON to an interpreter with mlflow 3.17.2; without it those rows are left out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from drivetrain.base.timing import Timing
from drivetrain.ci import evaluate, exact, plan
from harness import Benchmark

RELIABILITIES = (0.99, 0.999, 0.9999, 0.99999)
TOLERANCES = (0.1, 0.05, 0.025, 0.01)
FLOORS = (0.5, 0.7, 0.8)
STEPS_UP = (0.0, 0.02)
FEEDBACK = ("none", "full")


def grid(condition: str, adaptivity: str, estimator: str = "auto", **more: object) -> list[float]:
    """labels(ours) / labels(paper's plain estimator) over the grid; `condition` has {tol}."""
    ratios = []
    for reliability in RELIABILITIES:
        for tol in TOLERANCES:
            text = condition.format(tol=tol)
            terms = {"reliability": reliability, "steps": 32, "adaptivity": adaptivity}
            paper = plan(text, estimator="hoeffding", **terms).labels
            ratios.append(plan(text, estimator=estimator, **terms, **more).labels / paper)
    return ratios


def label_rows(bench: Benchmark) -> None:
    """Ratios of labels, family by family."""
    worst, over_families = 0.0, []

    def row(name: str, ratios: list[float]) -> float:
        nonlocal worst
        worst = max(worst, *ratios)
        middle = statistics.median(ratios)
        bench.row(name, labels_to_paper=f"{middle:.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
        bench.fact(name, {"median": middle, "low": min(ratios), "high": max(ratios)})
        return middle

    medians = {}
    for adaptivity in FEEDBACK:
        medians["exact", adaptivity] = row(
            f"F1 any accuracy (exact), {adaptivity}", grid("n > 0.5 +/- {tol}", adaptivity, "exact")
        )
        for floor in FLOORS:
            ratios = grid(f"n > {floor} +/- {{tol}}", adaptivity)
            medians[floor, adaptivity] = row(f"F1 n > {floor}, {adaptivity}", ratios)
            over_families += ratios if floor == 0.5 else []  # the dearest floor stands for F1
        for step in STEPS_UP:
            ratios = grid(f"n - o > {step} +/- {{tol}}", adaptivity)
            row(f"F2 n - o > {step}, {adaptivity}", ratios)
            over_families += ratios
        row(f"F2 n - o > 0.02 and d < 0.1, {adaptivity}", hierarchical(adaptivity))
    bench.target("labels never more than the paper's estimator", measured=worst, goal=1.0)
    bench.target("median ratio, F1 without feedback, exact", measured=medians["exact", "none"], goal=0.8)
    bench.target(
        "median ratio over F1 (n > 0.5) and F2, none and full", measured=statistics.median(over_families), goal=0.92
    )
    both = "d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01"
    for adaptivity in FEEDBACK:
        terms = {"reliability": 0.9999, "steps": 32, "adaptivity": adaptivity}
        ours, paper = plan(both, **terms), plan("n - o > 0.02 +/- 0.01", estimator="hoeffding", **terms)
        bennett = plan(both, estimator="bennett", **terms)
        bench.row(
            f"{both}, 0.9999, {adaptivity}",
            labels=f"{ours.labels:,} (paper's Bennett {bennett.labels:,}, plain {paper.labels:,})",
            labels_to_paper=f"{ours.labels / paper.labels:.3f}", asked=f"{ours.labels_per_commit:,} a commit",
        )  # fmt: skip
        bench.fact(f"both {adaptivity}", {"ours": ours.labels, "bennett": bennett.labels, "plain": paper.labels})
        bench.target(f"F2 with p = 0.1, {adaptivity}", measured=ours.labels / paper.labels, goal=0.11)


def hierarchical(adaptivity: str) -> list[float]:
    """The same grid with the clause d < 0.1, against the plain estimator of the difference alone."""
    ratios = []
    for reliability in RELIABILITIES:
        for tol in TOLERANCES:
            terms = {"reliability": reliability, "steps": 32, "adaptivity": adaptivity}
            paper = plan(f"n - o > 0.02 +/- {tol}", estimator="hoeffding", **terms).labels
            ratios.append(plan(f"d < 0.1 +/- {min(tol, 0.05)} /\\ n - o > 0.02 +/- {tol}", **terms).labels / paper)
    return ratios


def time_plans(bench: Benchmark) -> None:
    """Seconds to plan, caches emptied before each."""
    cases = {
        "plan, hoeffding": ("n > 0.9 +/- 0.01", "hoeffding", "none"),
        "plan, bennett": ("d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01", "bennett", "full"),
        "plan, exact, N = 51,124": ("n > 0.9 +/- 0.01", "exact", "none"),
        "plan, auto, F1": ("n > 0.9 +/- 0.01", "auto", "full"),
        "plan, auto, F2": ("n - o > 0.02 +/- 0.01", "auto", "full"),
        "plan, auto, F2 with d < 0.1": ("d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01", "auto", "full"),
    }
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(7):
        for name, (text, estimator, adaptivity) in cases.items():
            for cached in (exact.worst_binomial, exact.at_threshold, exact.paired, exact.bounded):
                cached.cache_clear()
            start = time.perf_counter()
            plan(text, reliability=0.9999, adaptivity=adaptivity, estimator=estimator)
            samples[name].append(time.perf_counter() - start)
    timings = {name: Timing(tuple(values)) for name, values in samples.items()}
    for name, timing in timings.items():
        bench.row(name, seconds=timing)
    closed = max(timings["plan, hoeffding"].median, timings["plan, bennett"].median)
    bench.target("plan, Hoeffding and Bennett, s", measured=closed, goal=0.05)
    bench.target("plan at most, s", measured=max(timing.median for timing in timings.values()), goal=3.0)


def time_decisions(bench: Benchmark, items: int = 1_000_000) -> None:
    """Seconds to decide on 1M predictions, in turn with mlflow's validate_evaluation_results on the same arrays."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, items)
    new = np.where(rng.random(items) < 0.9, labels, (labels + 1) % 10)
    old = np.where(rng.random(items) < 0.95, new, (labels + 2) % 10)
    text = "n > 0.85 +/- 0.01 /\\ n - o > 0.02 +/- 0.01"
    price = plan(text, reliability=0.9999, adaptivity="full")
    python = os.environ.get("MLFLOW_PYTHON")
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "arrays.npz", new=new, old=old, labels=labels)
        peer = start_peer(python, Path(folder) / "arrays.npz") if python else None
        for round_number in range(12):
            start = time.perf_counter()
            verdict = evaluate(text, new, old, labels, plan=price)
            seconds = time.perf_counter() - start
            if round_number:
                ours.append(seconds)
            if peer is not None and peer.stdin and peer.stdout:
                peer.stdin.write("go\n")
                peer.stdin.flush()
                seconds = float(peer.stdout.readline())
                if round_number:
                    theirs.append(seconds)
        if peer is not None and peer.stdin:
            peer.stdin.close()
            peer.wait()
    assert verdict.decided
    mine = Timing(tuple(ours))
    bench.row("decide 1M predictions, n and n - o", seconds=mine)
    bench.target("evaluate 1M predictions, s", measured=mine.median, goal=0.1)
    if theirs:
        other = Timing(tuple(theirs))
        bench.row("mlflow 3.17.2, the same arrays", seconds=other)
        bench.row("ours to mlflow", ratio=mine.ratio(other))
        bench.target("evaluate, ratio to mlflow", measured=mine.ratio(other), goal=1.0)


def start_peer(python: str, arrays: Path) -> subprocess.Popen[str]:
    """The peer's process, ready to answer."""
    command = [python, str(Path(__file__).with_name("mlflow_gate_08.py")), str(arrays)]
    peer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert peer.stdout is not None
    if peer.stdout.readline().strip() != "ready":
        raise SystemExit(f"{' '.join(command)} did not start")
    return peer


def main() -> None:
    bench = Benchmark(
        "08",
        "ci",
        title="08 statistical CI",
        setting="grid of section 2.5, 32 commits, labels to the paper's Hoeffding",
    )
    label_rows(bench)
    time_plans(bench)
    time_decisions(bench)
    bench.finish()


if __name__ == "__main__":
    main()
