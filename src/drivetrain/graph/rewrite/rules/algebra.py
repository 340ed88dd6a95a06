"""Rules of arithmetic: common factors (R12), products in another order (R12), equal weights over time (R13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..fused import Matmul, aten
from ..rule import Rule
from ..term import Graph, Node

_ADD, _MUL, _SUB, _RSUB = aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.rsub.Scalar


class FactorSum(Rule):
    """R12: a common factor is multiplied once."""

    name, number = "factor-sum", "R12"
    says = "f c + f u = f (c + u)"
    needs = "neither product has another reader; same shapes, so that nothing grows"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the sum."""
        for left, right in _two_products(graph, anchor):
            for f, c in _ways(left):
                for g, u in _ways(right):
                    if f is g and c.meta.shape == u.meta.shape:
                        total = graph.arena.call(_ADD, c, u)
                        yield {anchor: graph.arena.call(_MUL, f, total)}
                        return


class Interpolate(Rule):
    """R12, the gate of recurrent cells: one multiplication instead of two."""

    name, number = "interpolate", "R12"
    says = "f c + (1 - f) u = u + f (c - u)"
    needs = "neither product has another reader; same shapes"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the sum."""
        for left, right in _two_products(graph, anchor):
            for kept, gate in ((left, right), (right, left)):
                for rest, u in _ways(gate):
                    f = _one_minus(rest)
                    c = next((other for one, other in _ways(kept) if one is f), None)
                    if f is not None and c is not None and c.meta.shape == u.meta.shape == f.meta.shape:
                        call = graph.arena.call
                        yield {anchor: call(_ADD, u, call(_MUL, f, call(_SUB, c, u)))}
                        return


class Reassociate(Rule):
    """R12: (A B) C is A (B C); which is cheaper depends on the shapes."""

    name, number = "reassociate", "R12"
    says = "(a b) c = a (b c)"
    needs = "the inner product has no other reader, bias, residual or activation"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the outer product."""
        outer = Matmul.of(anchor)
        if outer is None:
            return
        left, right = Matmul.of(outer.x), Matmul.of(outer.w)
        if left and left.bare and left.b is None and graph.only_user(left.node) is anchor:
            inner = left.call(graph.arena, x=left.w, w=outer.w)
            yield {anchor: outer.call(graph.arena, x=left.x, w=inner)}
        if right and right.bare and right.b is None and graph.only_user(right.node) is anchor:
            inner = right.call(graph.arena, x=outer.x, w=right.x)
            yield {anchor: outer.call(graph.arena, x=inner, w=right.w)}


class BatchOverTime(Rule):
    """R13: products of different inputs with the same weight become one with more rows."""

    name, number = "batch-over-time", "R13"
    says = "x1 w, x2 w, ... = split(cat(x1, x2, ...) w)"
    needs = "same weight, bias and activation, no residual; no input depends on another of these products"
    whole = True

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the weight; all independent products at once."""
        groups: dict[Any, list[Matmul]] = {}
        for user in dict.fromkeys(graph.users[anchor]):
            product = Matmul.of(user)
            if product and product.w is anchor and product.residual is None and product.x is not anchor:
                groups.setdefault((product.b, product.activation), []).append(product)
        for products in groups.values():
            for level in _levels(graph, products):
                if len(level) > 1:
                    yield self._batched(graph, level)

    def _batched(self, graph: Graph, products: list[Matmul]) -> dict[Node, Node]:
        call = graph.arena.call
        whole = products[0].call(graph.arena, x=stacked(graph, [product.x for product in products]))
        found, begin = {}, 0
        for product in products:
            end = begin + product.x.shape[0]
            found[product.node] = call(aten.slice.Tensor, whole, 0, begin, end)
            begin = end
        return found


def stacked(graph: Graph, rows: list[Node]) -> Node:
    """Matrices one under another; one reshape where they are all the steps of one sequence, in order."""
    call, first = graph.arena.call, rows[0]
    if first.op is aten.select.int:
        sequence, axis = first.args[:2]
        axis %= len(sequence.shape)
        steps = [row.args[2] if row.op is aten.select.int and row.args[:2] == first.args[:2] else None for row in rows]
        if steps == list(range(sequence.shape[axis])):
            others = [other for other in range(len(sequence.shape)) if other != axis]
            return call(
                aten.reshape.default, call(aten.permute.default, sequence, [axis, *others]), (-1, first.shape[1])
            )
    return call(aten.cat.default, rows, 0)


def _levels(graph: Graph, products: list[Matmul]) -> list[list[Matmul]]:
    """Products by how many of them lie one after another below each: those of a level are independent."""
    members = {product.node for product in products}
    depth: dict[Node, int] = {}
    for node in graph.order:
        below = max((depth[inner] for inner in node.inputs), default=0)
        depth[node] = below + (node in members)
    levels: dict[int, list[Matmul]] = {}
    for product in products:
        levels.setdefault(depth[product.node], []).append(product)
    return list(levels.values())


def _two_products(graph: Graph, anchor: Node) -> Iterator[tuple[Node, Node]]:
    """Both addends of a plain sum, where each is a product that nothing else reads."""
    if anchor.op is not _ADD or len(anchor.args) != 2 or anchor.kwargs:
        return
    left, right = anchor.args
    if not (isinstance(left, Node) and isinstance(right, Node)) or left is right:
        return
    if left.op is _MUL and right.op is _MUL and graph.only_user(left) is anchor and graph.only_user(right) is anchor:
        yield left, right


def _ways(node: Node) -> list[tuple[Node, Node]]:
    """A product's two factors, both ways round; none where one is a number."""
    left, right = node.args[:2]
    return [(left, right), (right, left)] if isinstance(left, Node) and isinstance(right, Node) else []


def _one_minus(node: Node) -> Node | None:
    """f where a node is 1 - f."""
    if node.op is _SUB and len(node.args) == 2 and not node.kwargs and node.args[0] == 1:
        return node.args[1] if isinstance(node.args[1], Node) else None
    if node.op is _RSUB and node.args[1] == 1 and node.option("alpha", 2, 1) == 1:
        return node.args[0] if isinstance(node.args[0], Node) else None
    return None
