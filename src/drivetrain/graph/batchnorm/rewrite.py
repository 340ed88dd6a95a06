"""The rewrite of a model's trace: fused calls for its edges, concatenations that are not copied (spec 19, 2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue, unknown_name

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


def patch_(model: nn.Module, *, example: Tensor | None = None, level: str = "auto", reference: bool = False) -> BNPlan:
    """Restructure a model in place: its forward is replaced, its modules, parameters and state_dict keys stay.

    With level "auto" nobody loses: training steps of the model as it is and of the fused forms, in the layout given and
    in channels_last, run in turn on copies, and the fastest is kept. That happens here if an example is given, else in
    the first training step, on its input (some ten steps' time, once). Another level is applied unmeasured.

    Args:
        model: any model that torch.fx can trace.
        example: an input as it will be trained with: layout and number of images matter. With it the weights may be
            brought into channels_last, too.
        level: see `restructure`.
        reference: run the torch version of the sweeps where the native one can't.

    Returns:
        The plan: a sequence of edges. Without an example it is filled in by the first training step.

    Raises:
        InvalidValue: the model can't be traced, or is patched already; no such level.
    """
    if is_patched(model):
        raise InvalidValue(f"graph: this {type(model).__name__} is patched already", hint="unpatch_(model) first")
    rewritten, plan = restructure(model, level=level, reference=reference)
    if level != "auto":
        model.__dict__["forward"] = PatchedForward(
            model, Form(plan.level, reference=reference), type(rewritten).forward
        )
        return plan
    plan.decided = False
    forward = PatchedForward(model, None, plan=plan, reference=reference)
    if example is not None:
        forward.decide((example,), weights=True)
    model.__dict__["forward"] = forward
    return plan


def unpatch_(model: nn.Module) -> nn.Module:
    """Give a model its own forward back.

    Raises:
        InvalidValue: it is not patched.
    """
    if not is_patched(model):
        raise InvalidValue(f"graph: this {type(model).__name__} is not patched")
    del model.__dict__["forward"]
    return model


@dataclass(frozen=True)
class Form:
    """How a patched model runs: `level` "off" is its own forward; `rows` brings inputs into channels_last."""

    level: str
    keep: frozenset[str] | None = None
    rows: bool = False
    reference: bool = False


class PatchedForward:
    """The forward of a patched model. A deep copy, or what is read from a file, makes its own at its first call."""

    def __init__(
        self, model: nn.Module, form: Form | None, function: Callable[..., Any] | None = None,
        plan: BNPlan | None = None, reference: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.form, self.function, self.plan, self.reference = model, form, function, plan, reference
        self.__signature__ = inspect.signature(MethodType(type(model).forward, model))
        self.__code__ = type(model).forward.__code__  # torch.export reads names of arguments there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.form is None:
            if not self._trains(args, kwargs):
                return type(self.model).forward(self.model, *args, **kwargs)
            self.decide(args)
        form = self.form
        assert form is not None
        if self.function is None:
            off = form.level == "off"
            made = None if off else restructure(self.model, level=form.level, keep=form.keep, reference=form.reference)
            self.function = type(self.model).forward if made is None else type(made[0]).forward
        if not form.rows or not self.model.training:
            return self.function(self.model, *args, **kwargs)
        args, kwargs = in_rows(args), in_rows(kwargs)
        return pytree.tree_map_only(Tensor, Tensor.contiguous, self.function(self.model, *args, **kwargs))

    def decide(self, args: tuple[Any, ...], weights: bool = False) -> None:
        """Time the forms on these arguments and keep the fastest; tells the plan."""
        from .decision import decide

        self.form, found = decide(self.model, args, self.reference)
        if self.plan is not None:
            self.plan.__dict__.update(found.__dict__)
        if weights and self.form.rows:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _trains(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call is one to measure by: a training step on plain tensors."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        return (
            self.model.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not kwargs
            and len(tensors) == len(args) > 0 and torch._C._functorch.peek_interpreter_stack() is None
            and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchedForward, (self.model, self.form, None, None, self.reference)


def in_rows(values: Any) -> Any:
    """Four-dimensional tensors in channels_last, all else as it is."""
    return pytree.tree_map_only(
        Tensor, lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, values
    )


def is_patched(model: nn.Module) -> bool:
    """Whether a model's forward is one of ours."""
    return isinstance(model.__dict__.get("forward"), PatchedForward)


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
