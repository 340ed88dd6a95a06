"""The rewrite of a model's trace: fused calls for its edges, concatenations that are not copied (spec 19, 2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import fx, nn

from drivetrain.base.errors import InvalidValue

from .feature import as_feature, join, plain
from .modules import bn_relu, bn_relu_conv, conv_stats
from .plan import Edge, Match, concat_parts, is_product, match, trace, virtual_concats

# What asks a feature only for what a tensor has, or is one of ours.
_AWARE = (bn_relu, bn_relu_conv, conv_stats, join, as_feature, plain)


def restructure(model: nn.Module, *, reference: bool = False) -> tuple[fx.GraphModule, list[Edge]]:
    """A module that computes what the model computes, restructured; parameters and submodules are the model's own.

    Args:
        model: any model that torch.fx can trace; not changed.
        reference: run the torch version of the sweeps where the native one can't (other dtypes and devices).

    Raises:
        InvalidValue: the model can't be traced.
    """
    traced = trace(model)
    matches = match(traced)
    graph = traced.graph
    virtual = virtual_concats(traced, matches)
    features: set[fx.Node] = set()
    for concat in [node for node in graph.nodes if node in virtual]:
        features.add(_replace(graph, concat, join, (concat_parts(concat),)))
    fused_convs = {found.conv for found in matches if found.edge.applied}
    for found in matches:
        source = found.bn.args[0]
        if found.edge.applied and source not in fused_convs and is_product(source, traced):
            features.add(_with_statistics(graph, found, reference))
    for found in matches:
        if found.edge.applied:
            features.update(_fuse(graph, found, reference))
    _share(graph, features)
    for node in list(graph.nodes):
        if node in features:
            _make_plain(graph, node)
    graph.eliminate_dead_code()
    graph.lint()
    traced.recompile()
    return traced, [found.edge for found in matches]


def patch_(model: nn.Module, *, reference: bool = False) -> list[Edge]:
    """Restructure a model in place: its forward is replaced, its modules, parameters and state_dict keys stay.

    Raises:
        InvalidValue: the model can't be traced, or is patched already.
    """
    if _patched(model):
        raise InvalidValue(f"graph: this {type(model).__name__} is patched already", hint="unpatch_(model) first")
    rewritten, edges = restructure(model, reference=reference)
    model.__dict__["forward"] = PatchedForward(model, reference, type(rewritten).forward)
    return edges


def unpatch_(model: nn.Module) -> nn.Module:
    """Give a model its own forward back.

    Raises:
        InvalidValue: it is not patched.
    """
    if not _patched(model):
        raise InvalidValue(f"graph: this {type(model).__name__} is not patched")
    del model.__dict__["forward"]
    return model


class PatchedForward:
    """The forward of a patched model. A deep copy, or what is read from a file, makes its own at its first call."""

    def __init__(self, model: nn.Module, reference: bool, function: Callable[..., Any] | None = None) -> None:
        self.model, self.reference, self.function = model, reference, function
        self.__signature__ = inspect.signature(MethodType(type(model).forward, model))
        self.__code__ = type(model).forward.__code__  # torch.export reads names of arguments there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            self.function = type(restructure(self.model, reference=self.reference)[0]).forward
        return self.function(self.model, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchedForward, (self.model, self.reference)


def _patched(model: nn.Module) -> bool:
    return isinstance(model.__dict__.get("forward"), PatchedForward)


def _fuse(graph: fx.Graph, found: Match, reference: bool) -> list[fx.Node]:
    """Put the fused call in place of an edge; returns the new node if it gives a feature."""
    source = found.bn.args[0]
    with graph.inserting_before(found.conv or found.last):
        bn = graph.get_attr(str(found.bn.target))
        if found.conv is not None:
            conv = graph.get_attr(str(found.conv.target))
    if found.conv is not None:
        wanted = any(user.target in (join, bn_relu, bn_relu_conv) or _is_bn(user) for user in found.conv.users)
        return [_replace(graph, found.conv, bn_relu_conv, (bn, conv, source, wanted, reference))]
    relu = found.last is not found.bn
    _replace(graph, found.last, bn_relu, (bn, source, found.residual, relu, reference))
    return []


def _with_statistics(graph: fx.Graph, found: Match, reference: bool) -> fx.Node:
    """The 1x1 convolution in front of a BN leaves its statistics."""
    conv = found.bn.args[0]
    assert isinstance(conv, fx.Node)
    with graph.inserting_before(conv):
        modules = [graph.get_attr(str(node.target)) for node in (found.bn, conv)]
    return _replace(graph, conv, conv_stats, (*modules, conv.args[0], reference))


def _is_bn(node: fx.Node) -> bool:
    owner = node.graph.owning_module
    return node.op == "call_module" and owner is not None and isinstance(
        owner.get_submodule(str(node.target)), nn.modules.batchnorm._BatchNorm
    )  # fmt: skip


def _replace(graph: fx.Graph, node: fx.Node, call: Any, arguments: tuple[Any, ...]) -> fx.Node:
    with graph.inserting_before(node):
        made = graph.call_function(call, arguments)
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    return made


def _share(graph: fx.Graph, features: set[fx.Node]) -> None:
    """A tensor that several fused calls read becomes a feature once, so that it is swept once."""
    for node in list(graph.nodes):
        if node in features or node.op == "get_attr":
            continue
        # The residual operand needs no statistics.
        readers = [user for user in node.users if _reads_feature(user, node)]
        if not readers:
            continue
        with graph.inserting_after(node):
            shared = graph.call_function(as_feature, (node,))
        for user in readers:
            user.args = _exchanged(user.args, node, shared)
        shared.args = (node,)
        features.add(shared)


def _exchanged(arguments: Any, old: fx.Node, new: fx.Node) -> Any:
    return fx.node.map_arg(arguments, lambda arg: new if arg is old else arg)


def _reads_feature(user: fx.Node, node: fx.Node) -> bool:
    if user.target is join:
        return True
    return (user.target is bn_relu and user.args[1] is node) or (user.target is bn_relu_conv and user.args[2] is node)


def _make_plain(graph: fx.Graph, node: fx.Node) -> None:
    """Whoever knows nothing of features gets the tensor."""
    others = [user for user in node.users if user.target not in _AWARE]
    if not others:
        return
    with graph.inserting_after(node):
        tensor = graph.call_function(plain, (node,))
    for user in others:
        user.replace_input_with(node, tensor)
