"""Sparse codes under a rule that looks at one coordinate at a time: send differences, add them up at the owner.

A 3LC message is mostly zeros, and what is mostly zero on most ranks has a median of zero: the rule would throw
everything away. So a worker encodes what changed, g_t - g_{t-1}, with error feedback, and the owner keeps the sum of
what each worker sent. That sum is an estimate of the worker's gradient without holes, and the rule sees the estimates
(EF21, Richtárik et al. 2021; under robust rules: Rammal et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .codec import Codec, ThreeLC, TopK


def is_sparse(codec: Codec) -> bool:
    """Whether most values of the codec's messages are zero."""
    return isinstance(codec, (ThreeLC, TopK))


class Differences:
    """What a worker sent last, and what each worker's messages add up to at this owner."""

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}
        self._before: dict[str, Tensor | None] = {}
        self._sums: dict[tuple[int, str], Tensor] = {}

    def outgoing(self, key: str, gradient: Tensor) -> Tensor:
        """What changed since the last step; the first time, all."""
        last = self._before[key] = self._last.get(key)
        self._last[key] = gradient.to(torch.float32, copy=True)
        return gradient if last is None else self._last[key] - last

    def take_back(self, key: str, gradient: Tensor) -> Tensor:
        """Forget the last `outgoing`; returns what it gave."""
        before = self._before.pop(key, None)
        if before is None:
            self._last.pop(key, None)
            return gradient
        given = self._last[key] - before
        self._last[key] = before
        return given

    def add_up(self, sender: int, key: str, values: Tensor) -> None:
        """Turn a sender's decoded differences into the estimate of its gradient, in place."""
        total = self._sums.setdefault((sender, key), torch.zeros_like(values))
        values.copy_(total.add_(values))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint on as many ranks."""
        sums = {f"{sender} {key}": values.clone() for (sender, key), values in self._sums.items()}
        return {"last": {key: values.clone() for key, values in self._last.items()}, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._last = {key: values.clone() for key, values in state["last"].items()}
        self._sums = {}
        for name, values in state["sums"].items():
            sender, key = name.split(" ", 1)
            self._sums[int(sender), key] = values.clone()
