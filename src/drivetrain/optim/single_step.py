"""SingleStep: the momentum and rate that contract a noisy quadratic fastest in one step (YellowFin, section 3.1).

    minimise  mu D² + alpha² C   subject to   mu >= ((sqrt(k) - 1) / (sqrt(k) + 1))²,   alpha = (1 - sqrt(mu))² / h_min

with k = h_max / h_min. In x = sqrt(mu) the stationary point solves p x = (1 - x)³ with p = D² h_min² / (2 C), which has
one root in (0, 1). Everything is float64: the closed form loses digits at both ends of p, and two Newton steps bring
them back.
"""

import math

import torch
from torch import Tensor

from drivetrain.base.errors import InvalidValue

SMALLEST_P, LARGEST_P = (
    1e-30,
    1e30,
)  # beyond these x is 1 - 1e-10 or 1e-30: nothing changes any more, and p³ would overflow


def single_step(
    distance: float | Tensor, variance: float | Tensor, h_min: float | Tensor, h_max: float | Tensor
) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """Momentum and learning rate for the measured statistics.

    Args:
        distance: D, estimated distance to the optimum.
        variance: C, variance of the gradient (summed over coordinates).
        h_min, h_max: smallest and largest curvature.

    Returns:
        (mu, lr), 0 <= mu < 1: floats for floats; 0-dim float64 tensors, without a host read, when an argument is one.

    Raises:
        InvalidValue: among floats, one that is negative, not finite, or an h_min of zero or above h_max.
    """
    values = (distance, variance, h_min, h_max)
    if any(isinstance(value, Tensor) for value in values):
        return solve(*(torch.as_tensor(value, dtype=torch.float64) for value in values))
    _check(*(float(value) for value in values))
    mu, rate = solve(*(torch.tensor(float(value), dtype=torch.float64) for value in values))
    return mu.item(), rate.item()


def solve(distance: Tensor, variance: Tensor, h_min: Tensor, h_max: Tensor) -> tuple[Tensor, Tensor]:
    """`single_step` on 0-dim float64 tensors, unchecked."""
    x = noise_root((distance * h_min).square() / (2 * variance))
    root_k = (h_max / h_min).sqrt()
    x = torch.maximum(x, (root_k - 1) / (root_k + 1))  # its square is the lower end of the robust region
    return x.square(), (1 - x).square() / h_min


def noise_root(p: Tensor) -> Tensor:
    """The root x in (0, 1) of p x = (1 - x)³: Vieta's substitution, then Newton; p is float64, clamped to 1e±30."""
    p = p.clamp(SMALLEST_P, LARGEST_P)
    bounded = p.clamp(1e-12, 1e10)
    w = -((bounded.square() + 4 / 27 * bounded**3).sqrt() + bounded).div(2).pow(1 / 3)
    x = 1 + w - bounded / (3 * w)
    cube_root = p.pow(1 / 3)
    x = torch.where(p < 1e-12, 1 - cube_root + cube_root.square() / 3, x)
    x = torch.where(p > 1e10, 1 / (p + 3), x)
    for _ in range(2):
        x = x - (p * x - (1 - x) ** 3) / (p + 3 * (1 - x).square())
    return x


def _check(distance: float, variance: float, h_min: float, h_max: float) -> None:
    for name, value in (("distance", distance), ("variance", variance), ("h_min", h_min), ("h_max", h_max)):
        if not math.isfinite(value) or value < 0:
            raise InvalidValue(f"optim: single_step needs a finite {name} >= 0, got {value}")
    if h_min == 0 or h_min > h_max:
        raise InvalidValue(f"optim: single_step needs 0 < h_min <= h_max, got h_min={h_min}, h_max={h_max}")
