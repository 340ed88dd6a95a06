"""Sums that are not kept for the backward, but computed again: relu(bn(x) + residual) in front of convolutions.

A block of a residual network ends in such a sum, and all that wants it back are the weight gradients of convolutions
that read it. The batch norm keeps x; the residual, the sum one block earlier, is kept by the convolution that reads it.
So every second sum is made again, by the sweep that made it: one sweep of time, no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import conv1x1, ops, product


@dataclass(frozen=True)
class Recipe:
    """What a sum is made of; all of it is kept for other backwards anyway.

    Attributes:
        xs: parts that stand for their concatenation along the channels.
        vectors: gamma, beta, mean and inv of the batch norm.
        residual: what is added before the ReLU.
    """

    xs: Sequence[Tensor]
    vectors: Sequence[Tensor]
    residual: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, off the graph: the way to them is the sum's own."""
        return [value.detach() for value in (self.residual, *self.vectors, *self.xs)]


def conv2d(
    value: Tensor, recipe: Recipe, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """The convolution of a sum, which keeps the recipe instead of the sum."""
    shape = (list(stride), list(padding), list(dilation), groups)
    made: Tensor = _OfSum.apply(shape, False, value, weight, bias, *recipe.tensors())[0]
    return made


def conv1x1_stats(value: Tensor, recipe: Recipe, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As conv1x1.conv1x1_stats; keeps the recipe instead of the sum."""
    shape = ([1, 1], [0, 0], [1, 1], 1)
    made: tuple[Tensor, Tensor, Tensor] = _OfSum.apply(shape, True, value, weight, None, *recipe.tensors())
    return made


class _OfSum(torch.autograd.Function):
    """Differentiates by the sum and the weight; the recipe is only what the sum is read from."""

    @staticmethod
    def forward(
        ctx: Any, shape: tuple[Any, ...], with_moments: bool, value: Tensor, weight: Tensor, bias: Tensor | None,
        *recipe: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.shape, ctx.bias_sizes = shape, None if bias is None else list(bias.shape)
        ctx.save_for_backward(weight, *recipe)
        ctx.set_materialize_grads(False)
        if not with_moments:
            return (torch.nn.functional.conv2d(value, weight, bias, *shape),)
        y, mean, m2 = conv1x1.run_conv1x1_stats(value, weight)
        ctx.mark_non_differentiable(mean, m2)
        return y, mean, m2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        weight, residual, *rest = ctx.saved_tensors
        nothing = (None,) * (1 + len(rest))
        if dy is None:
            return None, None, None, None, None, *nothing
        wanted = list(ctx.needs_input_grad[2:5])
        # The sum's own gradient needs but its shape, which is the residual's.
        gamma, beta, mean, inv, *xs = rest
        value = ops.joined(xs, gamma, beta, mean, inv, residual) if wanted[1] else residual
        stride, padding, dilation, groups = ctx.shape
        if ctx.bias_sizes is None and product.is_product(weight, stride, padding, groups):
            gradients = (*conv1x1.conv1x1_gradients(dy, value, weight, wanted), None)
        else:
            gradients = torch.ops.aten.convolution_backward(
                dy, value, weight, ctx.bias_sizes, stride, padding, dilation, False, [0, 0], groups, wanted
            )
        return None, None, *gradients, *nothing
