"""What an exchange cost: bytes and seconds by part and by parameter, what the codecs still hold back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from .slices import Unit

PARTS = ("encode", "push", "aggregate", "pull", "decode")


@dataclass
class ParameterCost:
    """One parameter on this rank.

    Attributes:
        raw: its bytes as float32, over all steps.
        wire: bytes of the messages that were pushed for it.
        residual: Euclidean norm of what its push codec still holds back.
    """

    raw: int = 0
    wire: int = 0
    residual: float = 0.0


@dataclass
class ExchangeReport:
    """The account of one rank.

    Attributes:
        steps: exchanges so far; with DDP's hook a step may take several, one a bucket.
        skipped: of these, steps that all ranks skipped because a gradient was not finite.
        bytes_raw: what a float32 ring all-reduce would have sent.
        bytes_wire: what this rank sent.
        seconds: by part: encode, push, aggregate, pull, decode.
        parameters: by name.
        residual_norm: Euclidean norm of what the push codecs still hold back, and the pull codecs.
        suspicion: a row a rank, where f > 0.
        quarantined: ranks that are left out.
        decision: what codec="auto" chose and why; "" elsewhere.
    """

    steps: int = 0
    skipped: int = 0
    bytes_raw: int = 0
    bytes_wire: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    parameters: dict[str, ParameterCost] = field(default_factory=dict)
    residual_norm: dict[str, float] = field(default_factory=dict)
    suspicion: list[Any] = field(default_factory=list)
    quarantined: list[int] = field(default_factory=list)
    decision: str = ""

    @property
    def ratio(self) -> float:
        """How many times fewer bytes than float32; 1 before anything was sent."""
        return self.bytes_raw / self.bytes_wire if self.bytes_wire else 1.0

    def add_bytes(self, unit: Unit, wire: int) -> None:
        """Note what a unit's messages took; joined parameters share by size."""
        total = sum(numel for _, numel in unit.members)
        for name, numel in unit.members:
            cost = self.parameters.setdefault(name, ParameterCost())
            cost.raw += 4 * numel
            cost.wire += wire * numel // max(total, 1)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on later must remember: steps and bytes, not seconds."""
        parameters = {name: (cost.raw, cost.wire) for name, cost in self.parameters.items()}
        return {"steps": self.steps, "raw": self.bytes_raw, "wire": self.bytes_wire, "parameters": parameters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.steps, self.bytes_raw, self.bytes_wire = state["steps"], state["raw"], state["wire"]
        self.parameters = {name: ParameterCost(raw, wire) for name, (raw, wire) in state["parameters"].items()}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += perf_counter() - start
