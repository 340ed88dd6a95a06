"""How a whole program is searched: wide rules first, then parts between minimum cuts, then the seams between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .price import Objective, Pricer
from .rule import Change, Rule, simplify
from .search import search
from .split import join, seams, split
from .term import Graph, Node

Neighbours = Callable[[Graph], Iterator[tuple[Change, Graph]]]


@dataclass(frozen=True)
class Searched:
    """What searching a program came to.

    Attributes:
        forms: the program as it came, and the better one where there is one.
        changes: the applications of rules that lead there, and what each gained, in the objective's unit.
        explored, seen: graphs taken up, and made.
    """

    forms: tuple[Graph, ...]
    changes: tuple[tuple[Change, float], ...] = ()
    explored: int = 0
    seen: int = 0


def search_program(
    graph: Graph, rules: Sequence[Rule], pricer: Pricer, objective: Objective, *,
    alpha: float = 1.05, budget: int = 300, threshold: int = 30, seconds: float = 60.0,
) -> Searched:  # fmt: skip
    """Search a program that the `always` rules have simplified.

    Args:
        graph: the program.
        rules: `always` ones are applied after each step, the others are tried.
        pricer, objective: what is minimised.
        alpha, budget: of `search`; the budget is divided among the parts.
        threshold: operators of a part.
        seconds: at most.
    """
    always, tried = [rule for rule in rules if rule.always], [rule for rule in rules if not rule.always]
    if not tried:
        return Searched((graph,))
    end = time.monotonic() + seconds
    steps: list[tuple[Change, float]] = []
    counts = [0, 0]

    def price(item: Graph) -> float:
        return objective.of(pricer.graph(item))

    def made_by(some: Sequence[Rule], anchors: Sequence[Node] | None = None) -> Neighbours:
        def neighbours(item: Graph) -> Iterator[tuple[Change, Graph]]:
            here = None if anchors is None else [node for node in anchors if node in item.users]
            for rule in some:
                for change in rule.changes(item, here):
                    yield change, simplify(item.replace(change.new), always)[0]

        return neighbours

    def best(start: Graph, neighbours: Neighbours, taken: int, until: float) -> Graph:
        left = max(0.0, until - time.monotonic())
        found = search(
            start, neighbours, price, lambda item: item.digest, alpha=alpha, budget=taken, time_limit_s=left, keep=1
        )
        first = found.best[0]
        before = (price(start), *first.costs)
        steps.extend((change, old - new) for change, old, new in zip(first.path, before, first.costs, strict=False))
        counts[0], counts[1] = counts[0] + found.explored, counts[1] + found.seen
        return first.item

    wide = best(graph, made_by([rule for rule in tried if rule.whole]), budget, end)
    parts = split(wide, tried, threshold)
    better = []
    for number, part in enumerate(parts):
        share = time.monotonic() + max(0.0, end - time.monotonic()) / (len(parts) - number + 1)
        better.append(best(part.graph, made_by(tried), max(1, budget // len(parts)), share))
    joined = simplify(join(wide, parts, better), always)[0]
    if len(parts) > 1:
        joined = best(joined, made_by(tried, seams(parts, joined)), max(1, budget // len(parts)), end)
    forms = (graph,) if joined.digest == graph.digest else (graph, joined)
    return Searched(forms, tuple(steps), counts[0], counts[1])
