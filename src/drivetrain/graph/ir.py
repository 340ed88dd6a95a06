"""What every pass asks of a graph: a node's tensor and source line, a normal form, a name for its structure.

The one IR is the ATen-level `torch.fx.GraphModule`; `node.meta["val"]` (a fake tensor) says what a node computes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, fx

from .errors import Line, is_user_file

# Operand order does not matter for these: their first two operands are sorted in the hash and in the normal form.
COMMUTATIVE = {
    "aten::add.Tensor", "aten::mul.Tensor", "aten::maximum", "aten::minimum", "aten::eq.Tensor", "aten::ne.Tensor",
    "aten::logical_and", "aten::logical_or", "aten::logical_xor", "aten::bitwise_and.Tensor",
    "aten::bitwise_or.Tensor", "aten::bitwise_xor.Tensor",
}  # fmt: skip
# They return their operand unchanged, values and layout, in a graph without mutation.
_NO_OPS = {"aten::alias", "aten::lift_fresh"}


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Shape, dtype, strides, device of what a node computes; a symbolic size is shown by its expression."""

    shape: tuple[int | torch.SymInt, ...]
    dtype: torch.dtype
    stride: tuple[int | torch.SymInt, ...]
    device: torch.device

    @property
    def memory_format(self) -> torch.memory_format | None:
        """contiguous, channels_last or channels_last_3d by strides; None when neither."""
        for name, rank in (("contiguous", None), ("channels_last", 4), ("channels_last_3d", 5)):
            if rank is not None and rank != len(self.shape):
                continue
            order = tuple(range(len(self.shape))) if rank is None else (0, *range(2, rank), 1)
            if self.stride == _dense_strides(self.shape, order):
                found: torch.memory_format = getattr(torch, f"{name}_format" if name == "contiguous" else name)
                return found
        return None

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"


def _dense_strides(shape: tuple[Any, ...], order: tuple[int, ...]) -> tuple[Any, ...]:
    strides: list[Any] = [0] * len(shape)
    step: Any = 1
    for dim in reversed(order):
        strides[dim] = step
        step = step * shape[dim]
    return tuple(strides)


def tensor_meta(node: fx.Node) -> Any:
    """What a node computes: a TensorMeta, a tuple of them, or None for what is no tensor or not known."""
    return _meta_of(node.meta.get("val"))


def _meta_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorMeta(tuple(value.shape), value.dtype, tuple(value.stride()), value.device)
    if isinstance(value, tuple | list):
        return tuple(_meta_of(item) for item in value)
    return None


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>[^\n]*)(?:\n +(?P<code>[^\n]*))?')


def source_line(node: fx.Node) -> Line | None:
    """The innermost line outside torch and drivetrain that made a node; None if it was not recorded."""
    return line_of(node.meta.get("stack_trace") or "")


def line_of(trace: str) -> Line | None:
    """The innermost line outside torch and drivetrain of a stack trace as Python prints it; None if there is none."""
    frames = [
        Line(found["file"], int(found["line"]), found["function"].strip(), (found["code"] or "").strip())
        for found in _FRAME.finditer(trace)
    ]
    return next((line for line in reversed(frames) if is_user_file(line.file)), None)


def op_name(node: fx.Node) -> str:
    """A node's operator as text, "aten::add.Tensor"; the target's own name for what is no ATen operator."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.name())
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', repr(target))}"


def is_impure(node: fx.Node) -> bool:
    """Whether a node must stay although nobody reads its value: it writes, draws random numbers or calls Python."""
    if node.op in ("placeholder", "output"):
        return True
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return bool(target._schema.is_mutable) or torch.Tag.nondeterministic_seeded in target.tags or _effectful(target)
    return node.op == "call_module" or node.op == "call_method" or (node.op == "call_function" and not _pure(target))


def _effectful(op: torch._ops.OpOverload) -> bool:
    return op.namespace not in ("aten", "prims", "mkldnn", "quantized_decomposed", "drivetrain")


def _pure(target: Any) -> bool:
    return target is operator.getitem or getattr(target, "__module__", "") in ("_operator", "math")


def normalise(module: fx.GraphModule) -> fx.GraphModule:
    """Bring a graph into normal form, in place: arguments by schema, commutative operands in order, no dead nodes.

    Written for functional graphs (after decomposition or functionalisation); returns the same module, recompiled.
    """
    graph = module.graph
    functional = not any(_mutates(node) for node in graph.nodes)
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if functional and op_name(node).removesuffix(".default") in _NO_OPS:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            continue
        node.args, node.kwargs = _by_schema(node.target, node.args, node.kwargs)
        # Only with equal metas: torch lets the first operand decide some strides of the result.
        first, second = node.args if op_name(node) in COMMUTATIVE and len(node.args) == 2 else (None, None)
        if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
            continue
        if position[first] > position[second] and tensor_meta(first) == tensor_meta(second) is not None:
            node.args = (second, first)
    graph.eliminate_dead_code(is_impure)
    graph.lint()
    module.recompile()
    return module


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.target._schema.is_mutable)


def _by_schema(
    op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position where the schema has a position, trailing defaults dropped."""
    positional = [argument for argument in op._schema.arguments if not argument.kwarg_only]
    by_name = dict(kwargs)
    values = list(args)
    for argument in positional[len(values) :]:
        if argument.name in by_name:
            values.append(by_name.pop(argument.name))
        elif argument.has_default_value() and any(later.name in by_name for later in positional[len(values) :]):
            values.append(argument.default_value)
        else:
            break
    while values and len(values) <= len(positional):
        argument = positional[len(values) - 1]
        if not argument.has_default_value() or not _same(values[-1], argument.default_value):
            break
        values.pop()
    for argument in op._schema.arguments:
        given = argument.kwarg_only and argument.name in by_name and argument.has_default_value()
        if given and _same(by_name[argument.name], argument.default_value):
            del by_name[argument.name]
    return tuple(values), by_name


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, fx.Node) or isinstance(default, fx.Node):
        return False
    return type(value) is type(default) and bool(value == default)


def structural_hash(module: fx.GraphModule, *, constants: bool = True) -> str:
    """A name for what a graph computes, independent of node names and of the order of independent nodes.

    Weisfeiler-Lehman labels over a directed acyclic graph need one sweep from inputs to outputs: a node's label is the
    hash of its operator, attributes, constants and the labels of its operands in order (sorted for commutative ones).

    Args:
        module: the graph, any level.
        constants: hash the values of get_attr tensors; False hashes only their shape and dtype.

    Returns:
        32 hexadecimal digits.
    """
    labels: dict[fx.Node, str] = {}
    inputs = 0
    effects: list[str] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            label = _digest("input", inputs, _meta_text(node))
            inputs += 1
        elif node.op == "get_attr":
            label = _digest("constant", _constant(module, str(node.target), constants))
        else:
            label = _node_label(module, node, labels, constants)
            # The order of effects is part of the meaning: each one is chained to the one before.
            if node.op != "output" and is_impure(node):
                label = _digest(label, effects[-1] if effects else "")
                effects.append(label)
        labels[node] = label
    output = next(node for node in module.graph.nodes if node.op == "output")
    return _digest(labels[output], effects[-1] if effects else "")


def _node_label(module: fx.GraphModule, node: fx.Node, labels: dict[fx.Node, str], constants: bool) -> str:
    args, kwargs = node.args, node.kwargs
    name = op_name(node)
    if isinstance(node.target, torch._ops.OpOverload):
        args, kwargs = _by_schema(node.target, args, kwargs)
    if node.op == "call_module":
        inner = module.get_submodule(str(node.target))
        name = structural_hash(inner, constants=constants) if isinstance(inner, fx.GraphModule) else repr(inner)
    parts = [_text(value, labels) for value in args]
    if name in COMMUTATIVE:
        parts[:2] = sorted(parts[:2])
    return _digest(node.op, name, *parts, *(f"{key}={_text(kwargs[key], labels)}" for key in sorted(kwargs)))


def _text(value: Any, labels: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return labels[value]
    if isinstance(value, tuple | list):
        return "[" + ",".join(_text(item, labels) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(value[key], labels)}" for key in sorted(value)) + "}"
    return f"{type(value).__name__}:{value!r}"  # 1, 1.0 and True are different constants


def _meta_text(node: fx.Node) -> str:
    found = tensor_meta(node)
    return f"{found.dtype} {[str(size) for size in found.shape]}" if isinstance(found, TensorMeta) else repr(found)


def _constant(module: fx.GraphModule, target: str, content: bool) -> str:
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    if isinstance(value, fx.GraphModule):
        return structural_hash(value, constants=content)
    if not isinstance(value, Tensor):
        return repr(value)
    text = f"{value.dtype} {[str(size) for size in value.shape]}"
    if content and type(value) in (Tensor, torch.nn.Parameter) and not value.is_meta:
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8) if value.numel() else value.new_empty(0)
        text += blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()
    return text


def _digest(*parts: object) -> str:
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def compute_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that compute something: no inputs, constants, outputs or tuple members."""
    skip: tuple[Callable[..., Any], ...] = (operator.getitem,)
    return [n for n in module.graph.nodes if n.op.startswith("call_") and n.target not in skip]


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy with its own nodes and the same metas (fake tensors shared)."""
    made = fx.Graph()
    output = made.graph_copy(graph, {})
    if output is not None:
        made.output(output)
    return made
