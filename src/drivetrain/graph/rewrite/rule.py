"""What a rule is: it finds places in a graph and says what to compute there instead.

@rule("relu-twice", says="relu(relu(x)) = relu(x)")
def relu_twice(graph, node):
    if node.op is aten.relu.default and node.args[0].op is aten.relu.default:
        return node.args[0]

optimize(model, (x,), rules=[*RULES, relu_twice]);  check(relu_twice, sample=...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from drivetrain.base.errors import InvalidValue

from .term import Graph, Node

_SWEEPS = 200  # real programs need ten


@dataclass(frozen=True, eq=False)
class Change:
    """One application of a rule.

    Attributes:
        rule: the rule's name.
        new: what each replaced node's value is computed by instead.
    """

    rule: str
    new: dict[Node, Node]


class Rule:
    """A substitution, valid wherever it fires.

    Attributes:
        name: short, as "merge-convs".
        number: R1 to R15 of the specification.
        says: the equation, for the report.
        needs: the exact conditions, in words.
        always: applied wherever it fires (it never makes a graph slower); other rules are tried by the search.
        whole: joins operators from all over a program, so it is tried before the program is cut.
        inference_only: changes what gradients see (folding running statistics).
        exact: both sides are equal for all real numbers; False for an approximation that a tolerance must bear.
        proof: what shows that it is.
    """

    name: str
    number: str
    says: str
    needs: str
    always: bool = False
    whole: bool = False
    inference_only: bool = False
    exact: bool = True
    proof: str = "none; tried on random inputs"

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """Changes at one node; what the anchor is depends on the rule.

        A value that is used outside the matched operators is never taken away.
        """
        raise NotImplementedError

    def changes(self, graph: Graph, anchors: Iterable[Node] | None = None) -> Iterator[Change]:
        """All applications in a graph, or at some nodes of it."""
        for anchor in graph.order if anchors is None else anchors:
            for new in self.find(graph, anchor):
                yield Change(self.name, new)


Finder = Callable[[Graph, Node], "Node | Mapping[Node, Node] | Iterable[Mapping[Node, Node]] | None"]


class FunctionRule(Rule):
    """A rule from a function; made by `rule`."""

    number = "user"

    def __init__(self, finder: Finder) -> None:
        self.finder = finder

    def find(self, graph: Graph, anchor: Node) -> Iterator[dict[Node, Node]]:
        """What the function found at a node."""
        found = self.finder(graph, anchor)
        if found is None:
            return
        if isinstance(found, Node):
            yield {anchor: found}
        elif isinstance(found, Mapping):
            yield dict(found)
        else:
            yield from map(dict, found)


def rule(
    name: str, *, exact: bool = True, says: str = "", needs: str = "", proof: str = "", always: bool = False,
    whole: bool = False, inference_only: bool = False,
) -> Callable[[Finder], Rule]:  # fmt: skip
    """Make a rule of a function `(graph, node) -> what to compute instead`.

    The function returns the term that replaces the node (`graph.arena.call(op, ...)` makes one), a mapping from several
    nodes to their terms, an iterable of such mappings where there are several ways, or None where it doesn't fire. It
    must not take away a value that others read: `graph.only_user(node)` tells.

    Args:
        name: for reports.
        exact, says, needs, proof, always, whole, inference_only: as of `Rule`; `says` is by default the docstring.

    Raises:
        InvalidValue: an empty name.
    """
    if not name:
        raise InvalidValue("graph: a rule needs a name", hint='@rule("relu-twice")')

    def made(finder: Finder) -> Rule:
        new = FunctionRule(finder)
        new.name, new.exact, new.always, new.whole, new.inference_only = name, exact, always, whole, inference_only
        new.says, new.needs = says or (finder.__doc__ or name).strip().partition("\n")[0], needs
        new.proof = proof or Rule.proof
        return new

    return made


def simplify(graph: Graph, rules: Iterable[Rule]) -> tuple[Graph, list[Change]]:
    """Apply rules wherever they fire until none does, many places at a time.

    Fit for rules whose new terms read only what lies below their anchor.

    Raises:
        InvalidValue: the rules undo each other, or never come to an end.
    """
    rules, steps = list(rules), list[Change]()
    for _ in range(_SWEEPS):
        found: dict[Node, Node] = {}
        for anchor in graph.order:
            change = next((change for rule in rules for change in rule.changes(graph, [anchor])), None)
            if change is not None:
                found.update(change.new)
                steps.append(change)
        if not found:
            return graph, steps
        graph = graph.replace(found)
    last = sorted({change.rule for change in steps[-len(found) :]})
    raise InvalidValue(
        f"graph: always applied, {', '.join(last)} came to no end in {_SWEEPS} sweeps",
        hint="rules that undo each other, or that fire on what they made, belong into the search: always=False",
    )
