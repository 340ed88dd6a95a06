"""Rules that make one product out of several on the same input: siblings merged (R3, R5), kernels enlarged (R4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..fused import Conv, Matmul, aten
from ..rule import Rule
from ..term import Arena, Graph, Node


class MergeConvolutions(Rule):
    """R3: convolutions that read the same input become one with their filters side by side."""

    name, number = "merge-convs", "R3"
    says = "conv(x; w1), conv(x; w2) = split(conv(x; cat(w1, w2)))"
    needs = "same input, kernel, stride, padding, dilation, activation and dtype; groups 1, no residual"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the shared input; the whole set of siblings at once."""
        groups: dict[Any, list[Conv]] = {}
        for conv in siblings(graph, anchor):
            key = (conv.kernel, conv.stride, conv.padding, conv.dilation, conv.activation, conv.w.meta.dtype)
            groups.setdefault(key, []).append(conv)
        for convs in groups.values():
            if len(convs) > 1:
                yield merged(graph.arena, convs)


class EnlargeKernel(Rule):
    """R4: a kernel is padded with zero taps to a neighbour's size. Slower alone: it lets others merge."""

    name, number = "enlarge-kernel", "R4"
    says = "conv(x; w, padding p) = conv(x; pad(w, e), padding p + d e), e zero taps on each side"
    needs = (
        "a convolution of the larger kernel that reads the same input or is added to this one, with the same stride "
        "and dilation and with padding that fits; groups 1; finite inputs (0 times infinity is no zero)"
    )

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the smaller convolution."""
        conv = Conv.of(anchor)
        if conv is None or conv.groups != 1:
            return
        added = [sum_ for sum_ in map(Conv.of, graph.users[anchor]) if sum_ and sum_.residual is anchor]
        partners = [*siblings(graph, conv.x), *added, Conv.of(conv.residual)]
        tried = set()
        for other in partners:
            kernel = _common_kernel(conv, other) if other else None
            if kernel is not None and kernel != conv.kernel and kernel not in tried:
                tried.add(kernel)
                yield {anchor: enlarged(graph.arena, conv, kernel)}


class MergeMatmuls(Rule):
    """R5: products with the same left factor become one with the right factors side by side."""

    name, number = "merge-matmuls", "R5"
    says = "x a, x b = split(x cat(a, b))"
    needs = "same left factor, activation and dtype; no residual"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the shared left factor."""
        groups: dict[Any, list[Matmul]] = {}
        for user in dict.fromkeys(graph.users[anchor]):
            product = Matmul.of(user)
            if product is not None and product.x is anchor and product.residual is None and product.w is not anchor:
                groups.setdefault((product.activation, product.w.meta.dtype), []).append(product)
        for products in groups.values():
            if len(products) > 1:
                call = graph.arena.call
                w = call(aten.cat.default, [product.w for product in products], 1)
                b = side_by_side(graph.arena, [(product.b, product.w.shape[1], product.w) for product in products])
                whole = products[0].call(graph.arena, w=w, b=b)
                yield sliced(graph.arena, whole, [product.node for product in products])


def siblings(graph: Graph, x: Node) -> list[Conv]:
    """Convolutions without groups or residual that read a node as their input."""
    found = (Conv.of(user) for user in dict.fromkeys(graph.users.get(x, ())))
    return [conv for conv in found if conv and conv.x is x and conv.groups == 1 and conv.residual is None]


def merged(arena: Arena, convs: Sequence[Conv]) -> dict[Node, Node]:
    """What each of some sibling convolutions is, as a part of their union."""
    w = arena.call(aten.cat.default, [conv.w for conv in convs], 0)
    b = side_by_side(arena, [(conv.b, conv.w.shape[0], conv.w) for conv in convs])
    return sliced(arena, convs[0].call(arena, w=w, b=b), [conv.node for conv in convs])


def side_by_side(arena: Arena, biases: Sequence[tuple[Node | None, int, Node]]) -> Node | None:
    """Biases one after another, zeros for products that have none; None where none has one."""
    if all(bias is None for bias, _, _ in biases):
        return None
    parts = [arena.call(aten.new_zeros.default, like, [size]) if bias is None else bias for bias, size, like in biases]
    return arena.call(aten.cat.default, parts, 0)


def sliced(arena: Arena, whole: Node, parts: Sequence[Node]) -> dict[Node, Node]:
    """Each part as a slice of the whole along axis 1, in order."""
    found, begin = {}, 0
    for part in parts:
        end = begin + part.shape[1]
        found[part] = arena.call(aten.slice.Tensor, whole, 1, begin, end)
        begin = end
    return found


def enlarged(arena: Arena, conv: Conv, kernel: Sequence[int]) -> Node:
    """The same convolution with zero taps around its kernel."""
    extra = [(new - old) // 2 for new, old in zip(kernel, conv.kernel, strict=True)]
    pads = [pad for axis in reversed(extra) for pad in (axis, axis)]
    w = arena.call(aten.constant_pad_nd.default, conv.w, pads, 0.0)
    padding = tuple(p + d * e for p, d, e in zip(conv.padding, conv.dilation, extra, strict=True))
    return conv.call(arena, w=w, padding=padding)


def _common_kernel(conv: Conv, other: Conv) -> tuple[int, ...] | None:
    """The smallest kernel that zero taps turn both into with the same geometry; None where there is none."""
    if other.groups != 1 or (conv.stride, conv.dilation) != (other.stride, other.dilation):
        return None
    if len(conv.kernel) != len(other.kernel):
        return None
    kernel = tuple(map(max, conv.kernel, other.kernel))
    paddings = []
    for one in (conv, other):
        extra = [new - old for new, old in zip(kernel, one.kernel, strict=True)]
        if any(taps % 2 for taps in extra):
            return None
        axes = zip(one.padding, one.dilation, extra, strict=True)
        paddings.append([p + d * taps // 2 for p, d, taps in axes])
    return kernel if paddings[0] == paddings[1] else None
