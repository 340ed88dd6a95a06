"""One process per rank: started, waited for, read, and never left behind.

A rank is the leader of its own session, so that it can be killed with all it started, and is killed by the kernel when
the process that started it dies (`setpriv --pdeathsig`), so that a killed benchmark leaves nothing running.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivetrain.base.errors import InvalidValue, MissingFile, RunFailed

_TAIL_LINES = 12


class RankFailed(RunFailed):
    """A rank ended with an error or did not end in time.

    Attributes:
        rank: the first that failed; with a time-out, the first that still ran.
        exit_code: its exit code, negative for a signal; None with a time-out.
        output: its last lines.
    """

    rank: int = -1
    exit_code: int | None = None
    output: str = ""


class Rank:
    """A running rank with its files in `folder`: stdout, stderr, and the result that it hands back."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.number = number
        self.stdout_file, self.stderr_file = folder / f"stdout-{number}", folder / f"stderr-{number}"
        self.result_file = folder / f"result-{number}.json"
        with open(self.stdout_file, "wb") as stdout, open(self.stderr_file, "wb") as stderr:
            self.process = subprocess.Popen(
                [*dies_with_parent(), *command],
                env={**environment, "DRIVETRAIN_RESULT": str(self.result_file)},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """None while it runs. Leaves the ended process unreaped, so that its session can still be named and killed."""
        if not hasattr(os, "waitid") or self.process.returncode is not None:
            return self.process.poll()
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def kill(self) -> None:
        """Kill it with all processes of its session, and reap it."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self) -> str:
        """Its last lines on stderr, or on stdout when stderr is empty."""
        for file in (self.stderr_file, self.stdout_file):
            lines = file.read_text(errors="replace").rstrip().splitlines()
            if lines:
                return "\n".join(lines[-_TAIL_LINES:])
        return "(no output)"

    def result(self) -> Any:
        """What it gave to `hand_back`, or None."""
        return json.loads(self.result_file.read_text()) if self.result_file.exists() else None


@dataclass(frozen=True)
class Target:
    """The script or module that every rank runs."""

    words: tuple[str, ...]
    name: str

    @staticmethod
    def of(module_or_script: str | Path) -> Target:
        """A path that ends in .py, or a dotted module name as after `python -m`.

        Raises:
            MissingFile: no such script. InvalidValue: neither form.
        """
        text = str(module_or_script)
        if text.endswith(".py"):
            if not Path(text).is_file():
                raise MissingFile(f"comm: testbed: no script {text}", hint=f"looked in {Path.cwd()}")
            return Target((sys.executable, text), Path(text).name)
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text):
            raise InvalidValue(
                f"comm: testbed: {text!r} is neither a script nor a module",
                hint='allowed: a path that ends in .py, or a dotted name such as "mypackage.train"',
            )
        return Target((sys.executable, "-m", text), text)


def wait(ranks: Sequence[Rank], target: Target, timeout_s: float) -> None:
    """Return when all ranks ended with exit code 0.

    Raises:
        RankFailed: the first that ended otherwise, or those that still run after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    pending = list(ranks)
    while pending:
        codes = {rank: rank.exit_code() for rank in pending}
        failed = [rank for rank, code in codes.items() if code]
        if failed:
            raise _failure(failed, len(ranks), codes[failed[0]], target)
        pending = [rank for rank, code in codes.items() if code is None]
        if pending and time.monotonic() > deadline:
            raise _late(pending, len(ranks), timeout_s, target)
        time.sleep(0.02)


def _failure(failed: Sequence[Rank], world_size: int, code: int | None, target: Target) -> RankFailed:
    rank = failed[0]
    assert code is not None
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    others = f" (rank {', '.join(str(other.number) for other in failed[1:])} too)" if failed[1:] else ""
    message = f"comm: testbed: rank {rank.number} of {world_size} {how} in {target.name}{others}"
    return _rank_failed(message, rank, code, f"its last lines:\n{rank.tail()}")


def _late(pending: Sequence[Rank], world_size: int, timeout_s: float, target: Target) -> RankFailed:
    numbers = ", ".join(str(rank.number) for rank in pending)
    which = f"rank {numbers} of {world_size} still {'runs' if len(pending) == 1 else 'run'}"
    lines = "\n".join(f"rank {rank.number}: {rank.tail().splitlines()[-1]}" for rank in pending)
    message = f"comm: testbed: {which} {target.name} after {timeout_s:g} s"
    return _rank_failed(message, pending[0], None, f"give a longer timeout_s, or look for a hang:\n{lines}")


def _rank_failed(message: str, rank: Rank, code: int | None, hint: str) -> RankFailed:
    error = RankFailed(message, hint=hint)
    error.rank, error.exit_code, error.output = rank.number, code, rank.tail()
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@functools.cache
def dies_with_parent() -> tuple[str, ...]:
    """The words before a command that let the kernel kill it when this process dies; none where there are no such."""
    words = ("setpriv", "--pdeathsig", "KILL")
    known = shutil.which("setpriv") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if known else ()


@contextlib.contextmanager
def termination_unwinds() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave through `finally`, as Ctrl-C does, where nobody else handles them."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    taken = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(number, leave)
                taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
