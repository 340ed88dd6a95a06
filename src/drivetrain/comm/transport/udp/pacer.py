"""A token bucket: on average `rate`, at most `burst` bytes at once."""

from __future__ import annotations

import math
import time

BURST = 16 * 1024  # bytes: 11 datagrams, what a held-up sender may make good without overflowing a small queue


class Pacer:
    """Holds a sender back.

    Args:
        rate: bit/s on the link; None is as fast as it goes.
        burst: bytes.
    """

    def __init__(self, rate: float | None, burst: int = BURST) -> None:
        self.bytes_per_second = math.inf if rate is None else rate / 8
        self.burst = burst
        self._tokens = float(burst)
        self._last = time.monotonic()

    def wait(self, size: int, until: float) -> bool:
        """Wait until `size` bytes may go; False when that is not before time.monotonic() reaches `until`."""
        now = time.monotonic()
        if math.isinf(self.bytes_per_second):
            return now < until
        self._fill(now)
        while self._tokens < size - 1:  # a byte's debt, so that rounding never asks for a sleep of nothing
            due = now + (size - self._tokens) / self.bytes_per_second
            if due >= until:
                return False
            time.sleep(due - now)
            now = time.monotonic()
            self._fill(now)
        self._tokens -= size
        return now < until

    def _fill(self, now: float) -> None:
        self._tokens = min(float(self.burst), self._tokens + (now - self._last) * self.bytes_per_second)
        self._last = now
