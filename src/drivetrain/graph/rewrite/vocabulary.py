"""A program in the words of published rule sets: convolution, product, sum, concatenation, split, ...

A `Word` is an operator with its attributes as small numbers, read off one or several terms (a split is a set of
slices), and `build` makes the terms of a word. Attributes that two settings describe alike hold both: a 1x1
convolution without padding is "same" and "valid".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .fused import CONV, MATMUL, Conv, Matmul, aten
from .rules.shape import slice_of
from .term import Arena, Graph, Node

ACTIVATIONS = ("", "sigmoid", "relu", "tanh")  # by number, as in attribute "activation"
SAME, VALID = 0, 1
_PLAIN = {"relu": aten.relu.default, "sigmoid": aten.sigmoid.default, "tanh": aten.tanh.default}
_PAIRS = {"add": aten.add.Tensor, "mul": aten.mul.Tensor}
COMMUTATIVE = frozenset(_PAIRS)
KINDS = ("conv", "matmul", "add", "mul", "relu", "sigmoid", "tanh", "concat", "split", "transpose", "enlarge")


class CannotBuild(Exception):
    """A word has no terms for these operands: shapes don't fit, or where to split is not known."""


@dataclass(frozen=True, eq=False)
class Word:
    """An operator of a program.

    Attributes:
        kind: one of `KINDS`.
        inputs: operands in order.
        outputs: results in order.
        attributes: name -> the values that describe it.
    """

    kind: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    attributes: dict[str, frozenset[int]] = field(default_factory=dict)

    def attribute(self, name: str) -> frozenset[int]:
        """An attribute's values; "in0.1" is the size of the first operand's axis 1. Empty where it has none."""
        if name.startswith("in"):
            operand, _, axis = name.removeprefix("in").partition(".")
            if int(operand) < len(self.inputs) and int(axis) < len(self.inputs[int(operand)].shape):
                return frozenset({self.inputs[int(operand)].shape[int(axis)]})
            return frozenset()
        return self.attributes.get(name, frozenset())


@lru_cache(maxsize=16)
def words(graph: Graph) -> dict[str, tuple[Word, ...]]:
    """All operators of a program that have a word, by kind."""
    found: dict[str, list[Word]] = {}
    for node in graph.order:
        for word in _read(graph, node):
            found.setdefault(word.kind, []).append(word)
    return {kind: tuple(some) for kind, some in found.items()}


def _read(graph: Graph, node: Node) -> Iterator[Word]:
    conv, product = Conv.of(node), Matmul.of(node)
    if conv is not None:
        yield from _read_conv(conv)
    elif product is not None and product.b is None and product.residual is None:
        if product.activation in ACTIVATIONS:
            acts = _numbers(activation=ACTIVATIONS.index(product.activation))
            yield Word("matmul", (product.x, product.w), (node,), acts)
    elif node.op in _PAIRS.values() and len(node.args) == 2 and not node.kwargs:
        left, right = node.args
        if isinstance(left, Node) and isinstance(right, Node) and left.meta.shape == right.meta.shape:
            yield Word("add" if node.op is aten.add.Tensor else "mul", (left, right), (node,))
    elif node.op in _PLAIN.values():
        yield Word(next(name for name, op in _PLAIN.items() if op is node.op), (node.args[0],), (node,))
    elif node.op is aten.cat.default:
        axis, parts = node.option("dim", 1, 0) % len(node.shape), node.args[0]
        yield Word("concat", parts, (node,), _numbers(axis=axis, rank=len(node.shape), inputs=len(parts)))
    elif node.op is aten.permute.default:
        rank = len(node.shape)
        perm = [axis % rank for axis in node.args[1]]
        yield Word("transpose", (node.args[0],), (node,), _numbers(perm=number_of(perm), rank=rank))
    yield from _read_splits(graph, node)


def _read_conv(conv: Conv) -> Iterator[Word]:
    if conv.b is not None or conv.residual is not None or conv.groups != 1 or len(conv.kernel) != 2:
        return
    if any(step != 1 for step in conv.dilation) or conv.activation not in ACTIVATIONS:
        return
    pad = {SAME} if conv.centred else set()
    pad |= {VALID} if not any(conv.padding) else set()
    fixed = _numbers(
        stride_h=conv.stride[0], stride_w=conv.stride[1], kernel_h=conv.kernel[0], kernel_w=conv.kernel[1],
        activation=ACTIVATIONS.index(conv.activation),
    )  # fmt: skip
    if pad:
        yield Word("conv", (conv.x, conv.w), (conv.node,), {**fixed, "pad": frozenset(pad)})


def _read_splits(graph: Graph, node: Node) -> Iterator[Word]:
    """Slices of a node that together are all of it, next to each other, as one split."""
    by_axis: dict[int, list[tuple[int, int, Node]]] = {}
    for user in dict.fromkeys(graph.users.get(node, ())):
        found = slice_of(user)
        if found is not None and found[0] is node:
            by_axis.setdefault(found[1], []).append((found[2], found[3], user))
    for axis, parts in by_axis.items():
        parts.sort(key=lambda part: part[:2])
        begins, ends = [part[0] for part in parts], [part[1] for part in parts]
        if len(parts) > 1 and begins == [0, *ends[:-1]] and ends[-1] == node.shape[axis]:
            outputs = tuple(part[2] for part in parts)
            yield Word("split", (node,), outputs, _numbers(axis=axis, outputs=len(parts)))


def build(
    arena: Arena, kind: str, attributes: dict[str, int], inputs: Sequence[Node], sizes: Sequence[int] | None = None
) -> tuple[Node, ...]:  # fmt: skip
    """The terms of a word.

    Args:
        arena: where they are made.
        kind, attributes, inputs: as in `Word`, one value for each attribute.
        sizes: of a split's parts, where its operand does not tell.

    Raises:
        CannotBuild: operands don't fit.
    """
    try:
        return _build(arena, kind, attributes, tuple(inputs), sizes)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:  # the shape function refused
        raise CannotBuild(f"{kind}: {error}") from error


def _build(
    arena: Arena, kind: str, attributes: dict[str, int], inputs: tuple[Node, ...], sizes: Sequence[int] | None
) -> tuple[Node, ...]:  # fmt: skip
    call = arena.call
    if kind == "conv":
        return (_build_conv(arena, attributes, *inputs),)
    if kind == "matmul":
        return (call(MATMUL, *inputs, None, None, ACTIVATIONS[attributes.get("activation", 0)]),)
    if kind in _PAIRS:
        if inputs[0].meta.shape != inputs[1].meta.shape:
            raise CannotBuild(f"{kind}: {inputs[0].shape} and {inputs[1].shape}")
        return (call(_PAIRS[kind], *inputs),)
    if kind in _PLAIN:
        return (call(_PLAIN[kind], *inputs),)
    if kind == "concat":
        if any(len(part.shape) != attributes.get("rank", len(part.shape)) for part in inputs):
            raise CannotBuild(f"concat: rank {attributes['rank']} wanted")
        return (call(aten.cat.default, inputs, attributes["axis"]),)
    if kind == "transpose":
        return (call(aten.permute.default, inputs[0], permutation(attributes["perm"], attributes["rank"])),)
    if kind == "enlarge":
        return (_build_enlarged(arena, *inputs),)
    if kind == "split":
        return _build_split(arena, attributes, inputs[0], sizes)
    raise CannotBuild(f"{kind} has no terms")


def _build_conv(arena: Arena, attributes: dict[str, int], x: Node, w: Node) -> Node:
    kernel, padding = w.shape[2:], (0, 0)
    if x.shape[1] != w.shape[1]:
        raise CannotBuild(f"conv: {x.shape[1]} channels and a kernel for {w.shape[1]}")
    if attributes.get("pad", SAME) == SAME:
        if any(k % 2 == 0 for k in kernel):
            raise CannotBuild(f"conv: an even kernel {kernel} has no centre")
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    stride = (attributes.get("stride_h", 1), attributes.get("stride_w", 1))
    activation = ACTIVATIONS[attributes.get("activation", 0)]
    return arena.call(CONV, x, w, None, None, stride, padding, (1, 1), 1, activation)


def _build_enlarged(arena: Arena, w: Node, like: Node) -> Node:
    extra = [new - old for new, old in zip(like.shape[2:], w.shape[2:], strict=True)]
    if any(taps < 0 or taps % 2 for taps in extra):
        raise CannotBuild(f"enlarge: {w.shape[2:]} has no place at the centre of {like.shape[2:]}")
    if not any(extra):
        return w
    pads = [taps // 2 for taps in reversed(extra) for _ in range(2)]
    return arena.call(aten.constant_pad_nd.default, w, pads, 0.0)


def _build_split(
    arena: Arena, attributes: dict[str, int], x: Node, sizes: Sequence[int] | None
) -> tuple[Node, ...]:  # fmt: skip
    axis = attributes["axis"]
    found = cuts(x, axis) or sizes
    if found is None or len(found) != attributes["outputs"] or sum(found) != x.shape[axis]:
        raise CannotBuild(f"split: it is not known where to split axis {axis} of {x.shape}")
    ends = [sum(found[: i + 1]) for i in range(len(found))]
    bounds = zip([0, *ends[:-1]], ends, strict=True)
    return tuple(arena.call(aten.slice.Tensor, x, axis, begin, end) for begin, end in bounds)


def cuts(node: Node, axis: int) -> list[int] | None:
    """Sizes of the parts that were joined along an axis, seen through what keeps the axis; None where none were."""
    if node.op is aten.cat.default:
        if node.option("dim", 1, 0) % len(node.shape) == axis:
            return [part.shape[axis] for part in node.args[0]]
        found = [cuts(part, axis) for part in node.args[0]]
        return found[0] if all(sizes == found[0] for sizes in found) else None
    if node.op in _PLAIN.values():
        return cuts(node.args[0], axis)
    if node.op in _PAIRS.values():
        return next((sizes for part in node.inputs if (sizes := cuts(part, axis))), None)
    if node.op is aten.permute.default:
        return cuts(node.args[0], node.args[1][axis])
    if node.op is CONV and axis < 2:
        return cuts(node.args[0], 0) if axis == 0 else cuts(node.args[1], 0)
    if node.op is MATMUL:
        return cuts(node.args[0], 0) if axis == 0 else cuts(node.args[1], 1)
    return None


def number_of(permutation: Sequence[int]) -> int:
    """An order of axes as one number: its digits in base rank."""
    return sum(axis * len(permutation) ** (len(permutation) - 1 - i) for i, axis in enumerate(permutation))


def permutation(number: int, rank: int) -> list[int]:
    """The order of axes of a number; undoes `number_of`."""
    if not 0 <= number < math.prod([rank] * rank):
        raise CannotBuild(f"transpose: {number} is no order of {rank} axes")
    return [number // rank ** (rank - 1 - i) % rank for i in range(rank)]


def _numbers(**values: Any) -> dict[str, frozenset[int]]:
    return {name: frozenset({value}) for name, value in values.items()}
