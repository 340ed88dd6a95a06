"""Backtracking search over graphs that rules make from one another (the paper's algorithm 1).

    Q = {G0}; while Q: G = cheapest of Q; for each rule and match: G' = apply; if cost(G') < alpha cost(best): push G'

With alpha above 1 a graph may be kept that is dearer than the best: only so are rules tried that pay later.
The search knows nothing of graphs: it takes any starting point, its neighbours, a cost and a digest.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from drivetrain.base.errors import InvalidValue

T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """One graph that the search met.

    Attributes:
        item: the graph.
        cost: its cost.
        path: the applications of rules that lead from the start to it, as the neighbours name them.
        costs: after each of them.
    """

    item: T
    cost: float
    path: tuple[Any, ...]
    costs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Search(Generic[T]):
    """What a search came to.

    Attributes:
        best: the cheapest graphs met, cheapest first.
        explored: graphs taken from the queue.
        seen: different graphs made.
        stopped: why it ended: "exhausted", "budget" or "time".
    """

    best: tuple[Found[T], ...]
    explored: int
    seen: int
    stopped: str


def search(
    start: T,
    neighbours: Callable[[T], Iterable[tuple[Any, T]]],
    cost: Callable[[T], float],
    digest: Callable[[T], bytes],
    *,
    alpha: float = 1.05,
    budget: int = 300,
    time_limit_s: float = 60.0,
    keep: int = 4,
) -> Search[T]:
    """Search from a start; of equal costs the shorter way wins, then the digest: equal inputs give equal results.

    Args:
        start: G0.
        neighbours: (a name for it, graph) for each application of a rule.
        cost: to minimise; infinite for what must not be.
        digest: equal for equal graphs.
        alpha: how much dearer than the best a graph may be to be followed; 1 is greedy.
        budget: graphs taken from the queue at most.
        time_limit_s: seconds at most.
        keep: how many of the best to return.

    Raises:
        InvalidValue: alpha below 1, or a budget below 0.
    """
    if not alpha >= 1:
        raise InvalidValue(f"graph: alpha must be 1 or more, found {alpha}", hint="1 is greedy; the paper uses 1.05")
    if budget < 0:
        raise InvalidValue(f"graph: a search budget must be 0 or more, found {budget}")
    end = time.monotonic() + time_limit_s
    first = Found(start, cost(start), ())
    queue = [(first.cost, 0, digest(start), first)]
    seen, best, explored, stopped = {digest(start)}, queue[:], 0, "exhausted"
    while queue:
        if explored >= budget or time.monotonic() > end:
            stopped = "budget" if explored >= budget else "time"
            break
        price, _, _, found = heapq.heappop(queue)
        if price > alpha * best[0][0]:
            break  # the cheapest left is too dear, so all are
        explored += 1
        for name, item in neighbours(found.item):
            key = digest(item)
            if key in seen:
                continue
            seen.add(key)
            price = cost(item)
            if price >= alpha * best[0][0]:
                continue
            path = (*found.path, name)
            entry = (price, len(path), key, Found(item, price, path, (*found.costs, price)))
            heapq.heappush(queue, entry)
            best = sorted([*best, entry], key=lambda row: row[:3])[:keep]
            if time.monotonic() > end:
                break
    return Search(tuple(row[3] for row in best), explored, len(seen), stopped)
