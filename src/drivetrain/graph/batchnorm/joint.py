"""The pass behind `torch.compile(model, backend="drivetrain", options={"bn": "auto"})` (spec 19, 2 and 4).

It rewrites the joint graph, forward and backward at once, before the partitioner decides what is kept between them: the
normalised and the activated feature are then in neither graph, so the input of each batch norm is all that is saved.

    _native_batch_norm_legit_functional -> relu -> convolution          bn_stats, bn_relu_conv
    convolution_backward -> threshold_backward -> native_batch_norm_backward         bn_relu_conv_backward
    ... -> (add) -> relu; threshold_backward -> native_batch_norm_backward           bn_relu, bn_relu_backward
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import unknown_name
from drivetrain.graph.passes import PassContext

from . import ops  # noqa: F401  (registers the operators)
from .choose import Chooser

LEVELS = ("auto", "always", "stats_reuse", "rcf", "mvf", "bnff")
_aten = torch.ops.aten
_ours = torch.ops.drivetrain


@dataclass(frozen=True)
class Found:
    """The nodes of one batch norm and its ReLU in a joint graph; `conv` and `conv_backward` where they fuse, too."""

    bn: fx.Node
    relu: fx.Node
    threshold: fx.Node
    bn_backward: fx.Node
    residual: fx.Node | None = None
    conv: fx.Node | None = None
    conv_backward: fx.Node | None = None


def batchnorm_pass(module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext) -> fx.GraphModule:
    """Restructure the batch norms of a joint graph where that is measured to be faster.

    Raises:
        InvalidValue: the option bn is not "auto", a level ("bnff", also called "always"), False or "off".
    """
    level = context.options.get("bn")
    level = "auto" if level is True else "bnff" if level == "always" else level
    if level not in LEVELS:
        raise unknown_name("graph: option bn", str(level), LEVELS)
    chooser = Chooser()
    rewrite = Rewrite(module.graph, level)
    for node in list(module.graph.nodes):
        if node.target is _aten._native_batch_norm_legit_functional.default:
            found = find(node)
            if found is not None and (level != "auto" or chooser.faster(found, rewrite.knows(node.args[0]))):
                rewrite.fuse(found)
    chooser.save()
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def find(bn: fx.Node) -> Found | None:
    """What surrounds a training batch norm, or None where it can't be fused exactly."""
    x, weight, bias, mean, _, training, momentum, _ = bn.args
    value = _value(x)
    if training is not True or None in (weight, bias, mean) or not isinstance(momentum, float):
        return None
    dense = value.dim() == 4 and (value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last))
    fits = dense and value.dtype == torch.float32 and value.device.type == "cpu"
    count = value.numel() // max(int(value.shape[1]), 1) if fits else 0
    if not fits or not isinstance(count, int) or count < 2:
        return None
    y = _item(bn, 0)
    user = _sole(y)
    residual: Any = None
    if user is not None and user.target is _aten.add.Tensor and len(user.args) == 2:
        residual = next((arg for arg in user.args if arg is not y), None)
        if not isinstance(residual, fx.Node) or _value(residual).shape != value.shape:
            return None
        user = _sole(user)
    if user is None or user.target is not _aten.relu.default:
        return None
    threshold = next((node for node in _readers(user) if node.target is _aten.threshold_backward.default), None)
    if threshold is None or threshold.args[2] != 0:
        return None
    backward = [node for node in threshold.users if _is_backward_of(node, bn, threshold)]
    if len(backward) != 1 or (residual is None and len(threshold.users) != 1):
        return None
    conv, conv_backward = (None, None) if residual is not None else _convolution(user, threshold)
    return Found(bn, user, threshold, backward[0], residual, conv, conv_backward)


def _convolution(relu: fx.Node, threshold: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The convolution that alone reads the ReLU, with its backward; (None, None) if there is another reader."""
    readers = [node for node in _readers(relu) if node is not threshold]
    forward = [node for node in readers if node.target is _aten.convolution.default]
    backward = [node for node in readers if node.target is _aten.convolution_backward.default]
    if len(readers) != 2 or len(forward) != 1 or len(backward) != 1:
        return None, None
    conv, conv_backward = forward[0], backward[0]
    _, a, weight, bias, *_, transposed, _, _ = (None, *conv.args)
    plain = a is relu and bias is None and transposed is False and _same_layout(_value(conv), _value(relu))
    same = conv_backward.args[1] is relu and conv_backward.args[2] is weight
    above = threshold.args[0]
    mine = isinstance(above, fx.Node) and above.target is operator.getitem and above.args == (conv_backward, 0)
    if not (plain and same and mine and len(above.users) == 1 and conv_backward.args[-1] == [True, True, False]):  # type: ignore[union-attr]
        return None, None
    return conv, conv_backward


def _same_layout(y: Tensor, a: Tensor) -> bool:
    """Whether the convolution writes in the layout that it reads, as the fused operator does."""
    layout = torch.contiguous_format if a.is_contiguous() else torch.channels_last
    return y.is_contiguous(memory_format=layout)


def _is_backward_of(node: fx.Node, bn: fx.Node, grad: fx.Node) -> bool:
    return (
        node.target is _aten.native_batch_norm_backward.default and node.args[0] is grad and node.args[1] is bn.args[0]
        and node.args[5] is _item(bn, 1)
    )  # fmt: skip


class Rewrite:
    """Puts fused operators into a joint graph, as far as the level says (rewrite.restructure)."""

    def __init__(self, graph: fx.Graph, level: str = "bnff") -> None:
        self.graph, self.level = graph, level
        self.moments: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
        values = (node.meta.get("val") for node in graph.nodes)
        self.mode = next(value.fake_mode for value in values if hasattr(value, "fake_mode"))

    def emit(self, target: Any, *args: Any, like: fx.Node) -> fx.Node:
        """A new call at the insertion point, with what it computes; tags are those of `like`."""
        node = self.graph.call_function(target, args)
        node.meta = {key: value for key, value in like.meta.items() if key not in ("val", "tensor_meta")}
        with self.mode, torch.no_grad():
            node.meta["val"] = target(*fx.node.map_arg(args, lambda arg: arg.meta["val"]))
        return node

    def fuse(self, found: Found) -> None:
        """Forward and backward of one batch norm."""
        if self.level not in ("auto", "bnff"):
            found = replace(found, conv=None, conv_backward=None)
        if self.level == "stats_reuse":
            return self._share(found)
        bn = found.bn
        gamma, beta = bn.args[1], bn.args[2]
        mean, inv = self._statistics(bn)
        x = bn.args[0]
        forward = found.conv or found.relu
        kept: Any = None
        with self.graph.inserting_before(forward):
            if found.conv is not None:
                shape = _shape_of(found.conv)
                made = self.emit(
                    _ours.bn_relu_conv.default, [x], gamma, beta, mean, inv, found.conv.args[1], *shape,
                    _feeds_bn(found.conv), like=forward,
                )  # fmt: skip
                result = self.emit(operator.getitem, made, 0, like=forward)
                if _feeds_bn(found.conv):
                    pair = [self.emit(operator.getitem, made, index, like=forward) for index in (1, 2)]
                    self.moments[result] = (pair[0], pair[1])
            else:
                made = self.emit(_ours.bn_relu.default, [x], gamma, beta, mean, inv, found.residual, True, like=forward)
                result = self.emit(operator.getitem, made, 0, like=forward)
                mask = self.emit(operator.getitem, made, 1, like=forward)
                kept = mask if _value(mask).numel() else found.residual
        forward.replace_all_uses_with(result)
        self._backward(found, x, [gamma, beta, mean, inv], kept)

    def knows(self, x: Any) -> bool:
        """Whether the statistics of a feature are there already, from the convolution that wrote it or another BN."""
        if x.target is _aten.cat.default and len(x.args) > 1 and x.args[1] == 1:
            return all(self.knows(part) for part in x.args[0])
        return x in self.moments

    def _backward(self, found: Found, x: Any, vectors: list[Any], kept: Any) -> None:
        """`kept`: what tells the mask of a joined ReLU, its bits or the residual."""
        first = found.conv_backward or found.threshold
        with self.graph.inserting_before(first):
            if found.conv_backward is not None and found.conv is not None:
                call = _ours.bn_relu_conv_backward.default
                arguments = [first.args[0], [x], *vectors, found.conv.args[1], *_shape_of(found.conv)]
            else:
                call = _ours.bn_relu_backward.default
                arguments = [first.args[0], [x], *vectors, kept, True]
            made = self.emit(call, *arguments, like=first)
            dx, dgamma, dbeta, last = [self.emit(operator.getitem, made, index, like=first) for index in range(4)]
            dx = self.emit(operator.getitem, dx, 0, like=first)
        for index, value in enumerate((dx, dgamma, dbeta)):
            _item(found.bn_backward, index).replace_all_uses_with(value)
        if found.conv_backward is not None:
            _item(found.conv_backward, 1).replace_all_uses_with(last)
        elif found.residual is not None:
            found.threshold.replace_all_uses_with(last, delete_user_cb=lambda user: user is not found.bn_backward)

    def _statistics(self, bn: fx.Node) -> tuple[fx.Node, fx.Node]:
        """mean and inv in float64 for a batch norm; its saved and running statistics follow from them."""
        arguments: Any = bn.args
        x, _, _, running_mean, running_var, _, momentum, eps = arguments
        value = _value(x)
        count = value.numel() // value.shape[1]
        with self.graph.inserting_before(bn):
            mean, m2 = self._moments(x, bn)
            variance = self.emit(_aten.div.Tensor, m2, count, like=bn)
            moved = self.emit(_aten.add.Tensor, variance, eps, like=bn)
            inv = self.emit(_aten.rsqrt.default, moved, like=bn)
            unbiased = self.emit(_aten.div.Tensor, m2, count - 1, like=bn)
            saved = [self._single(mean, bn), self._single(inv, bn)]
            for running, new in ((running_mean, mean), (running_var, unbiased)):
                kept = self.emit(_aten.mul.Tensor, running, 1 - momentum, like=bn)
                step = self.emit(_aten.mul.Tensor, self._single(new, bn), momentum, like=bn)
                saved.append(self.emit(_aten.add.Tensor, kept, step, like=bn))
        for index, node in enumerate(saved, start=1):
            _item(bn, index).replace_all_uses_with(node)
        return mean, inv

    def _single(self, node: fx.Node, like: fx.Node) -> fx.Node:
        return self.emit(torch.ops.prims.convert_element_type.default, node, torch.float32, like=like)

    def _moments(self, x: Any, like: fx.Node) -> tuple[fx.Node, fx.Node]:
        if self.level == "rcf":
            mean, variance = (
                self.emit(torch.ops.prims.convert_element_type.default, value, torch.float64, like=like)
                for value in self._torchs_statistics(x, like)
            )
            count = _value(x).numel() // _value(x).shape[1]
            return mean, self.emit(_aten.mul.Tensor, variance, count, like=like)
        if self.level == "mvf":
            made = self.emit(_ours.bn_stats.default, [x], like=like)
            return self.emit(operator.getitem, made, 0, like=like), self.emit(operator.getitem, made, 1, like=like)
        if x not in self.moments:
            if x.target is _aten.cat.default and len(x.args) > 1 and x.args[1] == 1:
                parts = [self._moments(part, like) for part in x.args[0]]
                pair = [self.emit(_aten.cat.default, [part[i] for part in parts], like=like) for i in (0, 1)]
            else:
                made = self.emit(_ours.bn_stats.default, [x], like=like)
                pair = [self.emit(operator.getitem, made, i, like=like) for i in (0, 1)]
            self.moments[x] = (pair[0], pair[1])
        return self.moments[x]

    def _torchs_statistics(self, x: Any, like: fx.Node) -> list[fx.Node]:
        made = self.emit(_aten.batch_norm_update_stats.default, x, None, None, 0.0, like=like)
        return [self.emit(operator.getitem, made, index, like=like) for index in (0, 1)]

    def _share(self, found: Found) -> None:
        """Level "stats_reuse": the batch norm in one sweep on shared statistics; its ReLU stays."""
        bn = found.bn
        mean, inv = self._statistics(bn)
        vectors = [bn.args[1], bn.args[2], mean, inv]
        with self.graph.inserting_before(bn):
            made = self.emit(_ours.bn_relu.default, [bn.args[0]], *vectors, None, False, like=bn)
            y = self.emit(operator.getitem, made, 0, like=bn)
        _item(bn, 0).replace_all_uses_with(y)
        with self.graph.inserting_before(found.bn_backward):
            arguments = [found.bn_backward.args[0], [bn.args[0]], *vectors, None, False]
            made = self.emit(_ours.bn_relu_backward.default, *arguments, like=found.bn_backward)
            dx, dgamma, dbeta = [self.emit(operator.getitem, made, i, like=found.bn_backward) for i in range(3)]
            dx = self.emit(operator.getitem, dx, 0, like=found.bn_backward)
        for index, value in enumerate((dx, dgamma, dbeta)):
            _item(found.bn_backward, index).replace_all_uses_with(value)


def _shape_of(conv: fx.Node) -> list[Any]:
    """Stride, padding, dilation and groups."""
    return [*conv.args[3:6], conv.args[8]]


def _feeds_bn(node: fx.Node) -> bool:
    """Whether a batch norm reads this, itself or through concatenations."""
    return any(
        user.target is _aten._native_batch_norm_legit_functional.default
        or (user.target is _aten.cat.default and _feeds_bn(user))
        for user in node.users
    )


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a value, looking through detach."""
    found: list[fx.Node] = []
    for user in node.users:
        found += _readers(user) if user.target is _aten.detach.default else [user]
    return found


def _item(node: fx.Node, index: int) -> Any:
    """The node that takes a member out of a tuple; a detached one with no users where nobody does."""
    return next((user for user in node.users if user.target is operator.getitem and user.args[1] == index), _Nobody())


class _Nobody:
    """Stands for a member that nobody reads."""

    users: dict[fx.Node, None] = {}  # noqa: RUF012

    def replace_all_uses_with(self, node: fx.Node) -> None:
        """There is nothing to replace."""


def _sole(node: Any) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _value(node: Any) -> Tensor:
    value: Tensor = node.meta["val"]
    return value
