"""What a link of the testbed is: its rate and its queue, in the words of `tc tbf` (token bucket filter).

Units: rates in bit/s (20mbit = 20e6), sizes in bytes (256kb = 256 * 1024, as tc counts), times in seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivetrain.base.errors import InvalidValue

_RATE_UNITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZE_UNITS = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2}
_LARGEST_FRAME = 65536  # a segmentation-offload frame: a bucket that can't hold one makes tbf split each of them


@dataclass(frozen=True)
class Link:
    """The two queues at the ends of a link, equal in both directions.

    Args:
        rate: bit/s, or None for a link without limit.
        burst: bytes that may pass at once. Below 64 KiB the sender is made to use frames that fit.
        limit: bytes that may wait in a queue before datagrams are dropped.
    """

    rate: int | None
    burst: int
    limit: int

    @property
    def largest_frame(self) -> int | None:
        """Bytes of the largest frame that a sender may hand to the queue; None where the usual one fits."""
        if self.rate is None or self.burst >= _LARGEST_FRAME:
            return None
        return max(1514, self.burst // 2)

    def tbf(self) -> list[str]:
        """The words after `tc qdisc add dev X root`."""
        return ["tbf", "rate", f"{self.rate}bit", "burst", str(self.burst), "limit", str(self.limit)]


def make_link(
    rate: str | float | None, burst: str | int = "256kb", latency: float = 0.1, limit: str | int | None = None
) -> Link:
    """A link from what a user writes.

    Args:
        rate: "20mbit", "1gbit", a number of bit/s, or None for no limit.
        burst: "256kb" or bytes.
        latency: the longest that a byte may wait in a queue, in seconds; sets the queue's size when `limit` is None.
        limit: the queue's size, "64kb" or bytes.

    Raises:
        InvalidValue: a form that can't be read, or a value that is not positive.
    """
    bits = None if rate is None else parse_rate(rate)
    bucket = parse_size(burst, "burst")
    if bucket < 1600:
        raise InvalidValue(f"comm: testbed: burst of {bucket} bytes can't hold one packet", hint="at least 1600 bytes")
    if limit is not None:
        return Link(bits, bucket, parse_size(limit, "limit"))
    if not 0 < latency < 60:
        raise InvalidValue(f"comm: testbed: latency {latency!r} is not between 0 and 60 seconds", hint="usual: 0.1")
    return Link(bits, bucket, bucket + round((bits or 0) / 8 * latency))


def parse_rate(rate: str | float) -> int:
    """Bit/s from "20mbit", "1.5gbit", "64kbit", or a number of bit/s.

    Raises:
        InvalidValue: another form (tc's "mbps" means bytes, so it is refused), or less than 8 kbit/s.
    """
    bits = _parse(rate, _RATE_UNITS, "rate", 'allowed: "20mbit", "1gbit", "500kbit", or a number of bit/s')
    if bits < 8000:
        raise InvalidValue(f"comm: testbed: rate {rate!r} is below 8 kbit/s", hint="the unit is bit/s: 20mbit = 20e6")
    return bits


def parse_size(size: str | int, name: str) -> int:
    """Bytes from "256kb" (1024 bytes each), "1mb", or a number of bytes."""
    return _parse(size, _SIZE_UNITS, name, 'allowed: "256kb", "1mb", or a number of bytes')


def _parse(value: str | float, units: dict[str, int], name: str, allowed: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([a-z]*)\s*", str(value).casefold())
    if found is None or found[2] not in units or isinstance(value, bool):
        raise InvalidValue(f"comm: testbed: {name} {value!r} can't be read", hint=allowed)
    number = round(float(found[1]) * units[found[2]])
    if number <= 0:
        raise InvalidValue(f"comm: testbed: {name} {value!r} is not positive", hint=allowed)
    return number
