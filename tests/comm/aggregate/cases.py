"""What the tests of this folder share: one of every rule, and vectors to aggregate."""

from __future__ import annotations

import torch
from torch import Tensor

from drivetrain.comm.aggregate import (
    ARC,
    CGE,
    MDA,
    NNM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    Chain,
    Clip,
    GeometricMedian,
    Krum,
    MeaMed,
    Median,
    MultiKrum,
    Phocas,
    Rule,
    TrimmedMean,
    get,
    names,
)

ROWS_A = [(1, 0), (1.1, 0.1), (0.9, -0.1), (1, 0.2), (1.2, 0), (10, 10), (-10, 4)]
ROWS_B = [1, 1.13, 0.91, 1.31, 1.52, 0.77, 10]

ROBUST: list[Rule] = [
    *(Median(), Median(even="lower"), Median(even="upper"), TrimmedMean(), MeaMed(), Phocas()),
    *(Krum(), MultiKrum(), MultiKrum(m=1), Krum(squared=False), Bulyan(), MDA()),
    *(CGE(), GeometricMedian(), CenteredClipping()),
]
CHAINED: list[Rule] = [
    Chain(NNM(), MultiKrum()),
    Chain(Bucketing(1), Median()),
    Chain(ARC(), Krum()),
    Chain(Clip(100.0), Median()),
]
EVERY: list[Rule] = [*ROBUST, *CHAINED, get("average"), get("average-nan")]


def label(rule: Rule) -> str:
    """The name of a test's case."""
    return repr(rule)


def faults(rule: Rule, n: int, wanted: int = 2) -> int:
    """The largest f up to `wanted` that the rule takes with n workers."""
    return min(wanted, rule.max_f(n))


def spread(
    n: int, d: int, seed: int, *, center: float = 1.0, width: float = 0.1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Vectors [n, d] around `center`."""
    generator = torch.Generator().manual_seed(seed)
    return center + width * torch.randn(n, d, generator=generator, dtype=dtype)


__all__ = ["CHAINED", "EVERY", "ROBUST", "ROWS_A", "ROWS_B", "faults", "label", "names", "spread"]
