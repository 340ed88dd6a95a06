"""What YellowFin measures: curvature range, gradient variance, distance to the optimum (sections 3.2 and appendix).

Everything is a float64 tensor on the parameters' device and the host reads no value, so an accelerator never waits.
EMA[v] starts at zero, and 1 - `remaining` is its zero-debias divisor. w is the window; 0-dim tensors otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .options import YellowFinOptions
from .single_step import solve

EPS = 1e-6
H_MAX, H_MIN, NORM2, NORM, DENSITY, DISTANCE = range(6)  # places in `averages`

FIELDS = (
    "steps",
    "remaining",
    "averages",
    "window",
    "h_max",
    "h_min",
    "variance",
    "distance",
    "mu",
    "lr",
    "full_lr",
    "smooth",
)


class Statistics:
    """Running statistics of the whole gradient.

    Attributes:
        steps: how many gradients were observed.
        remaining: beta to the power of `steps`.
        averages: EMAs (6,) of log h_max and log h_min (plain without log smoothing), ‖g‖², ‖g‖, density, distance.
        window: the last w values of ‖g‖².
        h_max, h_min, variance, distance: the debiased results.
        mu, lr: target momentum and learning rate that were found last.
        full_lr: the rate without slow start.
        smooth: for `hyper_debias`, EMAs (3,) of mu and log lr, and their own `remaining`.
    """

    def __init__(self, options: YellowFinOptions, device: torch.device) -> None:
        self.options = options
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self.steps = self.h_max = self.h_min = self.variance = self.distance = zero
        self.remaining = torch.ones_like(zero)
        self.averages = zero.new_zeros(6)
        self.window = zero.new_zeros(options.window)
        self.smooth = torch.stack([zero, zero, self.remaining])
        self.mu = torch.full_like(zero, options.momentum)
        self.lr = self.full_lr = torch.full_like(zero, options.lr)
        self._places = torch.arange(options.window, device=device)

    def guard(self, norm2: Tensor) -> Tensor:
        """The factor <= 1 on the gradient before it is observed: the user's clip, then √(protect h_max) (2.7 a, b)."""
        norm = norm2.sqrt()
        limit = torch.full_like(norm, torch.inf)
        if self.options.clip is not None:
            limit = torch.full_like(norm, self.options.clip)
        protected = torch.minimum(limit, (self.options.protect * self.h_max).sqrt())
        limit = torch.where(self.steps > 1, protected, limit)
        return torch.where(norm > limit, limit / norm, 1.0)

    def observe(self, norm2: Tensor, mean2: Tensor, density: Tensor | None) -> None:
        """Take one gradient in.

        Args:
            norm2: ‖g‖² over all parameters, after `guard`.
            mean2: squared norm of the debiased gradient average, this gradient included.
            density: fraction of nonzero entries, for the sparsity debias.
        """
        self.window = torch.where(self._places == self.steps % len(self.window), norm2, self.window)
        filled = self._places <= self.steps
        top = torch.where(filled, self.window, -torch.inf).amax()
        bottom = torch.where(filled, self.window, torch.inf).amin()
        if self.options.log_smooth:
            top, bottom = (top + EPS).log(), (bottom + EPS).log()
        norm = norm2.sqrt()
        seen = torch.stack([top, bottom, norm2, norm, norm if density is None else density])
        weight = 1 - self.options.beta
        averages = torch.lerp(self.averages[:DISTANCE], seen, weight)
        self.remaining = self.remaining * self.options.beta
        # The debias divisors of both inner averages cancel but for EPS, which must not weigh on small first averages.
        divisor = 1 - self.remaining if self.options.zero_debias else torch.ones_like(self.remaining)
        ratio = averages[NORM] / (averages[NORM2] + EPS * divisor)
        distance = torch.lerp(self.averages[DISTANCE], ratio, weight)
        self.averages = torch.cat([averages, distance.reshape(1)])
        self.steps = self.steps + 1
        self._conclude(mean2, density is not None)

    def _conclude(self, mean2: Tensor, sparse: bool) -> None:
        """Debias the averages into h_max, h_min, C and D (2.3 - 2.5, 2.8)."""
        debiased = self.averages / (1 - self.remaining) if self.options.zero_debias else self.averages
        range_ = debiased[: H_MIN + 1].exp() if self.options.log_smooth else debiased[: H_MIN + 1]
        h_max, h_min = range_.clamp(min=EPS).unbind()
        variance = (debiased[NORM2] - mean2).clamp(min=EPS)
        distance = debiased[DISTANCE]
        if sparse:
            density = debiased[DENSITY]
            h_max, h_min, variance = h_max * density, h_min * density, variance * density
            distance = distance / (density.sqrt() + EPS)
        self.h_max, self.h_min, self.variance, self.distance = h_max, h_min, variance, distance

    def tune(self, norm2: Tensor, previous_h_max: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for momentum and rate (2.6), after `observe`.

        Args:
            norm2: what `observe` got.
            previous_h_max: `h_max` before that.

        Returns:
            The rate to use, which is `self.lr` with the catastrophic-move limit (2.7 d); the factor <= 1 on the update
            when ‖g‖² reached the previous h_max (2.7 c).
        """
        mu, lr = solve(self.distance, self.variance, self.h_min, self.h_max)
        first = self.steps <= 1  # one gradient has no variance: the constructor's values stand
        if self.options.hyper_debias:
            mu, lr = self._debiased(mu, lr, first)
        self.full_lr = lr
        if self.options.slow_start:
            lr = lr * (self.steps / self.options.slow_start).clamp(max=1)
        if self.options.smooth_hyper and not self.options.hyper_debias:
            weight = 1 - self.options.beta
            mu, lr = torch.lerp(self.mu, mu, weight), torch.lerp(self.lr, lr, weight)
        self.mu, self.lr = torch.where(first, self.mu, mu), torch.where(first, self.lr, lr)
        norm = norm2.sqrt()
        used = torch.where(self.lr * norm >= self.options.max_move, self.options.max_move / norm, self.lr)
        exploded = (norm2 >= previous_h_max) & ~first
        if not self.options.adaptive_clip:
            return used, torch.ones_like(norm)
        return used, torch.where(exploded, (previous_h_max / norm2).sqrt(), 1.0)

    def _debiased(self, mu: Tensor, lr: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Average momentum and the logarithm of the rate over the tuned steps, zero-debiased (ours)."""
        seen = torch.stack([mu, lr.log(), torch.zeros_like(mu)])
        self.smooth = torch.where(first, self.smooth, torch.lerp(self.smooth, seen, 1 - self.options.beta))
        smooth_mu, smooth_log, remaining = self.smooth.unbind()
        divisor = torch.where(first, 1.0, 1 - remaining)
        return smooth_mu / divisor, (smooth_log / divisor).exp()

    def values(self) -> dict[str, Tensor]:
        """Every field by name."""
        return {name: getattr(self, name) for name in FIELDS}

    def restore(self, values: dict[str, Tensor], keep: Tensor | None = None) -> None:
        """Set the fields; with `keep`, a 0-dim boolean tensor, only where it is false."""
        for name in FIELDS:
            value = values[name]
            setattr(self, name, value if keep is None else torch.where(keep, getattr(self, name), value))
