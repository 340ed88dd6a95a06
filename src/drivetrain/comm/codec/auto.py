"""codec="auto", the deciding part: is compressing faster than sending, on this link, with this processor?

Times of one step of the sharded exchange (spec §2.6) for a gradient of S bytes in float32 over n ranks, a link of R
bytes a second and latency a, and a codec that encodes and decodes e and d bytes of float32 a second and makes C bytes
of S:

    plain     2 (n-1)/n S / R + 2 (n-1) a
    sharded   2 (n-1)/n C / R + 2 (n-1) a     + S (1 + 1/n) / e + 2 S / d       push, mean, pull
    allgather   (n-1)   C / R + (n-1) a       + S / e           + n S / d       no pull stage
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .errors import CodecError
from .protocol import Codec

Topology = Literal["sharded", "allgather"]


@dataclass(frozen=True)
class Link:
    """A measured link.

    Attributes:
        rate: bytes a second that one rank sends.
        latency: seconds of one message.
    """

    rate: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        if not self.rate > 0 or not self.latency >= 0:
            raise CodecError(
                f"comm: a link has rate > 0 and latency >= 0, this one {self.rate:g} B/s and {self.latency:g} s"
            )


@dataclass(frozen=True)
class CodecSpeed:
    """A measured codec.

    Attributes:
        codec: what was measured.
        encode, decode: bytes of float32 a second on one thread; inf for plain float32.
        ratio: float32 bytes a byte of message.
    """

    codec: Codec
    encode: float
    decode: float
    ratio: float

    def __post_init__(self) -> None:
        if not (self.encode > 0 and self.decode > 0 and self.ratio > 0):
            raise CodecError(
                f"comm: {self.codec.name}: speeds and ratio must be more than 0, they are "
                f"{self.encode:g}, {self.decode:g} B/s and {self.ratio:g}"
            )


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step with a codec (None: plain float32, no codec at all)."""

    codec: Codec | None
    topology: Topology
    compute: float
    wire: float

    @property
    def seconds(self) -> float:
        return self.compute + self.wire

    @property
    def name(self) -> str:
        return "plain" if self.codec is None else self.codec.name


@dataclass(frozen=True)
class Decision:
    """What `choose` chose.

    Attributes:
        chosen: the prediction it will go by; `chosen.codec` is None when compression is off.
        predictions: all that were compared, fastest first.
        reason: one sentence for the log.
    """

    chosen: Prediction
    predictions: tuple[Prediction, ...]
    reason: str


def measure(codec: Codec, x: Tensor, rounds: int = 3) -> CodecSpeed:
    """Measure a codec on a gradient of the job itself; its ratio and its speed depend on the values.

    Args:
        codec: what to measure.
        x: a typical gradient, flat; a few million values are enough.
        rounds: the fastest of this many counts.
    """
    encode = decode = float("inf")
    codec.encode(x)  # builds the kernel
    for _ in range(rounds):
        start = time.perf_counter()
        message = codec.encode(x).data
        middle = time.perf_counter()
        codec.decode(message)
        encode, decode = min(encode, middle - start), min(decode, time.perf_counter() - middle)
    raw = 4 * x.numel()
    return CodecSpeed(codec, raw / max(encode, 1e-9), raw / max(decode, 1e-9), raw / message.numel())


def predict(speed: CodecSpeed | None, nbytes: int, world_size: int, link: Link, topology: Topology) -> Prediction:
    """Seconds of one step; see the head of this file.

    Args:
        speed: the codec, None for a plain ring all-reduce.
        nbytes: the gradient in float32, bytes.
        world_size: ranks.
        link: what every rank sends through.
        topology: ignored where speed is None.
    """
    n, s = world_size, float(nbytes)
    if n <= 1:
        return Prediction(speed.codec if speed else None, topology, 0.0, 0.0)
    if speed is None:
        return Prediction(None, "sharded", 0.0, 2 * (n - 1) / n * s / link.rate + 2 * (n - 1) * link.latency)
    c = s / speed.ratio
    if topology == "allgather":
        compute = s / speed.encode + n * s / speed.decode
        return Prediction(speed.codec, topology, compute, (n - 1) * (c / link.rate + link.latency))
    compute = s * (1 + 1 / n) / speed.encode + 2 * s / speed.decode
    return Prediction(speed.codec, topology, compute, 2 * (n - 1) / n * c / link.rate + 2 * (n - 1) * link.latency)


def choose(
    candidates: Sequence[CodecSpeed],
    *,
    nbytes: int,
    world_size: int,
    link: Link,
    topology: Topology | Literal["auto"] = "auto",
    margin: float = 0.05,
) -> Decision:
    """Choose the codec of a job: the mildest that is within `margin` of the fastest; plain float32 is mildest of all.

    Args:
        candidates: measured codecs, mildest first (as fp16, 3lc with s = 1, 3lc with s = 1.75).
        nbytes: the gradient in float32, bytes.
        world_size: ranks.
        link: the measured link.
        topology: "auto" compares both for up to 4 ranks.
        margin: how much slower than the fastest a milder codec may be; also what a codec must gain to be used at all.

    Raises:
        CodecError: world_size < 1, nbytes < 0, margin < 0.
    """
    if world_size < 1 or nbytes < 0 or not margin >= 0:
        raise CodecError(
            "comm: auto: world_size >= 1, nbytes >= 0 and margin >= 0 are needed, "
            f"found {world_size}, {nbytes}, {margin:g}"
        )
    topologies: tuple[Topology, ...] = ("sharded", "allgather") if world_size <= 4 else ("sharded",)
    if topology != "auto":
        topologies = (topology,)
    by_candidate = [predict(None, nbytes, world_size, link, "sharded")]
    for speed in candidates:
        routes = [predict(speed, nbytes, world_size, link, route) for route in topologies]
        by_candidate.append(min(routes, key=lambda route: route.seconds))
    plain = by_candidate[0]
    fastest = min(by_candidate, key=lambda prediction: prediction.seconds)
    chosen = next(p for p in by_candidate if p.seconds <= (1 + margin) * fastest.seconds)
    ranked = tuple(sorted(by_candidate, key=lambda prediction: prediction.seconds))
    return Decision(chosen, ranked, _reason(chosen, plain, fastest, world_size))


def _reason(chosen: Prediction, plain: Prediction, fastest: Prediction, world_size: int) -> str:
    if world_size == 1:
        return "one rank sends nothing, so nothing is compressed"
    if chosen is plain:
        if fastest is plain:
            return f"plain float32 is the fastest ({_ms(plain)} a step)"
        return f"{fastest.name} would gain too little ({_ms(fastest)} a step, plain float32 {_ms(plain)})"
    return f"{chosen.name} takes {_ms(chosen)} a step, plain float32 {_ms(plain)}"


def _ms(prediction: Prediction) -> str:
    return f"{1e3 * prediction.seconds:.3g} ms"
