"""Batch norm over the mini-batches of all ranks (nn.SyncBatchNorm), which torch itself has on GPUs only.

Forward: one all-reduce of (m, sum x, sum x^2). Backward: one of (dbeta, dgamma); the input's gradient takes the sums of
all ranks, the parameters' gradients stay each rank's own, for DDP to average.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import ops
from .statistics import synchronise, update_running


def is_synchronised(bn: nn.Module) -> bool:
    """Whether a batch norm takes its statistics from several ranks."""
    return isinstance(bn, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized()


def synchronised_bn_relu(
    bn: nn.BatchNorm2d, parts: list[Tensor], count: int, moments: tuple[Tensor, Tensor], residual: Tensor | None,
    relu: bool,
) -> Tensor:  # fmt: skip
    """relu(bn(x) + residual) with the statistics of all ranks; the running statistics are updated."""
    group = getattr(bn, "process_group", None)
    total, mean, m2 = synchronise(count, *moments, group)
    update_running(bn, total, mean, m2)
    inv = (m2 / total + bn.eps).rsqrt()
    x = parts[0]
    gamma = x.new_ones(bn.num_features) if bn.weight is None else bn.weight
    beta = x.new_zeros(bn.num_features) if bn.bias is None else bn.bias
    made: Tensor = _Synchronised.apply(group, (count, total), relu, residual, gamma, beta, mean, inv, *parts)
    return made


class _Synchronised(torch.autograd.Function):
    """The fused operator with another backward: sums over all ranks."""

    @staticmethod
    def forward(ctx: Any, group: Any, counts: tuple[int, int], relu: bool, residual: Any, *tensors: Tensor) -> Tensor:
        ctx.group, ctx.counts, ctx.relu, ctx.joined = group, counts, relu, residual is not None
        ctx.save_for_backward(*tensors, *([residual] if residual is not None else []))
        gamma, beta, mean, inv, *xs = tensors
        made: Tensor = ops.bn_relu(xs, gamma, beta, mean, inv, residual, relu)[0]
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, da: Tensor) -> tuple[Any, ...]:
        gamma, beta, mean, inv, *xs = ctx.saved_tensors
        residual = xs.pop() if ctx.joined else None
        dxs, dgamma, dbeta, dresidual = ops.bn_relu_backward(da, xs, gamma, beta, mean, inv, residual, ctx.relu)
        count, total = ctx.counts
        own = torch.cat([dbeta.double(), dgamma.double()])
        everyone = own.clone()
        dist.all_reduce(everyone, group=ctx.group)
        # dx holds -s (own sums) / count; what is missing is linear in x: intercept + slope x, per channel.
        shift, slope = (own / count - everyone / total).chunk(2)
        s = gamma.double() * inv
        slope = s * slope * inv
        intercept = s * shift - slope * mean
        start = 0
        for x, dx in zip(xs, dxs, strict=True):
            channels = slice(start, start + x.shape[1])
            start = channels.stop
            wide = [value[channels].to(x.dtype).view(1, -1, 1, 1) for value in (slope, intercept)]
            dx.addcmul_(x, wide[0]).add_(wide[1])
        return None, None, None, dresidual if ctx.joined else None, dgamma, dbeta, None, None, *dxs
