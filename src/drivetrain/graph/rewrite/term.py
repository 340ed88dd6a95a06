"""Programs as hash-consed terms: what the rules of relaxed substitution read and write.

A `Node` is an operator applied to nodes and constants; two nodes that compute the same thing the same way are one
object, so a graph's digest is a canonical hash, common subexpressions collapse by themselves, and a substitution costs
a rebuilt path instead of a copied graph. Terms are pure: programs that mutate in place don't become terms
(`convert.from_fx` refuses them), and operators that draw random numbers carry a serial number that keeps them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import torch

from .meta import Meta, infer

Operator = Any  # torch._ops.OpOverload, another callable of an fx graph, or one of the leaf names below
INPUT, STATE, GET = "input", "state", "get"

_ATEN = torch.ops.aten
_COMMUTATIVE = {_ATEN.add.Tensor, _ATEN.mul.Tensor}


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Node:
    """One operator applied to arguments. Compared by identity: equal terms of an arena are one object.

    Attributes:
        op: the operator, or "input", "state" (a parameter or buffer by name) or "get" (one of several results).
        args, kwargs: nodes, constants, and tuples of them.
        meta: shape, dtype and strides of the result; a tuple for several results.
        digest: 128 bits of what is computed; deterministic over processes.
        constant: depends on state alone, so inference computes it once.
        source: where the operator came from in the user's code; no part of the digest.
    """

    op: Operator
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    meta: Any
    digest: bytes
    constant: bool
    source: str = ""

    def __repr__(self) -> str:
        return f"{name_of(self.op)}:{self.digest.hex()[:6]}"

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Nodes this one reads, in argument order, repeated where it reads one twice."""
        return tuple(_nodes((*self.args, *(value for _, value in self.kwargs))))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a single result."""
        return tuple(self.meta.shape)

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """An argument by name or position, as ATen's schemas allow both."""
        if position < len(self.args):
            return self.args[position]
        return dict(self.kwargs).get(name, default)


class Arena:
    """Where nodes live: makes them, and makes equal ones only once."""

    def __init__(self) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._serial = 0

    def leaf(self, kind: str, name: str, meta: Meta) -> Node:
        """An input or a state tensor."""
        return self._intern(kind, (name,), (), meta, kind == STATE, "")

    def call(self, op: Operator, *args: Any, source: str = "", **kwargs: Any) -> Node:
        """Apply an operator; its result's shape, dtype and strides are worked out by PyTorch's own shape functions."""
        args = tuple(freeze(value) for value in args)
        named = tuple(sorted((key, freeze(value)) for key, value in kwargs.items()))
        known = self._nodes.get(self._digest(op, args, named))
        if known is not None and not is_random(op):
            return known
        return self.make(op, args, named, infer(op, args, named), source)

    def get(self, node: Node, index: int) -> Node:
        """One of a node's several results."""
        return self._intern(GET, (node, index), (), node.meta[index], node.constant, node.source)

    def make(self, op: Operator, args: tuple[Any, ...], kwargs: tuple[Any, ...], meta: Any, source: str = "") -> Node:
        """Apply an operator whose result's meta is known; args are frozen already."""
        if is_random(op):
            self._serial += 1
            kwargs = (*kwargs, ("_serial", self._serial))
        return self._intern(op, args, kwargs, meta, _constant(op, args, kwargs), source)

    def rebuilt(self, node: Node, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> Node:
        """The same operator on other nodes of the same shapes, a random one with the number it had."""
        inputs = list(_nodes((*args, *(value for _, value in kwargs))))
        meta = node.meta
        if node.op == GET:
            meta = args[0].meta[args[1]]
        elif [inner.meta for inner in inputs] != [inner.meta for inner in node.inputs]:
            meta = infer(node.op, args, kwargs)
        return self._intern(node.op, args, kwargs, meta, _constant(node.op, args, kwargs), node.source)

    def _intern(self, op: Operator, args: Any, kwargs: Any, meta: Any, constant: bool, source: str) -> Node:
        digest = self._digest(op, args, kwargs)
        node = self._nodes.get(digest)
        if node is None:
            node = self._nodes[digest] = Node(op, args, kwargs, meta, digest, constant, source)
        return node

    def _digest(self, op: Operator, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> bytes:
        words = [_word(value) for value in args]
        if op in _COMMUTATIVE and not kwargs and len(args) == 2 and all(isinstance(value, Node) for value in args):
            words.sort()
        text = f"{name_of(op)}({','.join(words)};{','.join(f'{key}={_word(value)}' for key, value in kwargs)})"
        return blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Graph:
    """Some terms of an arena as a program.

    Attributes:
        arena: where its nodes live.
        inputs: leaves in the order the program takes them; also those that nothing reads.
        outputs: nodes or constants in the order the program returns them.
    """

    arena: Arena
    inputs: tuple[Node, ...]
    outputs: tuple[Any, ...]

    @cached_property
    def order(self) -> tuple[Node, ...]:
        """All nodes, each after what it reads."""
        done: dict[Node, None] = {}
        for output in _nodes(self.outputs):
            stack: list[tuple[Node, Iterator[Node]]] = [(output, iter(output.inputs))] if output not in done else []
            while stack:
                node, rest = stack[-1]
                child = next((inner for inner in rest if inner not in done), None)
                if child is None:
                    done[node] = None
                    stack.pop()
                else:
                    stack.append((child, iter(child.inputs)))
        return tuple(done)

    @cached_property
    def users(self) -> dict[Node, list[Node]]:
        """Who reads a node, once for each time it is read."""
        users: dict[Node, list[Node]] = {node: [] for node in self.order}
        for node in self.order:
            for inner in node.inputs:
                users[inner].append(node)
        return users

    @cached_property
    def returned(self) -> frozenset[Node]:
        """Nodes that are outputs: a rule may not take their value away."""
        return frozenset(_nodes(self.outputs))

    @cached_property
    def digest(self) -> bytes:
        """Canonical hash: the same for programs that compute the same outputs the same way."""
        return blake2b("|".join(_word(value) for value in self.outputs).encode(), digest_size=16).digest()

    def only_user(self, node: Node) -> Node | None:
        """The one node that reads this one, None where there are more or it is an output."""
        users = self.users.get(node, [])
        return users[0] if len(users) == 1 and node not in self.returned else None

    def replace(self, change: Mapping[Node, Node]) -> Graph:
        """The program with some nodes' values computed otherwise; what nothing reads any more is gone.

        A new term may read what lies below the node that it stands for, also where that is replaced as well.
        """
        new: dict[Node, Node] = {}
        for node in self.order:
            if node in change:
                new[node] = self._substituted(change[node], new)
            elif any(inner in new for inner in node.inputs):
                new[node] = self._substituted(node, new)
        return Graph(self.arena, self.inputs, _mapped(self.outputs, new))

    def _substituted(self, term: Node, new: dict[Node, Node]) -> Node:
        """A term with what is replaced already put in; nodes of the program itself are looked up, not entered."""
        if term in new:
            return new[term]
        fresh: dict[Node, Node] = {}

        def value(node: Node) -> Node:
            if node in new or (node is not term and node in self.users):
                return new.get(node, node)
            if node not in fresh:
                args = tuple(map_nodes(item, value) for item in node.args)
                kwargs = tuple((key, map_nodes(item, value)) for key, item in node.kwargs)
                same = (args, kwargs) == (node.args, node.kwargs)
                fresh[node] = node if same else self.arena.rebuilt(node, args, kwargs)
            return fresh[node]

        return value(term)


def freeze(value: Any) -> Any:
    """Lists become tuples, so that arguments can be hashed."""
    return tuple(freeze(item) for item in value) if isinstance(value, list | tuple) else value


def name_of(op: Operator) -> str:
    """The operator as `aten.add.Tensor`."""
    return op if isinstance(op, str) else str(op)


def is_random(op: Operator) -> bool:
    """Whether two calls with the same arguments differ."""
    return isinstance(op, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in op.tags


def map_nodes(value: Any, change: Callable[[Node], Any]) -> Any:
    """A nested argument with every node replaced by what a function makes of it."""
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, tuple | list):
        return tuple(map_nodes(item, change) for item in value)
    return value


def _mapped(value: Any, new: Mapping[Node, Node]) -> Any:
    return map_nodes(value, lambda node: new.get(node, node))


def _nodes(values: Iterable[Any]) -> Iterator[Node]:
    for value in values:
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from _nodes(value)


def _constant(op: Operator, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> bool:
    """Whether inference may compute it once: it reads only state (or nothing) and draws no random number."""
    return not is_random(op) and all(node.constant for node in _nodes((*args, *(value for _, value in kwargs))))


def _word(value: Any) -> str:
    if isinstance(value, Node):
        return value.digest.hex()
    if isinstance(value, tuple):
        return f"[{','.join(_word(item) for item in value)}]"
    return f"{type(value).__name__}:{value!r}"
