"""How long local-update SGD takes and how far it comes in that time (AdaComm §2.2, §2.3).

Symbols: m workers, tau local steps between averagings, Y seconds of a step, D seconds of an averaging, alpha = D / Y,
eta learning rate, L smoothness, sigma2 variance of a gradient, gap = F(x_1) - F_inf, T seconds of wall-clock time.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from drivetrain.base.errors import InvalidValue


def speedup(alpha: float, tau: float) -> float:
    """Steps per second over those of synchronous SGD, Y and D constant: (1 + alpha) / (1 + alpha / tau)."""
    _positive(tau=tau)
    if not alpha >= 0:
        raise InvalidValue(f"comm: alpha={alpha!r}, wanted D / Y, 0 or more")
    return (1 + alpha) / (1 + alpha / tau)


def propose_tau0(alpha: float, share: float = 0.9) -> int:
    """The smallest tau that reaches `share` of the largest speed-up, 1 + alpha."""
    if not 0 < share < 1:
        raise InvalidValue(f"comm: share={share!r}, wanted a number between 0 and 1")
    tau = max(1, math.floor(alpha * share / (1 - share)) - 1)
    while speedup(alpha, tau) < share * (1 + alpha) * (1 - 1e-12):
        tau += 1
    return tau


def expected_max_exponential(m: int, y: float = 1.0) -> float:
    """E[max of m] exponential times of mean y: y times the m-th harmonic number."""
    _positive(m=m, y=y)
    return y * sum(1 / k for k in range(1, m + 1))


def expected_max_mean(m: int, tau: int, y: float = 1.0) -> float:
    """E[max of m] means of tau exponential times of mean y, by integrating 1 - F(t)^m, F the Erlang distribution."""
    _positive(m=m, tau=tau, y=y)
    end = 1 + 12 / math.sqrt(tau) + math.log(m) + 20 / tau
    t = torch.linspace(0, end, 40_001, dtype=torch.float64)
    below = torch.special.gammainc(torch.tensor(float(tau), dtype=torch.float64), t * tau)
    return y * float(torch.trapezoid(1 - below**m, t))


def seconds_per_step(
    tau: int, y: float, d: float, m: int = 1, compute: Literal["constant", "exponential"] = "constant"
) -> float:
    """E[seconds] of a local step with its share of the averaging: E[max_i mean of tau Y_i] + D / tau."""
    if compute not in ("constant", "exponential"):
        raise InvalidValue(f'comm: compute={compute!r}, wanted "constant" or "exponential"')
    return (y if compute == "constant" else expected_max_mean(m, tau, y)) + d / tau


def averaging_seconds(d0: float, m: int, shape: Literal["tree", "ring"] = "ring") -> float:
    """D = D_0 s(m): s = 2 log2 m for a tree, 2 (m - 1) / m for a ring; D_0 = model bytes / link bytes a second."""
    if shape not in ("tree", "ring"):
        raise InvalidValue(f'comm: shape={shape!r}, wanted "tree" or "ring"')
    return d0 * (2 * math.log2(m) if shape == "tree" else 2 * (m - 1) / m)


def bound(
    T: float, tau: float, *, eta: float, L: float, sigma2: float, m: int, gap: float, Y: float, D: float
) -> float:
    """The bound on min_k E||grad F||² after T seconds: optimisation, sampling noise, local steps.

        2 gap / (eta T) (Y + D / tau)  +  eta L sigma2 / m  +  eta² L² sigma2 (tau - 1)

    It is proven where `bound_holds`; beyond, it is the formula's value.
    """
    _positive(T=T, tau=tau, eta=eta, m=m)
    return 2 * gap / (eta * T) * (Y + D / tau) + eta * L * sigma2 / m + eta**2 * L**2 * sigma2 * (tau - 1)


def bound_holds(tau: float, *, eta: float, L: float) -> bool:
    """Whether eta L + eta² L² tau (tau - 1) <= 1, which the bound's proof needs."""
    return eta * L + eta**2 * L**2 * tau * (tau - 1) <= 1


def tau_star(T: float, *, eta: float, L: float, sigma2: float, gap: float, D: float) -> float:
    """The tau that minimises `bound`: sqrt(2 gap D / (eta³ L² sigma2 T)); falls as 1 / sqrt(T), whatever Y is."""
    _positive(T=T, eta=eta, L=L, sigma2=sigma2)
    return math.sqrt(2 * gap * D / (eta**3 * L**2 * sigma2 * T))


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InvalidValue(f"comm: {name}={value!r}, wanted a number above 0")
