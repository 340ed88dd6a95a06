"""One thread that does all the talking, in the order in which work came (3LC §8).

Collectives that start in different orders on different ranks abort gloo, and callbacks of DDP's buckets do start so. A
training thread that waits here, not in a collective, can also be told at once that another rank is gone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Courier:
    """A first-in, first-out queue of work with one daemon thread behind it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: list[Future[Any]] = []
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` after all that was submitted before.

        Raises:
            BaseException: what `fail` was told earlier: nothing is sent any more.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="drivetrain-courier", daemon=True)
                self._thread.start()
            self._open.append(future)
        self._queue.put((work, future))
        return future

    def fail(self, error: BaseException) -> None:
        """End everything that waits, and everything that comes, with `error`; the thread may hang in the network."""
        with self._lock:
            self._failed = self._failed or error
            waiting, self._open = self._open, []
        for future in waiting:
            _finish(future, error=error)

    def close(self) -> None:
        """End the thread when it has done what was submitted."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if self._failed is None:
                thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, future = item
            if not future.done():
                try:
                    _finish(future, result=work())
                except BaseException as error:
                    _finish(future, error=error)
            with self._lock:
                if future in self._open:
                    self._open.remove(future)
            del work, future, item


def _finish(future: Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    """Complete a future unless somebody else just did."""
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
    except Exception:
        if not future.done():
            raise
