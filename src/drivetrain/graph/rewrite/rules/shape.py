"""Rules that move data less: slices and concatenations that undo each other (R6), activations past them (R11)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..fused import activation_of, aten, product
from ..rule import Rule
from ..term import GET, Graph, Node

MAX_POOL = aten.max_pool2d_with_indices.default
_RISING = ("relu", "sigmoid", "tanh")  # a maximum may be taken before or after a function that never falls


class JoinSlices(Rule):
    """R6: a concatenation of all slices of a tensor, in order, is the tensor; neighbouring slices are one."""

    name, number = "join-slices", "R6"
    says = "cat(x[a:b], x[b:c]) = x[a:c]"
    needs = "slices of one tensor along the axis of the concatenation, step 1, next to each other"
    always = True

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the concatenation."""
        if anchor.op is not aten.cat.default:
            return
        axis = anchor.option("dim", 1, 0) % len(anchor.shape)
        joined: list[Node] = []
        for part in anchor.args[0]:
            before, here = slice_of(joined[-1]) if joined else None, slice_of(part)
            if before and here and (before[0], before[1], before[3]) == (here[0], here[1], here[2]) and here[1] == axis:
                joined[-1] = take(graph, here[0], axis, before[2], here[3])
            else:
                joined.append(part)
        if len(joined) == 1:
            yield {anchor: joined[0]}
        elif len(joined) < len(anchor.args[0]):
            yield {anchor: graph.arena.call(aten.cat.default, joined, axis)}


class SliceOfConcatenation(Rule):
    """R6 the other way: a slice that is exactly one of the concatenated tensors is that tensor."""

    name, number = "slice-of-cat", "R6"
    says = "cat(x, y)[the part that is y] = y; x[a:b][c:d] = x[a+c:a+d]"
    needs = "the slice begins and ends where parts do; step 1"
    always = True

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the slice."""
        found = slice_of(anchor)
        if found is None:
            return
        inner, axis, begin, end = found
        if begin == 0 and end == inner.shape[axis]:
            yield {anchor: inner}
            return
        outer = slice_of(inner)
        if outer and outer[1] == axis:
            yield {anchor: take(graph, outer[0], axis, outer[2] + begin, outer[2] + end)}
            return
        if inner.op is not aten.cat.default or inner.option("dim", 1, 0) % len(inner.shape) != axis:
            return
        position = 0
        for part in inner.args[0]:
            if (position, position + part.shape[axis]) == (begin, end):
                yield {anchor: part}
                return
            position += part.shape[axis]


class ActivateParts(Rule):
    """R11: an activation of a concatenation is the concatenation of activations, which products can take in."""

    name, number = "activate-parts", "R11"
    says = "relu(cat(a, b)) = cat(relu(a), relu(b))"
    needs = "the concatenation has no other reader, and at least one part is a product without other reader"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the activation."""
        found = activation_of(anchor)
        if found is None or found[1].op is not aten.cat.default or graph.only_user(found[1]) is not anchor:
            return
        parts = found[1].args[0]
        if not any(product(part) and graph.only_user(part) is found[1] for part in parts):
            return
        call = graph.arena.call
        new = [call(anchor.op, part, *anchor.args[1:], **dict(anchor.kwargs)) for part in parts]
        yield {anchor: call(aten.cat.default, new, found[1].option("dim", 1, 0))}


class ActivateBeforePool(Rule):
    """R11: an activation that never falls may be applied before a maximum."""

    name, number = "activate-before-pool", "R11"
    says = "relu(max_pool(x)) = max_pool(relu(x))"
    needs = "a rising activation; the pool's values have no other reader, its indices none; no dilation beside padding"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the activation."""
        found = activation_of(anchor)
        if found is None or found[0] not in _RISING:
            return
        value = found[1]
        if value.op != GET or value.args[1] != 0 or value.args[0].op is not MAX_POOL:
            return
        pool = value.args[0]
        if graph.only_user(value) is not anchor or len(graph.users[pool]) != 1 or _may_see_padding_alone(pool):
            return
        call = graph.arena.call
        inner = call(anchor.op, pool.args[0], *anchor.args[1:])
        yield {anchor: graph.arena.get(call(MAX_POOL, inner, *pool.args[1:], **dict(pool.kwargs)), 0)}


def _may_see_padding_alone(pool: Node) -> bool:
    """Whether some window may lie between the values, on padding only: its maximum is minus infinity."""
    padding, dilation = pool.option("padding", 3, 0), pool.option("dilation", 4, 1)
    return padding not in (0, (0,), (0, 0)) and dilation not in (1, (1,), (1, 1))


def slice_of(node: Any) -> tuple[Node, int, int, int] | None:
    """(tensor, axis, begin, end) of a slice with step 1, bounds counted from the front; None for another node."""
    if not isinstance(node, Node) or node.op is not aten.slice.Tensor or node.option("step", 4, 1) != 1:
        return None
    inner = node.args[0]
    axis = node.option("dim", 1, 0) % len(inner.shape)
    size = inner.shape[axis]
    begin, end = node.option("start", 2), node.option("end", 3)
    begin, end = (0 if begin is None else begin), (size if end is None else end)
    if not (isinstance(begin, int) and isinstance(end, int)):
        return None
    begin, end = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in (begin, end))
    return inner, axis, begin, max(begin, end)


def take(graph: Graph, x: Node, axis: int, begin: int, end: int) -> Node:
    """A slice, or the tensor itself where it is all of it."""
    return x if (begin, end) == (0, x.shape[axis]) else graph.arena.call(aten.slice.Tensor, x, axis, begin, end)
