"""The pass behind `torch.compile(model, backend="drivetrain", options={"rewrite": True})`, for inference graphs.

Weights arrive there as arguments. They stay arguments (a rule's weight terms are computed at each call, and priced
so), or with `freeze=True` and `then="eager"` are folded into constants and packed for oneDNN: faster, but a later
change of a weight is not seen until the model is compiled again, as with Inductor's own freezing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import InvalidValue

from .._torch_compat import fake_mode_of, outside_modes, retrace
from ..cost import CostTable, default_path
from ..passes import PassContext
from ..verify import difference
from .convert import NotRewritable, fold, from_fx, to_fx
from .emit import by_name, state_as_inputs, with_layouts_of
from .lower import onednn
from .meta import Meta
from .optimize import _searched
from .price import Objective, Pricer
from .rule import Rule, simplify
from .rules import RULES
from .term import INPUT, Graph, Node

TOLERANCE = 1e-4  # of the largest output: float32's rounding through a deep network


def rewrite_pass(module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext) -> fx.GraphModule:
    """Rewrite an inference graph; where it can't be, it comes back as it was, with one warning that says why.

    Options: rewrite=True (or "always": no search, nothing is measured), alpha, budget, freeze, cost_table (a path).
    """
    try:
        with outside_modes(), torch.no_grad():
            found = _rewritten(module, example_inputs, context)
    except NotRewritable as error:
        _warn(str(error))
        return module
    if found is None:
        return module
    return found if isinstance(found, fx.GraphModule) else _finished(*found, example_inputs)


def _rewritten(
    module: fx.GraphModule, example_inputs: Sequence[Any], context: PassContext
) -> tuple[Graph, list[str]] | fx.GraphModule | None:
    """The better program and the names of its placeholders; frozen ready to run; None where nothing changes."""
    options = context.options
    names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    states = [names[position] for position in _static(context) if position < len(names)]
    state = _weights(example_inputs, names, states)
    frozen = _may_freeze(context, bool(state))
    whole = from_fx(module.graph, {name: name for name in states})
    rules = list(RULES) if frozen else [_priced(rule) for rule in RULES]
    graph, values = whole, dict(state or {})
    if frozen:
        graph = from_fx(module.graph, {name: name for name in states}, channels_last=True)
    graph, _ = simplify(graph, [rule for rule in rules if rule.always])
    if frozen:
        graph, values = fold(graph, values)
    if options.get("rewrite") != "always":
        graph = _search(graph, rules, options, frozen)
    if not frozen and graph.digest == whole.digest:
        return None
    graph = with_layouts_of(graph, module.graph)
    if not frozen:
        if state is not None:
            _check(whole, state, to_fx(graph, by_name(state, graph)), [str(leaf.args[0]) for leaf in graph.inputs])
        return graph, names
    made = _packed(*fold(graph, values), whole, names)
    _check(whole, state or {}, made, names)
    for node, fake in zip(made.graph.nodes, example_inputs, strict=False):
        node.meta["val"] = fake
    return made


def _may_freeze(context: PassContext, known: bool) -> bool:
    """Whether weights become constants; a warning where that is asked for and can't be."""
    if not context.options.get("freeze", False):
        return False
    if context.then != "eager":
        _warn(f"freeze=True needs then='eager', not {context.then!r}: the weights stay arguments", "weights not frozen")
        return False
    if not known:
        _warn("torch did not hand over the weights' values: they stay arguments", "weights not frozen")
    return known


def _search(graph: Graph, rules: Sequence[Rule], options: Mapping[str, Any], frozen: bool) -> Graph:
    alpha, budget = options.get("alpha", 1.05), options.get("budget", 300)
    if not isinstance(alpha, int | float) or not isinstance(budget, int):
        raise InvalidValue(f"graph: alpha and budget must be numbers, found {alpha!r} and {budget!r}")
    table = CostTable(Path(options["cost_table"]) if options.get("cost_table") else default_path())
    pricer = Pricer(table, training=not frozen)
    forms, _, _ = _searched(graph, rules, pricer, Objective("time"), float(alpha), budget, 30, 60.0)
    table.save()
    return forms[-1]


def _check(whole: Graph, state: Mapping[str, Tensor], made: fx.GraphModule, names: Sequence[str]) -> None:
    """Run both on the weights as they are.

    Args:
        whole: the program as it came.
        state: its weights.
        made: what shall run instead.
        names: of what `made` takes.

    Raises:
        NotRewritable: they differ by more than rounding.
    """
    inputs = {str(leaf.args[0]): _example(leaf.meta) for leaf in whole.inputs}
    expected = to_fx(whole, by_name(state, whole))(*inputs.values())
    got = made(*({**state, **inputs}[name] for name in names))
    worst, where = difference(list(expected), list(got))
    if not worst <= TOLERANCE:
        raise NotRewritable(f"graph: rewritten, {where} differs by {worst:.2g} of its largest value")


def _packed(graph: Graph, values: Mapping[str, Tensor], whole: Graph, names: Sequence[str]) -> fx.GraphModule:
    """The frozen program on oneDNN, its weights packed; it takes the weights' arguments and does not read them.

    Args:
        graph: takes images channels last.
        values: the state that it reads.
        whole: the program as it came: takes images as they are given.
        names: of the arguments.
    """
    given = {str(leaf.args[0]): leaf.meta for leaf in whole.inputs}
    taken = {str(leaf.args[0]): leaf for leaf in graph.inputs}
    order: list[Node] = []
    change: dict[Node, Node] = {}
    for name in names:
        leaf = graph.arena.leaf(INPUT, f"given.{name}", given.get(name, Meta((), torch.float32, ())))
        order.append(leaf)
        if name in taken and len(leaf.shape) == 4:
            laid_out = torch.ops.aten.contiguous.default
            change[taken[name]] = graph.arena.call(laid_out, leaf, memory_format=torch.channels_last)
        elif name in taken:
            change[taken[name]] = leaf
    fixed = Graph(graph.arena, tuple(order), graph.replace(change).outputs)
    return onednn.lower(fixed, values) if onednn.available() else to_fx(fixed, values)


def _finished(graph: Graph, names: Sequence[str], example_inputs: Sequence[Any]) -> fx.GraphModule:
    """The program as ATen operators on the pass's own arguments."""
    with outside_modes():
        plain = to_fx(state_as_inputs(graph, names), {})
    return retrace(plain, example_inputs, fake_mode_of(example_inputs))


def _static(context: PassContext) -> Sequence[int]:
    """Positions of parameters and buffers."""
    tracing = torch._guards.TracingContext.try_get()
    metadata = tracing.fw_metadata if tracing is not None else None
    return context.params or (metadata.static_input_indices if metadata is not None else ()) or ()


def _weights(
    example_inputs: Sequence[Any], names: Sequence[str], states: Sequence[str]
) -> dict[str, Tensor] | None:  # fmt: skip
    """The real tensors behind the arguments that are parameters or buffers; None where torch doesn't tell all.

    A fake argument shares its (empty) storage with the fake tensor that was made from the real one.
    """
    mode, wanted = fake_mode_of(example_inputs), set(states)
    if mode is None:
        return None
    try:
        converter = mode.fake_tensor_converter.meta_converter
        made = {
            _key(converter.tensor_memo[number]): real
            for real, number in converter.describer.lookup_tensor.items()
            if number in converter.tensor_memo
        }
    except AttributeError:
        return None  # another torch keeps them elsewhere: weights stay arguments
    found = {name: made.get(_key(fake)) for name, fake in zip(names, example_inputs, strict=True) if name in wanted}
    return (
        {name: value.detach() for name, value in found.items() if value is not None}
        if all(value is not None for value in found.values())
        else None
    )


def _key(fake: Tensor) -> Any:
    return fake.untyped_storage()._cdata, f"{tuple(fake.shape)} {fake.stride()} {fake.storage_offset()}"


def _priced(rule: Rule) -> Rule:
    """Weights that stay arguments make folding a cost of each call: the search decides."""
    if not (rule.always and rule.inference_only):
        return rule
    tried = copy.copy(rule)
    tried.always = False
    return tried


def _example(meta: Any) -> Tensor:
    value = meta.empty("cpu")
    return value.normal_() if meta.dtype.is_floating_point else value.zero_()


def _warn(why: str, what: str = "not rewritten") -> None:
    warnings.warn(f"drivetrain: graph: {what}: {why.removeprefix('graph: ')}", stacklevel=3)
