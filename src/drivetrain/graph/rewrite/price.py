"""What a program costs: the sum of its operators' costs, each measured once as it will be run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from drivetrain.base.errors import InvalidValue, unknown_name

from ..cost import Cost, CostTable
from .fused import CONV, MATMUL, Conv, Matmul, aten
from .lower import onednn
from .meta import Meta
from .term import GET, INPUT, STATE, Graph, Node, name_of

METRICS = ("time", "flops", "bytes", "launches")
_VIEWS = {
    aten.slice.Tensor, aten.select.int, aten.permute.default, aten.t.default, aten.transpose.int,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default,
}  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """What the search minimises.

    Attributes:
        metric: "time" (measured), "flops", "bytes" or "launches".
        limits: a program above one of these is out, as {"bytes": 1e9}.
    """

    metric: str = "time"
    limits: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for name in (self.metric, *(name for name, _ in self.limits)):
            if name not in METRICS:
                raise unknown_name("graph: cost", name, METRICS)
        if any(not limit > 0 for _, limit in self.limits):
            raise InvalidValue(f"graph: a limit must be above 0, found {dict(self.limits)}")

    def of(self, cost: Cost) -> float:
        """The number to minimise; infinite outside the limits."""
        values = {"time": cost.time_us, "flops": cost.flops, "bytes": cost.bytes, "launches": float(cost.launches)}
        return math.inf if any(values[name] > limit for name, limit in self.limits) else values[self.metric]


class Pricer:
    """Prices nodes and programs.

    Args:
        table: measured times.
        training: weights change between calls, so what depends on them alone is not free.
        measured: False leaves times out, for searches by flops, bytes or launches.
    """

    def __init__(self, table: CostTable, *, training: bool = False, measured: bool = True) -> None:
        self.table, self.training, self.measured = table, training, measured
        self._known: dict[Node, Cost] = {}

    def graph(self, graph: Graph) -> Cost:
        """The sum over a program's operators."""
        total = Cost()
        for node in graph.order:
            total = total + self.node(node)
        return total

    def node(self, node: Node) -> Cost:
        """One operator's cost: nothing for leaves, views and, in inference, for what is computed once."""
        if node not in self._known:
            self._known[node] = self._price(node)
        return self._known[node]

    def _price(self, node: Node) -> Cost:
        if node.op in (INPUT, STATE, GET) or _is_view(node) or (node.constant and not self.training):
            return Cost()
        tensors = [*(meta for inner in node.inputs for meta in _metas(inner)), *_metas(node)]
        return Cost(
            time_us=self._time(node) if self.measured else 0.0,
            flops=flops(node),
            bytes=float(sum(meta.nbytes for meta in tensors)),
            launches=1,
        )

    def _time(self, node: Node) -> float:
        prepared = functools.cache(lambda: runner(node))  # packing weights takes longer than looking a time up
        return self.table.time(key_of(node), lambda: prepared()()).us


def key_of(node: Node) -> str:
    """Names an operator with all that its time depends on: shapes, strides, dtypes, attributes; not its values."""

    def word(value: Any) -> str:
        if isinstance(value, Node):
            constant = "*" if value.constant else ""  # weights may be re-ordered beforehand
            return "+".join(
                f"{_short(meta.dtype)}{list(meta.shape)}{_layout(meta)}{constant}" for meta in _metas(value)
            )
        if isinstance(value, tuple):
            return f"({','.join(map(word, value))})"
        return repr(value)

    named = "".join(f",{key}={word(value)}" for key, value in node.kwargs if key != "_serial")
    return f"{name_of(node.op)}({','.join(map(word, node.args))}{named})"


def runner(node: Node) -> Callable[[], Any]:
    """A function that runs one operator on made-up values, as the default lowering will run it."""
    arena, state = _SingleOperator(), dict[str, torch.Tensor]()
    alone = arena.cut(node, state)
    module = onednn.lower(alone, state)
    inputs = [_values(leaf.meta) for leaf in alone.inputs]

    def run() -> Any:
        with torch.no_grad():
            return module(*inputs)

    return run


def flops(node: Node) -> float:
    """Floating-point operations; one for each value of what is no product."""
    made = _metas(node)[0].numel if _metas(node) else 0
    if node.op is CONV:
        conv = Conv(node)
        return 2.0 * made * conv.w.shape[1] * math.prod(conv.kernel)
    if node.op is MATMUL:
        return 2.0 * made * Matmul(node).w.shape[0]
    if node.op in (aten.bmm.default,):
        return 2.0 * made * node.inputs[0].shape[-1]
    return float(made)


class _SingleOperator:
    """Cuts one operator out of a program: its arguments become inputs, constant ones state."""

    def cut(self, node: Node, state: dict[str, torch.Tensor]) -> Graph:
        from .term import Arena, map_nodes

        arena, leaves = Arena(), dict[Node, Node]()

        def leaf(inner: Node) -> Node:
            if inner not in leaves:
                kind, name = (STATE, f"w{len(leaves)}") if inner.constant else (INPUT, f"x{len(leaves)}")
                leaves[inner] = arena.leaf(kind, name, inner.meta)
                if kind == STATE:
                    state[name] = _values(inner.meta)
            return leaves[inner]

        args = tuple(map_nodes(value, leaf) for value in node.args)
        kwargs = tuple((key, map_nodes(value, leaf)) for key, value in node.kwargs)
        made = arena.make(node.op, args, kwargs, node.meta)
        outputs = tuple(arena.get(made, i) for i in range(len(node.meta))) if isinstance(node.meta, tuple) else (made,)
        return Graph(arena, tuple(leaf for leaf in leaves.values() if leaf.op == INPUT), outputs)


def _values(meta: Meta) -> torch.Tensor:
    """Harmless values: no denormals, no overflow, indices that are in range."""
    tensor = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype)
    return tensor.fill_(0.5) if meta.dtype.is_floating_point else tensor.zero_()


def _metas(node: Node) -> tuple[Meta, ...]:
    found = node.meta if isinstance(node.meta, tuple) else (node.meta,)
    return tuple(meta for meta in found if meta is not None)


def _is_view(node: Node) -> bool:
    if node.op is aten.reshape.default:
        x = node.args[0].meta.empty()
        try:
            x.view(node.meta.shape)
            return True
        except RuntimeError:
            return False
    return node.op in _VIEWS


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.").replace("float", "f").replace("int", "i")


def _layout(meta: Meta) -> str:
    tensor = meta.empty()
    if tensor.is_contiguous():
        return ""
    if len(meta.shape) == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "cl"
    return f"s{list(meta.stride)}"
