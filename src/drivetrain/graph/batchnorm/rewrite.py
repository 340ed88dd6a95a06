"""The rewrite of a model's trace: fused calls for its edges, concatenations that are not copied (spec 19, 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx, nn

from drivetrain.base.errors import unknown_name

from .feature import as_feature, join, plain
from .modules import bn_relu, bn_relu_conv, bn_relu_sum, conv_of_sum, conv_stats
from .plan import BNPlan, Match, concat_parts, is_product, match, plain_conv, sums_made_again, trace, virtual_concats

LEVELS = ("auto", "stats_reuse", "rcf", "mvf", "bnff")

# What asks a feature only for what a tensor has, or is one of ours.
_AWARE = (bn_relu, bn_relu_conv, bn_relu_sum, conv_of_sum, conv_stats, join, as_feature, plain)


def restructure(
    model: nn.Module, *, level: str = "auto", keep: frozenset[str] | None = None, reference: bool = False
) -> tuple[fx.GraphModule, BNPlan]:
    """A module that computes what the model computes, restructured; parameters and submodules are the model's own.

    Args:
        model: any model that torch.fx can trace; not changed.
        level: "stats_reuse" (statistics of a feature once, whoever reads it), "rcf" (normalise and ReLU in one sweep),
            "mvf" (rcf, and mean and variance in one sweep), "bnff" (all of these, statistics in the convolution in
            front, normalise in the one behind); "auto" is "bnff" here, where nothing is measured.
        keep: names of the batch norms that may be changed; None for all.
        reference: run the torch version of the sweeps where the native one can't (other dtypes and devices).

    Raises:
        InvalidValue: the model can't be traced; no such level.
    """
    level = "bnff" if check_level(level) == "auto" else level
    traced = trace(model)
    matches = [_chosen(found, level, keep) for found in match(traced)]
    graph = traced.graph
    shared = level in ("stats_reuse", "bnff")
    features: set[fx.Node] = set()
    if shared:
        virtual = virtual_concats(traced, matches)
        for concat in [node for node in graph.nodes if node in virtual]:
            features.add(_replace(graph, concat, join, (concat_parts(concat),)))
    sums = sums_made_again(traced, matches) if level == "bnff" else {}
    fused_convs = {found.conv for found in matches if found.edge.applied}
    for found in matches if level == "bnff" else ():
        source = found.bn.args[0]
        if found.edge.applied and source not in fused_convs and is_product(source, traced):
            features.add(_with_statistics(graph, found, reference))
    for found in matches:
        if found.edge.applied and found.last in sums:
            features.add(_make_again(traced, found, reference, sums[found.last]))
        elif found.edge.applied:
            features.update(_fuse(graph, found, level, reference))
    if shared:
        _share(graph, features)
    for node in list(graph.nodes):
        if node in features:
            _make_plain(graph, node)
    graph.eliminate_dead_code()
    graph.lint()
    traced.recompile()
    return traced, BNPlan([found.edge for found in matches], level)


def check_level(level: str) -> str:
    """The level itself.

    Raises:
        InvalidValue: there is none of this name (names the nearest).
    """
    if level not in LEVELS:
        raise unknown_name("graph: level", level, LEVELS)
    return level


def _chosen(found: Match, level: str, keep: frozenset[str] | None) -> Match:
    """The match as this level takes it: without its convolution, without its ReLU, or not at all."""
    edge = found.edge
    if not edge.applied:
        return found
    if keep is not None and edge.bn not in keep:
        return replace(found, edge=replace(edge, applied=False, reason="measured: the fused form is no faster here"))
    if level == "bnff":
        return found
    if level == "stats_reuse":
        edge = replace(edge, reason="statistics shared, normalise in one sweep")
        return Match(edge, found.bn, found.bn, None, None)
    if found.conv is not None:
        edge = replace(edge, reason="normalise and ReLU in one sweep")
    return replace(found, edge=edge, conv=None)


def _fuse(graph: fx.Graph, found: Match, level: str, reference: bool) -> list[fx.Node]:
    """Put the fused call in place of an edge; returns the new node if it gives a feature."""
    source = found.bn.args[0]
    with graph.inserting_before(found.conv or found.last):
        bn = graph.get_attr(str(found.bn.target))
        if found.conv is not None:
            conv = graph.get_attr(str(found.conv.target))
    if found.conv is not None:
        wanted = any(
            user.target in (join, bn_relu, bn_relu_sum, bn_relu_conv) or _is_bn(user) for user in found.conv.users
        )
        return [_replace(graph, found.conv, bn_relu_conv, (bn, conv, source, wanted, reference))]
    relu = found.last is not found.bn
    _replace(graph, found.last, bn_relu, (bn, source, _residual(found), relu, reference, level != "rcf"))
    return []


def _make_again(traced: fx.GraphModule, found: Match, reference: bool, bits_only: bool) -> fx.Node:
    """A sum that knows how it is made, read by convolutions that keep that instead."""
    graph, modules = traced.graph, dict(traced.named_modules())
    for reader in list(found.last.users):
        if plain_conv(reader, modules) is not None:
            with graph.inserting_before(reader):
                conv = graph.get_attr(str(reader.target))
            _replace(graph, reader, conv_of_sum, (conv, found.last))
    with graph.inserting_before(found.last):
        bn = graph.get_attr(str(found.bn.target))
    return _replace(graph, found.last, bn_relu_sum, (bn, found.bn.args[0], _residual(found), reference, bits_only))


def _residual(found: Match) -> fx.Node | None:
    """What is added to a batch norm's result, as the graph has it by now: another sum may have been replaced."""
    if found.residual is None:
        return None
    total = found.last.args[0]
    assert isinstance(total, fx.Node)
    return next(node for node in total.all_input_nodes if node is not found.bn)


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
    return (user.target in (bn_relu, bn_relu_sum) and user.args[1] is node) or (
        user.target is bn_relu_conv and user.args[2] is node
    )


def _make_plain(graph: fx.Graph, node: fx.Node) -> None:
    """Whoever knows nothing of features gets the tensor."""
    others = [user for user in node.users if user.target not in _AWARE]
    if not others:
        return
    with graph.inserting_after(node):
        tensor = graph.call_function(plain, (node,))
    for user in others:
        user.replace_input_with(node, tensor)
