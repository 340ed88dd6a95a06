"""Rules as data: a source and a target pattern over `vocabulary`'s words, with constraints on attributes.

A match gives each source operator another operator of the program, with operands in the right slots, equal variables
bound to equal values, all constraints met, and no interior value used outside the match. Rule files are read by `taso`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from drivetrain.base.errors import InvalidValue, unknown_name

from .rule import Change, Rule
from .term import Arena, Graph, Node
from .vocabulary import COMMUTATIVE, KINDS, CannotBuild, Word, build, words

COMPARE: dict[str, Callable[[int, int], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One result of an operator of a pattern, by its position."""

    op: int
    slot: int = 0


Operand = str | Result  # a variable's name, or a result of an earlier operator


@dataclass(frozen=True)
class Op:
    """An operator of a pattern.

    Attributes:
        kind: one of `vocabulary.KINDS`.
        inputs: operands in order.
        attributes: what a source operator must have, and what a target operator gets.
    """

    kind: str
    inputs: tuple[Operand, ...]
    attributes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Constraint:
    """attribute of one source operator, compared with a number or with an attribute of another one.

    Attributes:
        op, attribute: the left side; "in0.1" is the size of the first operand's axis 1.
        compare: "=", "!=", "<" or ">".
        value: the number, or (op, attribute).
    """

    op: int
    attribute: str
    compare: str
    value: int | tuple[int, str]

    def holds(self, found: Sequence[Word]) -> bool:
        """Whether it is met, for at least one of the values that describe each side."""
        right = {self.value} if isinstance(self.value, int) else found[self.value[0]].attribute(self.value[1])
        compare = COMPARE[self.compare]
        return any(compare(a, b) for a in found[self.op].attribute(self.attribute) for b in right)


@dataclass(frozen=True, eq=False)
class Match:
    """Where a pattern was found.

    Attributes:
        words: the operator that each source operator stands for.
        variables: the value of each variable.
    """

    words: tuple[Word, ...]
    variables: dict[str, Node]


class PatternRule(Rule):
    """A rule from two patterns.

    Args:
        name: of the rule.
        source, target: operators, each after what it reads.
        outputs: (result of the source, result or variable of the target) for each value that is replaced.
        constraints: on the source's attributes.

    Raises:
        InvalidValue: an operand that is not there yet, a variable of the target that the source doesn't bind, an
            unknown kind or comparison.
    """

    number = "T"
    needs = "as its source pattern says; no interior value is used elsewhere"

    def __init__(
        self, name: str, source: Sequence[Op], target: Sequence[Op], outputs: Sequence[tuple[Result, Operand]],
        constraints: Sequence[Constraint] = (),
    ) -> None:  # fmt: skip
        self.name, self.source, self.target = name, tuple(source), tuple(target)
        self.outputs, self.constraints = tuple(outputs), tuple(constraints)
        _check(self)
        self.says = f"{_text(self.source)} = {_text(self.target) or 'a variable'}"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Anchored at the first result of the last source operator."""
        yield from (change.new for change in self.changes(graph, [anchor]))

    def changes(self, graph: Graph, anchors: Iterable[Node] | None = None) -> Iterator[Change]:
        """All applications in a graph, or at some nodes of it; the graph is searched once for all anchors."""
        wanted = None if anchors is None else set(anchors)
        for match in self.matches(graph):
            if wanted is None or match.words[-1].outputs[0] in wanted:
                change = self.applied(graph, match)
                if change:
                    yield Change(self.name, change)

    def matches(self, graph: Graph) -> Iterator[Match]:
        """All places where the source pattern is found."""
        yield from self._extend(graph, [], {})

    def _extend(self, graph: Graph, found: list[Word], variables: dict[str, Node]) -> Iterator[Match]:
        if len(found) == len(self.source):
            match = Match(tuple(found), dict(variables))
            if self._closed(graph, match) and all(constraint.holds(found) for constraint in self.constraints):
                yield match
            return
        op = self.source[len(found)]
        for word in words(graph).get(op.kind, ()):
            if word in found or len(word.inputs) != len(op.inputs):
                continue
            if any(value not in word.attribute(name) for name, value in op.attributes.items()):
                continue
            orders = [word.inputs, word.inputs[::-1]] if word.kind in COMMUTATIVE else [word.inputs]
            for operands in dict.fromkeys(orders):
                bound = _unify(op.inputs, operands, found, variables)
                if bound is not None:
                    yield from self._extend(graph, [*found, word], bound)

    def _closed(self, graph: Graph, match: Match) -> bool:
        """No interior value is used outside, and no variable's value depends on what is replaced."""
        inside = {node for word in match.words for node in word.outputs}
        replaced = {match.words[source.op].outputs[source.slot] for source, _ in self.outputs}
        for node in inside - replaced:
            if node in graph.returned or any(user not in inside for user in graph.users[node]):
                return False
        below, stack = set[Node](), list(match.variables.values())
        while stack:
            node = stack.pop()
            if node not in below:
                below.add(node)
                stack.extend(node.inputs)
        return not below & inside

    def applied(self, graph: Graph, match: Match) -> dict[Node, Node]:
        """What replaces each mapped value; nothing where the target can't be built on these shapes."""
        wanted: dict[Result, Node] = {
            target: match.words[source.op].outputs[source.slot]
            for source, target in self.outputs
            if isinstance(target, Result)
        }
        try:
            made = instantiate(graph.arena, self.target, match.variables, wanted)
        except CannotBuild:
            return {}
        change = {}
        for source, target in self.outputs:
            old = match.words[source.op].outputs[source.slot]
            new = match.variables[target] if isinstance(target, str) else made[target.op][target.slot]
            if (new.meta.shape, new.meta.dtype) != (old.meta.shape, old.meta.dtype):
                return {}
            change[old] = new
        return {old: new for old, new in change.items() if old is not new}


def instantiate(
    arena: Arena, pattern: Sequence[Op], variables: Mapping[str, Node], wanted: Mapping[Result, Node] | None = None
) -> list[tuple[Node, ...]]:  # fmt: skip
    """The results of a pattern's operators on some values.

    Args:
        arena: where terms are made.
        pattern: operators in order.
        variables: the value of each variable.
        wanted: values whose shapes some results must have; tells a split where to split.

    Raises:
        CannotBuild: shapes don't fit.
    """
    made: list[tuple[Node, ...]] = []
    for position, op in enumerate(pattern):
        inputs = [variables[x] if isinstance(x, str) else made[x.op][x.slot] for x in op.inputs]
        sizes = None
        if op.kind == "split":
            parts = [(wanted or {}).get(Result(position, slot)) for slot in range(op.attributes["outputs"])]
            known = [part.shape[op.attributes["axis"]] for part in parts if part is not None]
            sizes = known if len(known) == len(parts) else None
        made.append(build(arena, op.kind, dict(op.attributes), inputs, sizes))
    return made


def _unify(
    wanted: Sequence[Operand], operands: Sequence[Node], found: Sequence[Word], variables: Mapping[str, Node]
) -> dict[str, Node] | None:  # fmt: skip
    bound = dict(variables)
    for want, node in zip(wanted, operands, strict=True):
        value = bound.setdefault(want, node) if isinstance(want, str) else found[want.op].outputs[want.slot]
        if value is not node:
            return None
    return bound


def _check(rule: PatternRule) -> None:
    if not rule.source or not rule.outputs:
        raise InvalidValue(f"graph: the rule {rule.name!r} has no source or no output")
    for side, ops in (("source", rule.source), ("target", rule.target)):
        for position, op in enumerate(ops):
            if op.kind not in KINDS:
                raise unknown_name(f"graph: the rule {rule.name!r}: operator", op.kind, KINDS)
            if any(isinstance(x, Result) and not 0 <= x.op < position for x in op.inputs):
                raise InvalidValue(f"graph: the rule {rule.name!r}: {side} operator {position} reads a later one")
    bound = {x for op in rule.source for x in op.inputs if isinstance(x, str)}
    used = {x for op in rule.target for x in op.inputs if isinstance(x, str)}
    used |= {target for _, target in rule.outputs if isinstance(target, str)}
    if used - bound:
        raise InvalidValue(f"graph: the rule {rule.name!r}: the source binds no {', '.join(sorted(used - bound))}")
    for constraint in rule.constraints:
        if constraint.compare not in COMPARE:
            raise unknown_name(f"graph: the rule {rule.name!r}: comparison", constraint.compare, COMPARE)


def _text(ops: Sequence[Op]) -> str:
    """The pattern as nested calls; results of a split by number."""
    texts: list[str] = []
    for op in ops:
        inner = [x if isinstance(x, str) else texts[x.op] + (f"[{x.slot}]" if x.slot else "") for x in op.inputs]
        texts.append(f"{op.kind}({', '.join(inner)})")
    read = {x.op for op in ops for x in op.inputs if isinstance(x, Result)}
    return ", ".join(text for position, text in enumerate(texts) if position not in read)
