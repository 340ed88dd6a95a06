"""Scripted gradients: what most YellowFin tests feed the optimizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain.optim import YellowFin

UNCLIPPED: dict[str, Any] = {"adaptive_clip": False, "protect": 1e30, "max_move": 1e30}


def parameters(*shapes: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(tuple(shape), generator=generator, dtype=dtype)) for shape in shapes]


def gradients(
    steps: int, *shapes: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 1
) -> list[list[Tensor]]:
    """Random gradients with a drifting mean, one list a step."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(tuple(s), generator=generator, dtype=dtype) + 3 / (1 + t) for s in shapes] for t in range(steps)
    ]


def feed(optimizer: torch.optim.Optimizer, params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
    """One step with these gradients."""
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.clone().to(param.dtype)
    optimizer.step()


def run(shapes: Sequence[Sequence[int]], script: Sequence[Sequence[Tensor]], dtype=torch.float64, **options: Any):
    """Feed a whole script to a fresh YellowFin; the parameters and the optimizer."""
    params = parameters(*shapes, dtype=dtype)
    optimizer = YellowFin(params, **options)
    for grads in script:
        feed(optimizer, params, grads)
    return params, optimizer
