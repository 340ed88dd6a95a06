"""Large graphs are cut where few rule matches pass, searched in parts and joined (paper, section 5).

Cap(v) counts the matches that would be lost if v's result were a boundary: those that take v away together with one of
its readers. A minimum vertex cut between the first and the last quarter of the graph has the fewest of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx

from .rule import Rule
from .term import INPUT, STATE, Graph, Node

_SCALE = 64  # one lost match outweighs so many boundary values


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a program as a program of its own.

    Attributes:
        graph: the piece; what earlier pieces compute are inputs of it.
        stands_for: leaf -> the node of the whole program that it stands for.
        gives: nodes of the whole program that its outputs are, in order.
    """

    graph: Graph
    stands_for: Mapping[Node, Node]
    gives: tuple[Node, ...]


def capacities(graph: Graph, rules: Iterable[Rule]) -> Counter[Node]:
    """Cap(v) for every node that some match takes away together with a reader."""
    found: Counter[Node] = Counter()
    for rule in rules:
        for change in rule.changes(graph):
            lost = set(graph.order) - set(graph.replace(change.new).order)
            found.update(node for node in lost if any(user in lost for user in graph.users[node]))
    return found


def cut(order: Sequence[Node], capacity: Mapping[Node, int]) -> set[Node]:
    """The nodes of the first part: a closed set that holds the first quarter and not the last.

    Args:
        order: operators in topological order.
        capacity: what it costs to make a node's value a boundary.
    """
    members, quarter = set(order), max(1, len(order) // 4)
    flow = networkx.DiGraph()
    for node in order:
        flow.add_edge((node, "in"), (node, "out"), capacity=_SCALE * capacity.get(node, 0) + 1)
        for inner in node.inputs:
            if inner in members:
                flow.add_edge((inner, "out"), (node, "in"))
                flow.add_edge((node, "in"), (inner, "in"))  # what the first part reads belongs to it
    for node in order[:quarter]:
        flow.add_edge("source", (node, "in"))
    for node in order[-quarter:]:
        flow.add_edge((node, "in"), "sink")
    _, (near, _) = networkx.minimum_cut(flow, "source", "sink")
    return {node for node in order if (node, "in") in near}


def split(graph: Graph, rules: Sequence[Rule], threshold: int = 30) -> list[Part]:
    """Cut a program until no part has more operators than the threshold; parts in order of computation."""
    operators = [node for node in graph.order if node.op not in (INPUT, STATE) and not node.constant]
    capacity = capacities(graph, rules)
    groups: list[list[Node]] = []

    def halve(nodes: list[Node]) -> None:
        if len(nodes) <= max(threshold, 3):
            groups.append(nodes)
            return
        first = cut(nodes, capacity)
        if not 0 < len(first) < len(nodes):
            groups.append(nodes)
            return
        halve([node for node in nodes if node in first])
        halve([node for node in nodes if node not in first])

    if operators:
        halve(operators)
    return [_part(graph, group, number) for number, group in enumerate(groups)]


def join(graph: Graph, parts: Sequence[Part], better: Sequence[Graph]) -> Graph:
    """The program with each part's outputs computed as its better form says."""
    now: dict[Node, Node] = {}
    for part, form in zip(parts, better, strict=True):
        leaves = {leaf: now.get(node, node) for leaf, node in part.stands_for.items()}
        now.update(zip(part.gives, form.replace(leaves).outputs, strict=True))
    return Graph(graph.arena, graph.inputs, graph.outputs).replace(
        {node: new for node, new in now.items() if new is not node}
    )


def seams(parts: Sequence[Part], joined: Graph, reach: int = 2) -> list[Node]:
    """Nodes of the joined program near the boundaries: parts are the best there are only inside."""
    edge = {node for part in parts for node in part.gives if node in joined.users}
    for _ in range(reach):
        edge |= {user for node in edge for user in joined.users[node]} | {
            inner for node in edge for inner in node.inputs if not inner.constant
        }
    return [node for node in joined.order if node in edge]


def _part(graph: Graph, nodes: list[Node], number: int) -> Part:
    members = set(nodes)
    boundary = {
        inner: None
        for node in nodes
        for inner in node.inputs
        if inner not in members and inner.op not in (INPUT, STATE) and not inner.constant
    }
    gives = tuple(
        node for node in nodes if node in graph.returned or any(user not in members for user in graph.users[node])
    )
    leaves = {node: graph.arena.leaf(INPUT, f"cut.{number}.{i}", node.meta) for i, node in enumerate(boundary)}
    inside = Graph(graph.arena, (*graph.inputs, *leaves.values()), gives).replace(leaves)
    return Part(inside, {leaf: node for node, leaf in leaves.items()}, gives)
