"""Total momentum, measured: what an asynchronous system really has (YellowFin, section 4).

A gradient that is tau steps old acts like extra momentum. Where g(x_s) becomes known, each coordinate tells the total

    mu_T = ( (x_{s+1} - x_s) / alpha_{s+1} + g(x_s) ) / ( (x_s - x_{s-1}) / alpha_s )

and the median over coordinates is the estimate. (The paper writes it for one alpha; dividing each move by its own
rate keeps it exact while the rate changes.) Coordinates are a fixed random sample, so memory is O(sample tau).

Shapes: S sampled coordinates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from drivetrain.base.seeds import torch_generator

SMALLEST_MOVE = 1e-12  # a coordinate that moved less says nothing about the ratio


def measure_total_momentum(
    x_new: Tensor, x_s: Tensor, x_prev: Tensor, grad_s: Tensor, lr: float, lr_prev: float | None = None
) -> float:
    """Total momentum from three successive iterates and the gradient at the middle one.

    Args:
        x_new, x_s, x_prev: x_{s+1}, x_s, x_{s-1}, same shape.
        grad_s: g(x_s).
        lr: rate of the move x_s -> x_{s+1}.
        lr_prev: rate of the move x_{s-1} -> x_s; None is the same.

    Returns:
        The median over coordinates; NaN when none moved by 1e-12.
    """
    before = lr if lr_prev is None else lr_prev
    rates = [torch.full_like(x_s, rate, dtype=torch.float64) for rate in (lr, before)]
    return float(_median_ratio(x_new, x_s, x_prev, grad_s, *rates))


def _median_ratio(
    x_new: Tensor, x_s: Tensor, x_prev: Tensor, grad_s: Tensor, rate: Tensor, rate_prev: Tensor
) -> Tensor:
    x_new, x_s, x_prev, grad_s = (tensor.double() for tensor in (x_new, x_s, x_prev, grad_s))
    move = x_s - x_prev
    ratio = ((x_new - x_s) / rate + grad_s) / (move / rate_prev)
    return torch.where(move.abs() < SMALLEST_MOVE, torch.nan, ratio).nanmedian()


def feed_back(mu: Tensor, target: Tensor, total: Tensor, gain: float) -> Tensor:
    """The algorithm's next momentum: lowered where the measured total is above the target; unchanged when it is NaN.

    It may go negative, which takes away what staleness adds; kept in [-0.99, 0.999] (the bounds are ours).
    """
    return (mu + (gain * (target - total)).nan_to_num(0.0)).clamp(-0.99, 0.999)


class MomentumSensor:
    """Remembers sampled iterates and rates, and measures total momentum after each step.

    Args:
        sizes: number of elements of each parameter on this process.
        staleness: tau, how many steps old the gradients are.
        sample: how many coordinates to follow at most.
        device: where the samples live.
    """

    def __init__(self, sizes: Sequence[int], staleness: int, sample: int, device: torch.device) -> None:
        self.staleness = staleness
        self.indices = _choose(sizes, sample, device)
        self.iterates: deque[Tensor] = deque(maxlen=staleness + 3)  # (S,) each, oldest first
        self.rates: deque[Tensor] = deque(maxlen=staleness + 2)  # (S,) each, of the move into the iterate beside it

    def pick(self, tensors: Sequence[Tensor]) -> Tensor:
        """The sampled coordinates (S,) of all parameters, copied."""
        pairs = zip(tensors, self.indices, strict=True)
        return torch.cat([tensor.reshape(-1)[index].double() for tensor, index in pairs])

    def spread(self, rates: Sequence[Tensor]) -> Tensor:
        """The rate (S,) of every sampled coordinate from one rate a parameter."""
        counts = [len(index) for index in self.indices]
        return torch.cat([rate.expand(count) for rate, count in zip(rates, counts, strict=True)])

    def begin(self, params: Sequence[Tensor]) -> None:
        """Remember the iterate that the first step starts from."""
        if not self.iterates:
            self.iterates.append(self.pick(params))

    def measure(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], scale: float | Tensor, rates: Sequence[Tensor]
    ) -> Tensor:
        """Remember the iterate just reached and measure; NaN until enough steps are remembered.

        Args:
            params: the parameters after the step.
            grads: the gradients, taken `staleness` steps ago.
            scale: what clipping multiplied them by.
            rates: the learning rate of each parameter in this step, 0-dim float64.
        """
        self.iterates.append(self.pick(params))
        self.rates.append(self.spread(rates))
        if len(self.iterates) < self.staleness + 3:
            return torch.full((), torch.nan, dtype=torch.float64, device=self.iterates[0].device)
        x_prev, x_s, x_new = (self.iterates[place] for place in (0, 1, 2))
        return _median_ratio(x_new, x_s, x_prev, self.pick(grads) * scale, self.rates[1], self.rates[0])

    def hold(self) -> None:
        """A step was skipped: the iterate stays, but the stream of stale gradients moved on."""
        if self.iterates and self.rates:
            self.iterates.append(self.iterates[-1])
            self.rates.append(self.rates[-1])

    def state(self) -> dict[str, list[Tensor]]:
        """What a checkpoint needs."""
        return {"iterates": list(self.iterates), "rates": list(self.rates)}

    def restore(self, state: dict[str, list[Tensor]]) -> None:
        """Take back what `state` gave."""
        for name in ("iterates", "rates"):
            held = getattr(self, name)
            held.clear()
            held.extend(tensor.clone() for tensor in state[name])


def _choose(sizes: Sequence[int], sample: int, device: torch.device) -> list[Tensor]:
    """Indices into each flattened parameter; the same on every process and in every run."""
    total = sum(sizes)
    if total <= sample:
        return [torch.arange(size, device=device) for size in sizes]
    # Drawing with replacement and dropping repeats loses a few, and needs no permutation of all coordinates.
    drawn = torch.randint(total, (sample,), generator=torch_generator(0, "momentum sensor")).unique()
    chosen = []
    start = 0
    for size in sizes:
        inside = drawn[(drawn >= start) & (drawn < start + size)] - start
        chosen.append(inside.to(device))
        start += size
    return chosen
