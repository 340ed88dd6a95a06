"""From fx graphs of ATen operators to terms and back.

On the way in, operators that say the same thing get one form: convolutions and matrix products become those of
`fused`, splits become slices, views become reshapes (which also hold when a rewrite changes strides).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import DrivetrainError

from .fused import CONV, MATMUL, aten
from .meta import Meta, metas
from .term import GET, INPUT, STATE, Arena, Graph, Node, freeze, map_nodes

_IDENTITY = {aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default}
_RESHAPE = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_SPLIT = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default}


class NotRewritable(DrivetrainError, ValueError):
    """The program holds something terms can't: it mutates a tensor, or its shapes depend on data."""


def from_fx(
    graph: fx.Graph,
    states: Mapping[str, str],
    *,
    channels_last: bool = False,
    state_metas: Mapping[str, Meta] | None = None,
) -> Graph:
    """A graph's terms.

    Args:
        graph: ATen operators; placeholders carry `meta["val"]`.
        states: placeholders that hold parameters or buffers, and under which name; the others are inputs.
        channels_last: take 4-D inputs to lie in memory channels last.
        state_metas: of state that the graph reads by `get_attr`.

    Raises:
        NotRewritable: an operator mutates, or a shape is not a number; names it and the line it came from.
    """
    arena, known = Arena(), dict[fx.Node, Any]()
    inputs: list[Node] = []
    outputs: tuple[Any, ...] = ()
    for node in graph.nodes:
        if node.op == "placeholder":
            leaf = _leaf(arena, node, states.get(node.name), channels_last)
            inputs.extend([leaf] if leaf.op == INPUT else [])
            known[node] = leaf
        elif node.op == "get_attr":
            found = (state_metas or {}).get(str(node.target)) or Meta.of(_value(node))
            known[node] = arena.leaf(STATE, str(node.target), found)
        elif node.op == "call_function":
            known[node] = _call(arena, node, known)
        elif node.op == "output":
            outputs = _taken(node.args[0] if isinstance(node.args[0], tuple | list) else node.args, known)
        else:
            raise NotRewritable(f"graph: a rewrite needs ATen operators, {node.format_node()} is a {node.op}")
    return Graph(arena, tuple(inputs), outputs)


class Emitter:
    """The module under construction, as a lowering sees it.

    Attributes:
        root: holds the tensors.
        graph: the new fx graph.
    """

    def __init__(self) -> None:
        self.root, self.graph = torch.nn.Module(), fx.Graph()

    def tensor(self, name: str, make: Callable[[], Tensor]) -> fx.Node:
        """A tensor that the lowering prepares, made once by name and kept out of the state dict."""
        if not hasattr(self.root, name):
            setattr(self.root, name, make())
        return self.graph.create_node("get_attr", name)


def to_fx(
    graph: Graph,
    state: Mapping[str, Tensor],
    call: Callable[[Emitter, Node, tuple[Any, ...], dict[str, Any]], fx.Node] | None = None,
) -> fx.GraphModule:
    """A module that computes the terms: flat inputs in, flat outputs out.

    Args:
        graph: the program.
        state: its parameters and buffers by name.
        call: makes the fx node of a term, for lowerings; by default its own operator is called.
    """
    emitter = Emitter()
    root, new = emitter.root, emitter.graph
    made: dict[Node, fx.Node] = {}
    for leaf in graph.inputs:
        made[leaf] = new.placeholder(str(leaf.args[0]).replace(".", "_"))
        made[leaf].meta["val"] = leaf.meta
    for node in graph.order:
        if node.op == INPUT:
            continue
        if node.op == STATE:
            made[node] = new.get_attr(register(root, str(node.args[0]), state[node.args[0]]))
            continue
        args = tuple(listed(map_nodes(value, made.__getitem__)) for value in node.args)
        kwargs = {key: listed(map_nodes(value, made.__getitem__)) for key, value in node.kwargs if key != "_serial"}
        if node.op == GET:
            made[node] = new.call_function(operator.getitem, args)
        else:
            made[node] = call(emitter, node, args, kwargs) if call else new.call_function(node.op, args, kwargs)
        made[node].meta["source"] = node.source
    new.output(map_nodes(graph.outputs, made.__getitem__))
    new.eliminate_dead_code()
    return fx.GraphModule(root, new)


def fold(graph: Graph, state: Mapping[str, Tensor]) -> tuple[Graph, dict[str, Tensor]]:
    """Compute once what depends on state alone; new state is named `folded.` and its digest.

    Args:
        graph: the program.
        state: parameters and buffers by name.

    Returns:
        The smaller program and the state that it still needs.
    """
    edges = {inner for node in graph.order if not node.constant for inner in node.inputs if inner.constant}
    edges |= {node for node in graph.returned if node.constant}
    roots = [node for node in graph.order if node in edges and node.op != STATE]
    values: tuple[Tensor, ...] = ()
    if roots:
        with torch.no_grad():
            values = to_fx(Graph(graph.arena, (), tuple(roots)), state)()
    change, folded = {}, dict[str, Tensor]()
    for node, value in zip(roots, values, strict=True):
        name = f"folded.{node.digest.hex()[:16]}"
        folded[name] = value.detach().contiguous()
        change[node] = graph.arena.leaf(STATE, name, Meta.of(folded[name]))
    new = graph.replace(change)
    kept = {str(node.args[0]) for node in new.order if node.op == STATE}
    return new, {name: value for name, value in {**state, **folded}.items() if name in kept}


def listed(value: Any) -> Any:
    """Tuples become lists, as ATen's schemas write them."""
    return [listed(item) for item in value] if isinstance(value, tuple) else value


def register(root: torch.nn.Module, name: str, value: Tensor) -> str:
    """Put a tensor into a module under a dotted name, with modules in between."""
    *path, last = name.split(".")
    module = root
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, torch.nn.Module())
        module = getattr(module, part)
    if isinstance(value, torch.nn.Parameter):
        module.register_parameter(last, value)
    else:
        module.register_buffer(last, value)
    return name


def _leaf(arena: Arena, node: fx.Node, state: str | None, channels_last: bool) -> Node:
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    if not isinstance(value, Tensor | torch.SymInt):
        raise NotRewritable(f"graph: input {node.name!r} is a {type(value).__name__}; a rewrite needs tensors")
    if isinstance(value, torch.SymInt):
        raise NotRewritable(
            f"graph: input {node.name!r} is a size that may vary",
            hint="a rewrite is measured for fixed shapes: compile with dynamic=False",
        )
    if any(not isinstance(size, int) for size in value.shape):
        raise NotRewritable(
            f"graph: input {node.name!r} has the shape {tuple(value.shape)}",
            hint="a rewrite is measured for fixed shapes: capture with the sizes that will be served",
        )
    meta = Meta.of(value)
    if channels_last and state is None and len(meta.shape) == 4:
        meta = Meta.of(meta.empty(meta.device).to(memory_format=torch.channels_last))
    return arena.leaf(INPUT if state is None else STATE, node.name if state is None else state, meta)


def _call(arena: Arena, node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    op, source = node.target, node.meta.get("stack_trace") or ""
    args = tuple(_taken(value, known) for value in node.args)
    kwargs = {key: _taken(value, known) for key, value in node.kwargs.items()}
    if op is operator.getitem:
        return args[0][args[1]] if isinstance(args[0], tuple) else arena.get(args[0], args[1])
    if not isinstance(op, torch._ops.OpOverload):
        raise NotRewritable(f"graph: {op} is no ATen operator", hint=_line(source))
    if op._schema.is_mutable:
        raise NotRewritable(f"graph: {op} changes a tensor in place", hint=_line(source))
    if op in _IDENTITY:
        return args[0]
    if op in _SPLIT:
        return _slices(arena, op, args, kwargs, source)
    normal = _normal(op, args, kwargs)
    if normal is not None:
        return arena.call(normal[0], *normal[1], source=source)
    try:
        return arena.call(op, *args, source=source, **kwargs)
    except (NotImplementedError, RuntimeError):  # no shape function: what the capture saw
        named = tuple(sorted((key, freeze(value)) for key, value in kwargs.items()))
        return arena.make(op, freeze(args), named, metas(node.meta["val"]), source)


def _normal(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...]] | None:
    """The one form of operators that have several."""
    if op is aten.convolution.default and not args[6]:
        x, w, b, stride, padding, dilation, _, _, groups = args
        axes = len(w.shape) - 2
        stride, padding, dilation = (
            value * axes if len(value) == 1 else value for value in (stride, padding, dilation)
        )
        return CONV, (x, w, b, None, stride, padding, dilation, groups, "")
    if op is aten.mm.default:
        return MATMUL, (args[0], args[1], None, None, "")
    if op is aten.addmm.default and not kwargs and len(args[0].shape) == 1 and args[0].shape[0] == args[2].shape[1]:
        return MATMUL, (args[1], args[2], args[0], None, "")
    if op in _RESHAPE:
        return aten.reshape.default, tuple(args)
    return None


def _slices(arena: Arena, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], source: str) -> tuple[Node, ...]:
    x, sizes = args[:2]
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(x.shape)
    total = x.shape[axis]
    if op is aten.chunk.default:
        sizes = -(-total // sizes)
    if isinstance(sizes, int):
        sizes = [min(sizes, total - begin) for begin in range(0, total, max(sizes, 1))]
    parts, begin = [], 0
    for size in sizes:
        parts.append(arena.call(aten.slice.Tensor, x, axis, begin, begin + size, source=source))
        begin += size
    return tuple(parts)


def _taken(value: Any, known: Mapping[fx.Node, Any]) -> Any:
    """An argument of an fx node in terms."""
    if isinstance(value, fx.Node):
        return known[value]
    if isinstance(value, tuple | list):
        return tuple(_taken(item, known) for item in value)
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise NotRewritable(f"graph: the size {value} is not a number", hint="capture with fixed sizes")
    return value


def _value(node: fx.Node) -> Tensor:
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _line(source: str) -> str | None:
    lines = [line.strip() for line in source.splitlines() if line.strip().startswith("File ")]
    return f"from {lines[-1]}" if lines else None
