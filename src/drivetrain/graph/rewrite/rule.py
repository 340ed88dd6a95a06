"""What a rule is: it finds places in a graph and says what to compute there instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .term import Graph, Node


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
    """

    name: str
    number: str
    says: str
    needs: str
    always: bool = False
    whole: bool = False
    inference_only: bool = False

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


def simplify(graph: Graph, rules: Iterable[Rule]) -> tuple[Graph, list[Change]]:
    """Apply rules wherever they fire until none does, many places at a time.

    Fit for rules whose new terms read only what lies below their anchor.
    """
    rules, steps = list(rules), list[Change]()
    while True:
        found: dict[Node, Node] = {}
        for anchor in graph.order:
            change = next((change for rule in rules for change in rule.changes(graph, [anchor])), None)
            if change is not None:
                found.update(change.new)
                steps.append(change)
        if not found:
            return graph, steps
        graph = graph.replace(found)
