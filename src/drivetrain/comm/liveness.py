"""Who is gone? Every rank's process shows a sign of life in the store of torch.distributed, twice a second.

A rank that dies can't say so, and of the others only those that talk to it notice. So each rank has a thread that
writes a beat (a counter and the step) and reads the others'. It costs a store's round trip twice a second, whatever the
step takes, and no collective. A rank that fails with an error of its own writes that for the others to read.
The first verdict on a run is everybody's: ranks that raised stop beating too, and must not be blamed.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from drivetrain.base.errors import RunFailed

INTERVAL = 0.5  # seconds between beats
PATIENCE = 5.0  # seconds without a beat, once a collective failed
_LONG = 30.0  # seconds without a beat while nothing else looks wrong: a busy machine may starve a thread

_instances = 0


class Liveness:
    """The beats of one exchange.

    Args:
        rank, world_size: of this process.
        timeout_s: a rank without a sign of life for so long is dead.
        on_verdict: called once, from the thread, when a rank is found dead or has failed.
    """

    def __init__(self, rank: int, world_size: int, timeout_s: float, on_verdict: Callable[[RunFailed], None]) -> None:
        global _instances
        self.rank, self.world_size, self.on_verdict = rank, world_size, on_verdict
        self.patience = min(_LONG, timeout_s)
        self.step = 0
        self._prefix = f"drivetrain/exchange/{_instances}"
        _instances += 1
        self._store = _clone_of_store()
        self._count = 0
        self._seen: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()  # one conversation with the store at a time
        self._thread = threading.Thread(target=self._run, name="drivetrain-liveness", daemon=True)

    def start(self) -> None:
        """Begin to beat and to watch; all ranks must have come as far."""
        if self.world_size > 1:
            self._beat()
            self._thread.start()
            atexit.register(self.close)

    def close(self) -> None:
        """Say goodbye: from now on this rank's silence is no death."""
        if not self._stop.is_set():
            self._stop.set()
            with contextlib.suppress(RuntimeError):  # the store may have ended before us
                self._set(self._key(self.rank), f"ended {self.step}")

    def tell(self, error: BaseException) -> None:
        """Let the others know why this rank stops."""
        if self.world_size == 1:
            return
        text = f"comm: rank {self.rank} failed in exchange {self.step}: {type(error).__name__}: {_first_line(error)}"
        with contextlib.suppress(RuntimeError):  # no store, nobody to tell
            self._verdict(text)

    def explain(self, error: BaseException) -> RunFailed:
        """What a broken collective means: waits for a verdict, at most a few seconds."""
        end = time.monotonic() + PATIENCE + 2 * INTERVAL
        try:
            while time.monotonic() < end:
                if (text := self._known()) is not None or (text := self._dead(PATIENCE)) is not None:
                    return RunFailed(self._verdict(text))
                time.sleep(INTERVAL / 2)
        except RuntimeError:
            return RunFailed(
                f"comm: in exchange {self.step} rank 0 is gone, and with it the store of torch.distributed",
                hint=_first_line(error),
            )
        return RunFailed(
            f"comm: exchange {self.step} failed on rank {self.rank}: {_first_line(error)}",
            hint="all ranks still show signs of life; do they all make the same number of steps?",
        )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._beat()
                text = self._known() or self._dead(self.patience)
                if text is not None:
                    text = self._verdict(text)
            except RuntimeError:
                text = f"comm: in exchange {self.step} rank 0 is gone, and with it the store of torch.distributed"
            if text is not None and not self._stop.is_set():
                self.on_verdict(RunFailed(text))
                return

    def _beat(self) -> None:
        self._count += 1
        self._set(self._key(self.rank), f"{self._count} {self.step}")

    def _dead(self, patience: float) -> str | None:
        """The first rank that has shown no new beat for so long."""
        now = time.monotonic()
        for rank in range(self.world_size):
            beat = self._get(self._key(rank)) if rank != self.rank else None
            if beat is None:
                continue
            if beat.startswith("ended "):
                if patience == PATIENCE:  # only where somebody misses it
                    return f"comm: rank {rank} ended after exchange {beat.split()[1]}, the others went on"
                continue
            before = self._seen.get(rank)
            if before is None or before[0] != beat:
                self._seen[rank] = (beat, now)
            elif now - before[1] > patience:
                silent = now - before[1]
                return f"comm: rank {rank} died during exchange {self.step}: no sign of life for {silent:.0f} s"
        return None

    def _known(self) -> str | None:
        return self._get(f"{self._prefix}/verdict")

    def _verdict(self, text: str) -> str:
        """Settle on a verdict; the first one stands."""
        with self._lock:
            return self._store.compare_set(f"{self._prefix}/verdict", "", text).decode()

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/beat/{rank}"

    def _get(self, key: str) -> str | None:
        with self._lock:
            return self._store.get(key).decode() if self._store.check([key]) else None

    def _set(self, key: str, value: str) -> None:
        with self._lock:
            self._store.set(key, value)


def _clone_of_store() -> dist.Store:
    """A connection of our own: a thread that waits in the shared one would hold up everybody."""
    store = dist.distributed_c10d._get_default_store()
    return store.clone()  # type: ignore[attr-defined]


def _first_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
