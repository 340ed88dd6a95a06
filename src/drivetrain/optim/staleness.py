"""Simulated asynchrony: gradients that reach the optimizer a fixed number of steps late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from torch import Tensor

from drivetrain.base.errors import InvalidValue


class StaleGradients:
    """Delays the gradients of `params` by `staleness` steps, as that many other workers on a parameter server do.

        stale = StaleGradients(model.parameters(), staleness=3)
        loss.backward()
        if stale.exchange():          # False while the pipe fills: there is no gradient to step with yet
            optimizer.step()

    Args:
        params: parameters whose `.grad` is replaced.
        staleness: steps between taking a gradient and using it, >= 0.
    """

    def __init__(self, params: Iterable[Tensor], staleness: int) -> None:
        if staleness < 0:
            raise InvalidValue(f"optim: StaleGradients needs staleness >= 0, got {staleness}")
        self.params = list(params)
        self._pipe: deque[list[Tensor | None]] = deque()
        self.staleness = staleness

    def exchange(self) -> bool:
        """Put the present gradients into the pipe and the oldest into `.grad`; False while the pipe is not full."""
        self._pipe.append([None if p.grad is None else p.grad.detach().clone() for p in self.params])
        if len(self._pipe) <= self.staleness:
            return False
        for p, grad in zip(self.params, self._pipe.popleft(), strict=True):
            p.grad = grad
        return True
