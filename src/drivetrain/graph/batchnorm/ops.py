"""The fused operators, known to autograd, torch.compile and torch.export.

    a = relu(batch_norm(x) + residual)               torch.ops.drivetrain.bn_relu
    y = conv(relu(batch_norm(x))), moments of y      torch.ops.drivetrain.bn_relu_conv

`xs` is a list of parts that stand for their concatenation along the channels. The statistics (mean, inv) come in from
outside, so one sweep serves every batch norm that reads the same feature; the gradient with respect to xs contains the
way through the statistics, as if they had been computed inside. Only xs is kept for the backward: neither the
normalised nor the activated feature is (section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import channels_last, product
from .layout import alike, all_fresh, fresh, joined_empty, key, layout, native, sweeps, tiles, with_moments
from .statistics import batch_statistics

_registered = torch.library.custom_op


def scale_and_shift(
    gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """s = gamma inv and t = beta - mean s: all that normalising needs, rounded once."""
    s = (gamma.double() * inv.double()).to(dtype)
    return s, (beta.double() - mean.double() * s.double()).to(dtype)


def _vectors(xs: Sequence[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor) -> list[Tensor]:
    dtype = xs[0].dtype
    s, t = scale_and_shift(gamma, beta, mean, inv, dtype)
    return [s, t, mean.to(dtype), inv.to(dtype)]


def _no_mask(x: Tensor) -> Tensor:
    return x.new_empty(0, dtype=torch.uint8)


@torch.library.custom_op("drivetrain::bn_stats", mutates_args=())
def bn_stats(xs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared differences, float64 [C], of the parts' channels."""
    return batch_statistics(xs)


@bn_stats.register_fake
def _(xs: list[Tensor]) -> tuple[Tensor, Tensor]:
    size = sum(x.shape[1] for x in xs)
    return tuple(xs[0].new_empty(size, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@torch.library.custom_op("drivetrain::bn_relu", mutates_args=())
def bn_relu(
    xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, residual: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor]:
    """relu(gamma (x - mean) inv + beta + residual) in one sweep; mean and inv are the mini-batch's own.

    The second result is the ReLU's mask, uint8, one bit a value, where a residual was added and the kernel packs bits;
    else empty, and the backward asks the residual.
    """
    s, t, _, _ = _vectors(xs, gamma, beta, mean, inv)
    if residual is not None and relu and _packs(xs):
        mask = torch.empty(residual.numel() // 8, dtype=torch.uint8)
        return channels_last.apply(xs, s, t, residual, relu, mask), mask
    return fresh(sweeps(xs).apply(xs, s, t, residual, relu), xs), _no_mask(xs[0])


@bn_relu.register_fake
def _(xs, gamma, beta, mean, inv, residual, relu):  # type: ignore[no-untyped-def]
    mask = _no_mask(xs[0])
    if residual is not None and relu and _packs(xs):
        mask = xs[0].new_empty(residual.numel() // 8, dtype=torch.uint8)
    return joined_empty(xs), mask


def joined(xs: Sequence[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, residual: Tensor) -> Tensor:
    """The sum that `bn_relu` made of these, to the bit."""
    s, t, _, _ = _vectors(xs, gamma, beta, mean, inv)
    made: Tensor = sweeps(xs).apply(xs, s, t, residual, True)
    return made


def _packs(xs: Sequence[Tensor]) -> bool:
    return layout(xs) is torch.channels_last and channels_last.packs(xs)


@torch.library.custom_op("drivetrain::bn_relu_backward", mutates_args=())
def bn_relu_backward(
    da: Tensor, xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, residual: Tensor | None,
    relu: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of xs, gamma, beta and the residual (empty without one); `residual` may be the mask instead."""
    vectors = _vectors(xs, gamma, beta, mean, inv)
    dxs, dgamma, dbeta, dresidual = sweeps(xs).backward(xs, *vectors, residual, relu, da)
    added = [fresh(dresidual, xs)] if residual is not None else [dresidual]
    return all_fresh(dxs, xs), dgamma.to(gamma.dtype), dbeta.to(beta.dtype), *added


@bn_relu_backward.register_fake
def _(da, xs, gamma, beta, mean, inv, residual, relu):  # type: ignore[no-untyped-def]
    rest = da.new_empty(0) if residual is None else alike(da, xs)
    return [alike(x, xs) for x in xs], torch.empty_like(gamma), torch.empty_like(beta), rest


def run_bn_relu_conv(
    xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, stride: list[int],
    padding: list[int], dilation: list[int], groups: int, want_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """conv(relu(batch_norm(x))), and mean and sum of squared differences of its channels (empty if unwanted)."""
    s, t, _, _ = _vectors(xs, gamma, beta, mean, inv)
    by_rows = layout(xs) is torch.channels_last
    matrix = product.is_product(weight, stride, padding, groups)

    def tiled() -> tuple[Tensor, Tensor, Tensor]:
        made: tuple[Tensor, Tensor, Tensor] = native(xs).conv1x1(xs, s, t, weight, want_stats)
        return made

    def swept() -> tuple[Tensor, Tensor, Tensor]:
        a = sweeps(xs).apply(xs, s, t, None, True)
        if matrix and by_rows:
            y = product.multiply(a, weight)
        else:
            y = torch.nn.functional.conv2d(a, weight, None, stride, padding, dilation, groups)
        return with_moments(fresh(y, xs), want_stats)

    if not matrix or not tiles(xs, weight):
        return swept()
    return product.faster(key("forward", xs, weight), tiled, swept) if by_rows else tiled()


bn_relu_conv = _registered("drivetrain::bn_relu_conv", mutates_args=())(run_bn_relu_conv)


@bn_relu_conv.register_fake
def _(xs, gamma, beta, mean, inv, weight, stride, padding, dilation, groups, want_stats):  # type: ignore[no-untyped-def]
    y = torch.nn.functional.conv2d(joined_empty(xs), weight, None, stride, padding, dilation, groups)
    y = alike(y, xs)
    size = weight.shape[0] if want_stats else 0
    return y, y.new_empty(size, dtype=torch.float64), y.new_empty(size, dtype=torch.float64)


def run_bn_relu_conv_backward(
    dy: Tensor, xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, weight: Tensor,
    stride: list[int], padding: list[int], dilation: list[int], groups: int,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of xs, gamma, beta and the weight; the activated feature is computed again."""
    s, t, mean_x, inv_x = _vectors(xs, gamma, beta, mean, inv)
    by_rows = layout(xs) is torch.channels_last
    matrix = product.is_product(weight, stride, padding, groups)

    def tiled() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        made: tuple[list[Tensor], Tensor, Tensor, Tensor] = native(xs).conv1x1_backward(
            xs, s, t, mean_x, inv_x, weight, dy
        )
        return made

    def swept() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        native_or_plain = sweeps(xs)
        a = native_or_plain.apply(xs, s, t, None, True)
        if matrix and by_rows:
            da, dweight = product.multiply_backward(fresh(dy, xs), a, weight, (True, True))
        else:
            da, dweight, _ = torch.ops.aten.convolution_backward(
                dy, a, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, True, False]
            )
        del a
        dxs, dgamma, dbeta, _ = native_or_plain.backward(xs, s, t, mean_x, inv_x, None, True, da)
        return dxs, dgamma, dbeta, dweight

    if not matrix or not tiles(xs, weight):
        dxs, dgamma, dbeta, dweight = swept()
    else:
        dxs, dgamma, dbeta, dweight = product.faster(key("backward", xs, weight), tiled, swept) if by_rows else tiled()
    dxs = all_fresh(dxs, xs)
    return dxs, dgamma.to(gamma.dtype), dbeta.to(beta.dtype), dweight.contiguous()


bn_relu_conv_backward = _registered("drivetrain::bn_relu_conv_backward", mutates_args=())(run_bn_relu_conv_backward)


@bn_relu_conv_backward.register_fake
def _(dy, xs, gamma, beta, mean, inv, weight, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
    dxs = [alike(x, xs) for x in xs]
    return dxs, torch.empty_like(gamma), torch.empty_like(beta), weight.new_empty(weight.shape)


def _keep_bn_relu(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    xs, gamma, beta, mean, inv, residual, relu = inputs
    ctx.relu, ctx.count, ctx.joined = relu, len(xs), residual is not None
    mask = output[1]
    ctx.mark_non_differentiable(mask)
    kept = [] if residual is None else [mask if mask.numel() else residual]
    ctx.save_for_backward(*xs, gamma, beta, mean, inv, *kept)


def _bn_relu_gradients(ctx: Any, da: Tensor, _: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    xs, rest = list(saved[: ctx.count]), saved[ctx.count :]
    residual = rest[4] if ctx.joined else None
    dxs, dgamma, dbeta, dresidual = torch.ops.drivetrain.bn_relu_backward(da, xs, *rest[:4], residual, ctx.relu)
    return dxs, dgamma, dbeta, None, None, dresidual if ctx.joined else None, None


def _keep_bn_relu_conv(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    xs, gamma, beta, mean, inv, weight, *ctx.shape, _ = inputs
    ctx.count = len(xs)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(*xs, gamma, beta, mean, inv, weight)


def _bn_relu_conv_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    xs, rest = list(saved[: ctx.count]), saved[ctx.count :]
    dxs, dgamma, dbeta, dweight = torch.ops.drivetrain.bn_relu_conv_backward(dy, xs, *rest, *ctx.shape)
    return dxs, dgamma, dbeta, None, None, dweight, None, None, None, None, None


def _refuse_second(name: str) -> Any:
    def refuse(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"graph: drivetrain::{name} has no second derivative; leave the model unpatched for double backward"
        )

    return refuse


bn_relu.register_autograd(_bn_relu_gradients, setup_context=_keep_bn_relu)
bn_relu_conv.register_autograd(_bn_relu_conv_gradients, setup_context=_keep_bn_relu_conv)
bn_relu_backward.register_autograd(_refuse_second("bn_relu"))
bn_relu_conv_backward.register_autograd(_refuse_second("bn_relu_conv"))
