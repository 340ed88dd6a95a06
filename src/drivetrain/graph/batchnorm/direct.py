"""The fused convolution in plain eager training, past the registry of operators.

A registered operator costs some 0.2 ms of Python a call, forward and backward, which is 2 % of a DenseNet's step. Where
nobody watches (no compiler, no dispatch mode, no functional transform) the same functions run directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import ops


def bn_relu_conv(xs: list[Tensor], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As ops.bn_relu_conv."""
    if watched(xs):
        made: tuple[Tensor, Tensor, Tensor] = ops.bn_relu_conv(xs, *rest)
        return made
    vectors, shape = rest[:5], rest[5:]
    made = _Direct.apply(shape, *vectors, *xs)
    return made


def watched(xs: Sequence[Tensor]) -> bool:
    """Whether a compiler, a dispatch mode or a tensor of another kind wants to see the operators themselves."""
    modes = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return modes or not all(type(x) is Tensor for x in xs)


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.shape = shape[:-1]
        ctx.save_for_backward(*tensors)
        arguments: tuple[Any, ...] = (list(tensors[5:]), *tensors[:5], *shape)
        y, mean, m2 = ops.run_bn_relu_conv(*arguments)
        ctx.mark_non_differentiable(mean, m2)
        ctx.set_materialize_grads(False)
        return y, mean, m2

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        if dy is None:
            return (None,) * (1 + len(tensors))
        # With create_graph the operator itself is called, which refuses a second derivative by name.
        run = ops.bn_relu_conv_backward if torch.is_grad_enabled() else ops.run_bn_relu_conv_backward
        dxs, dgamma, dbeta, dweight = run(dy, list(tensors[5:]), *tensors[:5], *ctx.shape)
        return None, dgamma, dbeta, None, None, dweight, *dxs
