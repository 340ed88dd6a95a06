"""What an exchange cost: bytes and seconds by part and by parameter, what the codecs still hold back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

PARTS = ("encode", "push", "aggregate", "pull", "decode")


@dataclass
class ParameterCost:
    """Bytes of one parameter on this rank: as float32, and as the messages that were pushed."""

    raw: int = 0
    wire: int = 0


@dataclass
class ExchangeReport:
    """The account of one rank.

    Attributes:
        steps: exchanges so far.
        bytes_raw: what a float32 ring all-reduce would have sent.
        bytes_wire: what this rank sent.
        seconds: by part: encode, push, aggregate, pull, decode.
        parameters: bytes by parameter.
        residual_norm: Euclidean norm of what the push codecs still hold back, and the pull codecs.
        suspicion: a row a rank, where the rule chooses.
    """

    steps: int = 0
    bytes_raw: int = 0
    bytes_wire: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    parameters: dict[str, ParameterCost] = field(default_factory=dict)
    residual_norm: dict[str, float] = field(default_factory=dict)
    suspicion: list[Any] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times fewer bytes than float32."""
        return self.bytes_raw / self.bytes_wire if self.bytes_wire else 1.0

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
