"""The model that all ranks share, and the step it takes at an averaging (AdaComm §2.6).

G = anchor - mean_i x_i        the mean change of a period, as a gradient
plain: anchor <- anchor - G    block momentum: u <- beta u + G, anchor <- anchor - u    outer: anchor <- outer(G)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from drivetrain.base.errors import InvalidValue

from .layout import Layout

MakeOuter = Callable[[list[Tensor]], Optimizer]


class Anchor:
    """Parameters as of the last averaging, identical on all ranks.

    Args:
        layout: of the model.
        outer: makes the optimizer that steps the anchor, e.g. lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9,
            nesterov=True); None: plain averaging, or block momentum.
        block_momentum: beta.
    """

    def __init__(self, layout: Layout, outer: MakeOuter | None, block_momentum: float) -> None:
        if not 0 <= block_momentum < 1:
            raise InvalidValue(f"comm: block_momentum={block_momentum!r}, wanted 0 or more and below 1")
        if isinstance(outer, Optimizer) or (outer is not None and not callable(outer)):
            raise InvalidValue(
                f"comm: outer is {type(outer).__name__}, wanted a function that makes an optimizer of the anchor",
                hint="outer=lambda params: torch.optim.SGD(params, lr=0.7, momentum=0.9, nesterov=True)",
            )
        if outer is not None and block_momentum:
            raise InvalidValue(
                f"comm: block_momentum={block_momentum} and an outer optimizer are two ways to do one thing",
                hint="give the outer SGD that momentum",
            )
        self.layout = layout
        self.beta = block_momentum
        self.values = [p.detach().clone() for p in layout.params]
        self.momentum: list[Tensor] | None = None
        self.outer = outer(self.values) if outer is not None else None

    def step(self, mean_change: Tensor) -> None:
        """Move by the mean change (P,) of the workers."""
        pieces = self.layout.pieces(mean_change, self.values)
        with torch.no_grad():
            if self.outer is not None:
                for value, change in zip(self.values, pieces, strict=True):
                    value.grad = change.neg().to(value.dtype)
                self.outer.step()
                self.outer.zero_grad()
            elif self.beta:
                # The signs are those of G, so that SGD(lr=1, momentum=beta) as the outer optimizer gives equal bits.
                g = [change.neg().to(value.dtype) for value, change in zip(self.values, pieces, strict=True)]
                if self.momentum is None:
                    self.momentum = g
                else:
                    for u, change in zip(self.momentum, g, strict=True):
                        u.mul_(self.beta).add_(change)
                for value, u in zip(self.values, self.momentum, strict=True):
                    value.sub_(u)
            else:
                for value, change in zip(self.values, pieces, strict=True):
                    value.add_(change.to(value.dtype))

    def restart(self) -> None:
        """Take the model's parameters as they are."""
        with torch.no_grad():
            for value, p in zip(self.values, self.layout.params, strict=True):
                value.copy_(p)

    def state_dict(self) -> dict[str, Any]:
        momentum = None if self.momentum is None else [u.clone() for u in self.momentum]
        outer = None if self.outer is None else self.outer.state_dict()
        return {"values": [value.clone() for value in self.values], "momentum": momentum, "outer": outer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for value, saved in zip(self.values, state["values"], strict=True):
                value.copy_(saved)
        momentum = state["momentum"]
        self.momentum = None if momentum is None else [u.to(self.layout.device, copy=True) for u in momentum]
        if self.outer is not None and state["outer"] is not None:
            self.outer.load_state_dict(state["outer"])
