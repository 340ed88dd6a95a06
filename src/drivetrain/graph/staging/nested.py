"""A staged function called while another one is traced: one call node, or its operators where a node would not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .. import _torch_compat as compat
from .calls import GraphCall, invoke
from .concrete import Concrete, owners
from .key import call_key
from .trace import Out, current

if TYPE_CHECKING:
    from .function import Function


def call(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a staged function inside a trace.

    Its graph becomes one node; what it captured becomes captured by the caller. Sizes that are symbols of the caller,
    and functions that write to their inputs or return views of them, are recorded operator by operator instead.
    """
    here = current()
    assert here is not None
    values = function.canonical(args, kwargs)
    leaves = [value for _, value in function.named(values) if isinstance(value, Tensor)]
    if any(isinstance(size, torch.SymInt) for leaf in leaves for size in (*leaf.shape, *leaf.stride())):
        return function.call_python(values)
    key, leaves = call_key(values, lambda: None)
    concrete = function.find(key, leaves)
    if concrete is None:
        if function.settings["on_limit"] == "eager" and function.trace_count >= function.settings["max_traces"]:
            return function.call_python(values)  # its operators become the caller's own
        with compat.outside_modes():
            concrete = function.make(values, key, leaves)
    tensors = [here.capture.replace(value) for value in [c.tensor for c in concrete.captures] + leaves]
    if functional(concrete.graph):
        flat: Any = invoke(site(concrete), tensors)
    else:
        flat = concrete.graph(*tensors)
    results = [flat[value.index] if isinstance(value, Out) else value for value in concrete.outputs]
    return pytree.tree_unflatten(results, concrete.out_spec)


def site(concrete: Concrete) -> GraphCall:
    """The call target of a graph; one for all its callers, so that its backward is traced once."""
    found: GraphCall | None = getattr(concrete, "_site", None)
    if found is None:
        found = GraphCall(concrete.graph, concrete.name)
        concrete._site = found  # type: ignore[attr-defined]
    return found


def functional(graph: fx.GraphModule) -> bool:
    """Whether a graph writes to no input and returns no view of one."""
    owner, written = owners(graph)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return not written and not any(isinstance(value, fx.Node) and value in owner for value in output.args[0])
