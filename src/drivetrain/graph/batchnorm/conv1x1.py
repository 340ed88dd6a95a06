"""1x1 convolutions in front of batch norms, which leave the statistics of what they write (F1 of spec 19, 2.1).

y = W x, moments of y            torch.ops.drivetrain.conv1x1_stats
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import product
from .layout import alike, fresh, key, layout, native, tiles, with_moments


def run_conv1x1_stats(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A 1x1 convolution as a matrix product, with mean and m2 of its channels while they are in cache (F1)."""
    by_rows = layout([x]) is torch.channels_last

    def tiled() -> tuple[Tensor, Tensor, Tensor]:
        made: tuple[Tensor, Tensor, Tensor] = native([x]).conv1x1([x], None, None, weight, True)
        return made

    def swept() -> tuple[Tensor, Tensor, Tensor]:
        y = product.multiply(x, weight) if by_rows else torch.nn.functional.conv2d(x, weight)
        return with_moments(fresh(y, [x]))

    if not tiles([x], weight):
        return swept()
    return product.faster(key("alone", [x], weight), tiled, swept) if by_rows else tiled()


conv1x1_stats = torch.library.custom_op("drivetrain::conv1x1_stats", mutates_args=())(run_conv1x1_stats)


@conv1x1_stats.register_fake
def _(x, weight):  # type: ignore[no-untyped-def]
    n, _, h, w = x.shape
    moments = [x.new_empty(weight.shape[0], dtype=torch.float64) for _ in range(2)]
    return alike(x.new_empty((n, weight.shape[0], h, w)), [x]), *moments


def _keep_conv1x1(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(*inputs)


def _conv1x1_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    return conv1x1_gradients(dy, x, weight, ctx.needs_input_grad)


def conv1x1_gradients(dy: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Any, Any]:
    """The gradients of x and of the weight of a 1x1 convolution, None where not wanted."""
    needs_x, needs_weight = wanted[:2]
    matrix, dx, dweight = weight.flatten(1), None, None
    if layout([x]) is torch.channels_last:
        return product.multiply_backward(dy, x, weight, (needs_x, needs_weight))
    flat = dy.flatten(2)
    if needs_x:
        dx = torch.matmul(matrix.t(), flat).view_as(x)
    # A matrix for each image would be N times the weight: images are added up one by one.
    if needs_weight:
        dweight = torch.zeros_like(matrix)
        for image, grad in zip(x.flatten(2), flat, strict=True):
            dweight = torch.addmm(dweight, grad, image.t())
        dweight = dweight.view_as(weight)
    return dx, dweight


conv1x1_stats.register_autograd(_conv1x1_gradients, setup_context=_keep_conv1x1)
