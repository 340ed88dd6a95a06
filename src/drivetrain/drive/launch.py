"""Start training workers as real processes through torch's elastic launcher, and tell what became of them.

Rendezvous goes through a file and gloo through the loopback device, so a drive on one machine opens no port to any
network. A worker that fails ends the others; its own error comes back whole.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from drivetrain.base import progress
from drivetrain.base.errors import DrivetrainError, RunFailed

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch_workers(module: str, work: Path, *, workers: int, total_steps: int) -> None:
    """Run `python -m <module> <work>` in `workers` processes and wait for them.

    Args:
        module: reads its task from `work` and writes there; RANK and WORLD_SIZE tell it which it is.
        work: the stage's folder; workers' output goes to `work/logs`.
        workers: how many processes.
        total_steps: for the progress bar, which follows the first worker's `steps-0`.

    Raises:
        DrivetrainError: the first worker's own error, or `RunFailed` naming rank, signal and step of one that died.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for stale in (*work.glob("error-*"), *work.glob("steps-*"), *work.glob("rendezvous*")):
        stale.unlink()
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(work / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        max_restarts=0,
        monitor_interval=0.05,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    try:
        # What the launcher would log of a failed worker, our own error says better.
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        with _loopback_only(), _follow(work / "steps-0", total_steps):
            elastic_launch(config, sys.executable)("-m", module, str(work))
    except ChildFailedError as error:
        raise _explain(error, work) from None


def report_error(work: Path, rank: int, error: DrivetrainError) -> None:
    """A worker leaves its error for the launcher to raise."""
    (work / f"error-{rank}").write_bytes(pickle.dumps(error))


class StepCounter:
    """The step a worker is at, kept in a file that outlives it: so a worker that dies is placed."""

    def __init__(self, work: Path, rank: int) -> None:
        self._file = os.open(work / f"steps-{rank}", os.O_CREAT | os.O_RDWR | os.O_TRUNC)

    def set(self, step: int) -> None:
        os.pwrite(self._file, b"%-12d" % step, 0)


def read_step(path: Path) -> int:
    """The step that a worker's counter stands at; 0 before its first."""
    try:
        return int(path.read_bytes() or b"0")
    except FileNotFoundError:
        return 0


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Keep torch's own helpers off the network, and quiet, while workers run."""
    wanted = {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextmanager
def _follow(counter: Path, total: int) -> Iterator[None]:
    ended = threading.Event()
    with progress.bar("training", total) as advance:

        def watch() -> None:
            shown = 0
            while not ended.wait(0.2):
                step = read_step(counter)
                advance(step - shown)
                shown = step

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _explain(error: ChildFailedError, work: Path) -> DrivetrainError:
    told = {int(left.name.removeprefix("error-")): left for left in sorted(work.glob("error-*"))}
    # A worker that died without a word comes first: what the others then say is only that they lost it. The launcher
    # itself ends those that are left with SIGTERM.
    silent = [
        (failure.timestamp, rank, failure.exitcode)
        for rank, failure in error.failures.items()
        if rank not in told and failure.exitcode != -signal.SIGTERM
    ]
    if not silent and told:
        first = min(told.values(), key=lambda left: left.stat().st_mtime_ns)  # the others tell what followed from it
        known: DrivetrainError = pickle.loads(first.read_bytes())
        return known
    _, rank, code = min(silent, default=(0, 0, -signal.SIGTERM))
    step = read_step(work / f"steps-{rank}")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    lines = _last_output(work / "logs", rank)
    return RunFailed(
        f"train: worker {rank} died ({how}) at step {step}",
        hint="\n".join(filter(None, [lines, "run again: training goes on from the last finished epoch"])),
    )


def _last_output(logs: Path, rank: int, lines: int = 5) -> str:
    found = sorted(logs.glob(f"**/{rank}/stderr.log"), key=lambda path: path.stat().st_mtime)
    text = found[-1].read_text(errors="replace").strip() if found else ""
    return "\n".join(text.splitlines()[-lines:])
