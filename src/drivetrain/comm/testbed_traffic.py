"""Traffic that competes with the ranks: starts and stops the two ends of `testbed_sender.py` on two hosts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drivetrain.base.errors import RunFailed

from .testbed_ranks import dies_with_parent

_SCRIPT = Path(__file__).with_name("testbed_sender.py")
_DRAIN_S = 0.3  # what waits in the queues of a path when the sender stops, is still received


@dataclass
class Flow:
    """Payload bytes of a competing sender, and the seconds it sent; known when its `with` has ended."""

    sent: int = 0
    received: int = 0
    seconds: float = 0.0


@contextmanager
def flow(source: Sequence[str], sink: Sequence[str], address: str, kind: str, rate: int) -> Iterator[Flow]:
    """Send `rate` bit/s from one host to another while the `with` lasts.

    Args:
        source, sink: the words before a command that make it run there.
        address: of the sink.
        kind: "tcp" or "udp".

    Raises:
        RunFailed: an end of it died, with its last words.
    """
    running = Flow()
    ends: list[subprocess.Popen[str]] = []
    try:
        ends.append(receiver := _start(sink, "receive", kind, address))
        port = _ready(receiver)
        ends.append(sender := _start(source, "send", kind, address, port, str(rate)))
        _ready(sender)
        started = time.perf_counter()
        yield running
        running.sent = _finish(sender)
        running.seconds = time.perf_counter() - started
        time.sleep(_DRAIN_S)
        running.received = _finish(receiver)
    finally:
        for end in ends:
            end.kill()
            end.communicate()


def _start(enter: Sequence[str], *words: str) -> subprocess.Popen[str]:
    # -I: no site folder of the user, nothing of this folder on the path.
    command = [*dies_with_parent(), *enter, sys.executable, "-I", str(_SCRIPT), *words]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _ready(end: subprocess.Popen[str]) -> str:
    """Wait until one end is ready; its port."""
    assert end.stdout is not None
    line = end.stdout.readline().strip()
    if not line:
        _finish(end)  # it died: raises its error
    return line


def _finish(end: subprocess.Popen[str]) -> int:
    """Stop one end and read its count."""
    end.terminate()
    output, errors = end.communicate()
    if end.returncode != 0:
        raise RunFailed(f"comm: testbed: competing traffic failed: {errors.strip() or end.returncode}")
    return int(output)
