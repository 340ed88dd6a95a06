"""The options of YellowFin, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from drivetrain.base.errors import InvalidValue

# Ours: steadier than the paper's defaults where gradients shrink much during training (measured in the card).
STEADY: dict[str, Any] = {"beta": 0.9998, "window": 5, "smooth_hyper": True, "hyper_debias": True, "slow_start": 50}


@dataclass(frozen=True)
class YellowFinOptions:
    """What `YellowFin` was constructed with; the meanings are in its docstring."""

    lr: float
    momentum: float
    beta: float
    window: int
    clip: float | None
    adaptive_clip: bool
    protect: float
    max_move: float
    log_smooth: bool
    zero_debias: bool
    smooth_hyper: bool
    hyper_debias: bool
    slow_start: int
    sparsity_debias: bool
    staleness: int
    feedback: float
    sample: int
    nesterov: bool
    decoupled_weight_decay: bool

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
                raise InvalidValue(f"optim: YellowFin needs {low:g} < {name} < {high:g}, got {value!r}")
        for name, least in _WHOLE_NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidValue(f"optim: YellowFin needs {name} to be a whole number >= {least}, got {value!r}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(f"optim: YellowFin needs {name} to be true or false, got {getattr(self, name)!r}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise InvalidValue(f"optim: YellowFin needs clip > 0, or None for no clipping, got {self.clip!r}")
        if self.hyper_debias and not self.smooth_hyper:
            raise InvalidValue(
                "optim: YellowFin has hyper_debias=True and smooth_hyper=False: there is no average to debias"
            )
        if self.staleness and self.nesterov:
            raise InvalidValue(
                f"optim: YellowFin with staleness={self.staleness} measures total momentum on the plain step only",
                hint="leave nesterov out, or set staleness=0",
            )


_RANGES = (  # name, excluded bounds
    ("lr", 0, math.inf), ("momentum", -1, 1), ("beta", 0, 1), ("protect", 0, math.inf), ("max_move", 0, math.inf),
    ("feedback", 0, 1),
)  # fmt: skip
_WHOLE_NUMBERS = (("window", 1), ("slow_start", 0), ("staleness", 0), ("sample", 1))
_SWITCHES = (
    "adaptive_clip", "log_smooth", "zero_debias", "smooth_hyper", "sparsity_debias", "nesterov",
    "decoupled_weight_decay", "hyper_debias",
)  # fmt: skip
