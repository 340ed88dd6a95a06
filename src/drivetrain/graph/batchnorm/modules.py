"""Batch norm, ReLU and convolution in one call, for modules as they are: same parameters, same state_dict keys.

    patch_(model)                       # every batch norm of a traceable model, in place; unpatch_(model) undoes it
    layer = BNReLUConv2d(bn, conv)      # one of them, by hand

In eval mode, under autocast, under vmap or another functional transform, and for inputs that the kernels can't take
(other dtypes and devices), the model's own modules run: nothing changes there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import again, conv1x1, direct, layout, ops
from .feature import Feature, as_feature, plain
from .statistics import check_count, update_running
from .synchronised import is_synchronised, synchronised_bn_relu


class BNReLUConv2d(nn.Module):
    """conv(relu(bn(x))), fused in training mode.

    Args:
        bn, conv: the modules; the state_dict has their keys under "bn." and "conv.".
        reference: take the torch version of the sweeps where the native ones can't run, instead of the modules.

    `forward` maps [N, C, H, W] to the convolution's result.
    """

    def __init__(self, bn: nn.BatchNorm2d, conv: nn.Conv2d, reference: bool = False) -> None:
        super().__init__()
        self.bn, self.conv, self.reference = bn, conv, reference

    def forward(self, x: Tensor) -> Tensor:
        return plain(bn_relu_conv(self.bn, self.conv, x, want_stats=False, reference=self.reference))


def bn_relu_conv(
    bn: nn.BatchNorm2d, conv: nn.Conv2d, x: Tensor | Feature, want_stats: bool = True, reference: bool = False
) -> Feature:
    """conv(relu(bn(x))); x is neither copied together nor, activated, written out where the convolution is 1x1."""
    feature = as_feature(x)
    if not _fusible(bn, feature, reference):
        return as_feature(conv(torch.relu(bn(feature.tensor()))))
    if is_synchronised(bn):
        return as_feature(conv(bn_relu(bn, feature, reference=reference)))
    gamma, beta, mean, inv = _prepare(bn, feature)
    y, y_mean, y_m2 = direct.bn_relu_conv(
        feature.parts, gamma, beta, mean, inv, conv.weight, list(conv.stride), list(conv.padding),
        list(conv.dilation), conv.groups, want_stats,
    )  # fmt: skip
    if conv.bias is not None:
        y, y_mean = y + conv.bias.view(1, -1, 1, 1), y_mean + conv.bias.detach().double() if want_stats else y_mean
    return Feature([y], [(y_mean, y_m2) if want_stats else None])


def conv_stats(bn: nn.BatchNorm2d, conv: nn.Conv2d, x: Tensor | Feature, reference: bool = False) -> Feature:
    """A 1x1 convolution in front of a batch norm: it leaves the statistics with its result."""
    feature = as_feature(x)
    same = conv.weight.dtype == feature.parts[0].dtype and conv.in_channels == feature.shape[1]
    if not same or not _fusible(bn, feature, reference):
        return as_feature(conv(feature.tensor()))
    if feature.recipe is not None:
        y, mean, m2 = again.conv1x1_stats(feature.tensor(), feature.recipe, conv.weight)
    else:
        y, mean, m2 = conv1x1.conv1x1_stats(feature.tensor(), conv.weight)
    return Feature([y], [(mean, m2)])


def conv_of_sum(conv: nn.Conv2d, x: Tensor | Feature) -> Tensor:
    """conv(x), which keeps how x is made instead of x, if x says how."""
    feature = as_feature(x)
    value, recipe = feature.tensor(), feature.recipe
    if recipe is None or conv.weight.dtype != value.dtype or conv.in_channels != value.shape[1]:
        return conv(value)
    assert not isinstance(conv.padding, str)
    return again.conv2d(
        value, recipe, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )  # fmt: skip


def bn_relu(
    bn: nn.BatchNorm2d, x: Tensor | Feature, residual: Tensor | Feature | None = None, relu: bool = True,
    reference: bool = False, own_statistics: bool = True,
) -> Tensor:  # fmt: skip
    """relu(bn(x) + residual), or bn(x) + residual; without own_statistics by torch's two sweeps (level "rcf")."""
    feature = as_feature(x)
    if not own_statistics and feature.moments[0] is None and feature.shape[0] * feature.shape[2] * feature.shape[3] > 1:
        value = feature.tensor().detach()
        mean, variance = torch.ops.aten.batch_norm_update_stats(value, None, None, 0.0)
        moments = (mean.double(), variance.double() * (value.numel() // value.shape[1]))
        feature = Feature([feature.tensor()], [moments])
    added = None if residual is None else plain(residual)
    if not (added is None or _alike(added, feature)) or not _fusible(bn, feature, reference):
        z = bn(feature.tensor())
        z = z if added is None else z + added
        return torch.relu(z) if relu else z
    if is_synchronised(bn):
        count = _count(bn, feature)
        return synchronised_bn_relu(bn, feature.parts, count, feature.statistics(), added, relu)
    made: Tensor = ops.bn_relu(feature.parts, *_prepare(bn, feature), added, relu)[0]
    return made


def bn_relu_sum(
    bn: nn.BatchNorm2d, x: Tensor | Feature, residual: Tensor | Feature, reference: bool, bits_only: bool
) -> Feature:
    """relu(bn(x) + residual) that knows how it is made; bits_only: if its mask, and so that of the next, is bits."""
    feature, added = as_feature(x), plain(residual)
    fused = _alike(added, feature) and _fusible(bn, feature, reference) and not is_synchronised(bn)
    if not fused or direct.watched([*feature.parts, added]):
        return as_feature(bn_relu(bn, feature, added, reference=reference))
    vectors = _prepare(bn, feature)
    a, mask = ops.bn_relu(feature.parts, *vectors, added, True)
    if not a.requires_grad or (bits_only and mask.numel() == 0):
        return Feature([a], [None])
    return Feature([a], [None], again.Recipe(feature.parts, vectors, added))


def _alike(residual: Tensor, feature: Feature) -> bool:
    return tuple(residual.shape) == feature.shape and residual.dtype == feature.parts[0].dtype


def _fusible(bn: nn.BatchNorm2d, feature: Feature, reference: bool) -> bool:
    """Whether the fused form says the same as the modules, and is the faster one."""
    if not bn.training or len({part.dtype for part in feature.parts}) != 1:
        return False
    if torch.is_autocast_enabled(feature.parts[0].device.type) or _transformed():
        return False
    # torch.compile of a patched model: the kernel is asked when the operator runs.
    return reference or torch.compiler.is_compiling() or layout.native(feature.parts) is not None


def _transformed() -> bool:
    """Inside vmap, torch.func.grad and their kin the fused operators have no rules."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _count(bn: nn.BatchNorm2d, feature: Feature) -> int:
    n, channels, h, w = feature.shape
    if channels != bn.num_features:
        raise ValueError(f"running_mean should contain {channels} elements not {bn.num_features}")
    return n * h * w


def _prepare(bn: nn.BatchNorm2d, feature: Feature) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gamma, beta, and the mini-batch's mean and 1 / sqrt(variance + eps); the running statistics are updated."""
    _count(bn, feature)
    count = check_count(feature.shape)
    mean, m2 = feature.statistics()
    update_running(bn, count, mean, m2)
    inv = (m2 / count + bn.eps).rsqrt()
    x = feature.parts[0]
    gamma = x.new_ones(bn.num_features) if bn.weight is None else bn.weight
    beta = x.new_zeros(bn.num_features) if bn.bias is None else bn.bias
    return gamma, beta, mean, inv
