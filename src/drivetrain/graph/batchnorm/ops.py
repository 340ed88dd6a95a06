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

from . import kernel, reference
from .statistics import batch_statistics


def scale_and_shift(
    gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """s = gamma inv and t = beta - mean s: all that normalising needs, rounded once."""
    s = (gamma.double() * inv.double()).to(dtype)
    return s, (beta.double() - mean.double() * s.double()).to(dtype)


def _sweeps(xs: Sequence[Tensor]) -> Any:
    return kernel if kernel.fits(xs) else reference


def _vectors(xs: Sequence[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor) -> list[Tensor]:
    dtype = xs[0].dtype
    s, t = scale_and_shift(gamma, beta, mean, inv, dtype)
    return [s, t, mean.to(dtype), inv.to(dtype)]


def _tiled(xs: Sequence[Tensor], weight: Tensor, stride: Sequence[int], padding: Sequence[int], groups: int) -> bool:
    """Whether a convolution is a matrix product over the parts that the kernel can do tile by tile."""
    return (
        tuple(weight.shape[2:]) == (1, 1) and set(stride) == {1} and set(padding) == {0} and groups == 1
        and weight.dtype == torch.float32 and kernel.fits(xs) and kernel.has_gemm()
    )  # fmt: skip


def _joined_empty(xs: Sequence[Tensor]) -> Tensor:
    n, _, h, w = xs[0].shape
    return xs[0].new_empty((n, sum(x.shape[1] for x in xs), h, w))


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
) -> Tensor:
    """relu(gamma (x - mean) inv + beta + residual) in one sweep; mean and inv are the mini-batch's own."""
    s, t, _, _ = _vectors(xs, gamma, beta, mean, inv)
    return _fresh(_sweeps(xs).apply(xs, s, t, residual, relu))


@bn_relu.register_fake
def _(xs, gamma, beta, mean, inv, residual, relu):  # type: ignore[no-untyped-def]
    return _joined_empty(xs)


@torch.library.custom_op("drivetrain::bn_relu_backward", mutates_args=())
def bn_relu_backward(
    da: Tensor, xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, residual: Tensor | None,
    relu: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of xs, gamma, beta and the residual (empty without one)."""
    vectors = _vectors(xs, gamma, beta, mean, inv)
    dxs, dgamma, dbeta, dresidual = _sweeps(xs).backward(xs, *vectors, residual, relu, da)
    return [_fresh(dx) for dx in dxs], dgamma.to(gamma.dtype), dbeta.to(beta.dtype), dresidual


@bn_relu_backward.register_fake
def _(da, xs, gamma, beta, mean, inv, residual, relu):  # type: ignore[no-untyped-def]
    rest = da.new_empty(0) if residual is None else da.new_empty(da.shape)
    return [x.new_empty(x.shape) for x in xs], torch.empty_like(gamma), torch.empty_like(beta), rest


@torch.library.custom_op("drivetrain::bn_relu_conv", mutates_args=())
def bn_relu_conv(
    xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, stride: list[int],
    padding: list[int], dilation: list[int], groups: int, want_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """conv(relu(batch_norm(x))), and mean and sum of squared differences of its channels (empty if unwanted)."""
    s, t, _, _ = _vectors(xs, gamma, beta, mean, inv)
    if _tiled(xs, weight, stride, padding, groups):
        return kernel.conv1x1(xs, s, t, weight, want_stats)
    a = _sweeps(xs).apply(xs, s, t, None, True)
    y = torch.nn.functional.conv2d(a, weight, None, stride, padding, dilation, groups)
    if want_stats:
        return y, *batch_statistics(y)
    none = y.new_empty(0, dtype=torch.float64)
    return y, none, none.clone()


@bn_relu_conv.register_fake
def _(xs, gamma, beta, mean, inv, weight, stride, padding, dilation, groups, want_stats):  # type: ignore[no-untyped-def]
    y = torch.nn.functional.conv2d(_joined_empty(xs), weight, None, stride, padding, dilation, groups)
    size = weight.shape[0] if want_stats else 0
    return y, y.new_empty(size, dtype=torch.float64), y.new_empty(size, dtype=torch.float64)


@torch.library.custom_op("drivetrain::bn_relu_conv_backward", mutates_args=())
def bn_relu_conv_backward(
    dy: Tensor, xs: list[Tensor], gamma: Tensor, beta: Tensor, mean: Tensor, inv: Tensor, weight: Tensor,
    stride: list[int], padding: list[int], dilation: list[int], groups: int,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of xs, gamma, beta and the weight; the activated feature is computed again."""
    s, t, mean_x, inv_x = _vectors(xs, gamma, beta, mean, inv)
    if _tiled(xs, weight, stride, padding, groups):
        dxs, dgamma, dbeta, dweight = kernel.conv1x1_backward(xs, s, t, mean_x, inv_x, weight, dy)
    else:
        sweeps = _sweeps(xs)
        a = sweeps.apply(xs, s, t, None, True)
        da, dweight, _ = torch.ops.aten.convolution_backward(
            dy, a, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, True, False]
        )
        del a
        dxs, dgamma, dbeta, _ = sweeps.backward(xs, s, t, mean_x, inv_x, None, True, da)
    return [_fresh(dx) for dx in dxs], dgamma.to(gamma.dtype), dbeta.to(beta.dtype), dweight


@bn_relu_conv_backward.register_fake
def _(dy, xs, gamma, beta, mean, inv, weight, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
    dxs = [x.new_empty(x.shape) for x in xs]
    return dxs, torch.empty_like(gamma), torch.empty_like(beta), weight.new_empty(weight.shape)


@torch.library.custom_op("drivetrain::conv1x1_stats", mutates_args=())
def conv1x1_stats(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A 1x1 convolution as a matrix product, with mean and m2 of its channels while they are in cache (F1)."""
    if _tiled([x], weight, (1, 1), (0, 0), 1):
        return kernel.conv1x1([x], None, None, weight, True)
    y = torch.nn.functional.conv2d(x, weight).contiguous()
    return y, *batch_statistics(y)


@conv1x1_stats.register_fake
def _(x, weight):  # type: ignore[no-untyped-def]
    n, _, h, w = x.shape
    moments = [x.new_empty(weight.shape[0], dtype=torch.float64) for _ in range(2)]
    return x.new_empty((n, weight.shape[0], h, w)), *moments


def _fresh(x: Tensor) -> Tensor:
    """An operator's results must lie in memory as its fake says: contiguous, no views."""
    return x.contiguous() if not x.is_contiguous() or x._is_view() else x


def _keep_bn_relu(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    xs, gamma, beta, mean, inv, residual, relu = inputs
    ctx.relu, ctx.count, ctx.joined = relu, len(xs), residual is not None
    ctx.save_for_backward(*xs, gamma, beta, mean, inv, *([residual] if residual is not None else []))


def _bn_relu_gradients(ctx: Any, da: Tensor) -> tuple[Any, ...]:
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


def _keep_conv1x1(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(*inputs)


def _conv1x1_gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    flat, matrix = dy.flatten(2), weight.flatten(1)
    needs_x, needs_weight = ctx.needs_input_grad
    dx = torch.matmul(matrix.t(), flat).view_as(x) if needs_x else None
    # A matrix for each image would be N times the weight: images are added up one by one.
    if not needs_weight:
        return dx, None
    dweight = torch.zeros_like(matrix)
    for image, grad in zip(x.flatten(2), flat, strict=True):
        dweight = torch.addmm(dweight, grad, image.t())
    return dx, dweight.view_as(weight)


def _refuse_second(name: str) -> Any:
    def refuse(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"graph: drivetrain::{name} has no second derivative; leave the model unpatched for double backward"
        )

    return refuse


bn_relu.register_autograd(_bn_relu_gradients, setup_context=_keep_bn_relu)
bn_relu_conv.register_autograd(_bn_relu_conv_gradients, setup_context=_keep_bn_relu_conv)
conv1x1_stats.register_autograd(_conv1x1_gradients, setup_context=_keep_conv1x1)
bn_relu_backward.register_autograd(_refuse_second("bn_relu"))
bn_relu_conv_backward.register_autograd(_refuse_second("bn_relu_conv"))
