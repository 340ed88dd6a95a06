"""The search on graphs that are only names, the split on random graphs held against every cut."""

import random
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drivetrain.base.errors import DrivetrainError
from drivetrain.graph.rewrite import Objective
from drivetrain.graph.rewrite.rules import RULES
from drivetrain.graph.rewrite.search import search
from drivetrain.graph.rewrite.split import cut, join, split
from drivetrain.graph.rewrite.term import Arena

from .programs import Program, conv, terms, x

COST = {"A": 100.0, "B": 102.0, "C": 71.4, "D": 200.0, "E": 1.0}
NEXT = {"A": ["B", "D"], "B": ["C"], "C": ["A"], "D": ["E"], "E": []}


def found(alpha, **options):
    return search(
        "A", lambda name: [(f"to {other}", other) for other in NEXT[name]], COST.__getitem__, str.encode, alpha=alpha,
        **options,
    )  # fmt: skip


def test_a_dearer_graph_is_kept_only_within_alpha():
    assert found(1.0).best[0].item == "A"
    best = found(1.05).best[0]
    assert (best.item, best.path) == ("C", ("to B", "to C"))
    assert found(3.0).best[0].item == "E"  # what doubles first and then costs nothing


def test_the_search_stops_for_a_reason_that_it_tells():
    assert found(1.05).stopped == "exhausted" and found(1.05, budget=1).stopped == "budget"
    assert found(1.05, budget=0).best[0].item == "A"
    assert found(1.05, time_limit_s=-1.0).stopped == "time"


def test_equal_costs_are_ordered_the_same_way_every_time():
    def best(order):
        after = {"A": [("r", name) for name in order]}
        return search("A", lambda name: after.get(name, []), lambda _: 1.0, str.encode, alpha=1.1).best[0].item

    assert len({best(order) for order in ("BCD", "DCB", "CDB")}) == 1


def test_bad_input():
    with pytest.raises(DrivetrainError, match="alpha must be 1 or more, found 0.9"):
        found(0.9)
    with pytest.raises(DrivetrainError, match="budget must be 0 or more"):
        found(1.0, budget=-1)
    with pytest.raises(DrivetrainError) as error:
        Objective("flop")
    assert "flops" in str(error.value) + str(error.value.hint)
    with pytest.raises(DrivetrainError, match="limit must be above 0"):
        Objective("time", (("bytes", 0),))


def random_dag(seed, size):
    """Nodes in topological order, each reading one or two earlier ones, and a capacity for each."""
    draw, arena = random.Random(seed), Arena()
    from drivetrain.graph.rewrite.meta import Meta

    meta = Meta((2,), torch.float32, (1,))
    nodes = [arena.leaf("input", "x", meta)]
    for number in range(size):
        first = draw.choice(nodes[-3:])
        nodes.append(arena.call(torch.ops.aten.add.Tensor, first, draw.choice(nodes[-4:]), alpha=number + 1))
    return nodes[1:], {node: draw.randrange(5) for node in nodes}


def price(order, first, capacity):
    """What a closed first part costs: the capacities of its nodes that the second part reads."""
    return sum(
        64 * capacity[node] + 1
        for node in first
        if any(node in other.inputs for other in order if other not in first)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_the_cut_is_the_cheapest_of_all(seed):
    order, capacity = random_dag(seed, 9)
    quarter = max(1, len(order) // 4)
    first = cut(order, capacity)
    free = order[quarter:-quarter]
    best = float("inf")
    for size in range(len(free) + 1):
        for more in combinations(free, size):
            candidate = {*order[:quarter], *more}
            closed = all(inner in candidate or inner not in order for node in candidate for inner in node.inputs)
            if closed:
                best = min(best, price(order, candidate, capacity))
    assert all(inner in first or inner not in order for node in first for inner in node.inputs), "not closed"
    assert set(order[:quarter]) <= first and not set(order[-quarter:]) & first
    assert price(order, first, capacity) == best


def test_a_chain_is_cut_where_fewest_matches_pass():
    arena = Arena()
    from drivetrain.graph.rewrite.meta import Meta

    nodes = [arena.leaf("input", "x", Meta((2,), torch.float32, (1,)))]
    for _ in range(4):
        nodes.append(arena.call(torch.ops.aten.sin.default, nodes[-1]))
    a, b, c, d = nodes[1:]
    assert cut([a, b, c, d], {a: 5, b: 1, c: 4}) == {a, b}


def test_parts_join_to_what_they_were():
    layers = {f"c{i}": conv(4, 4, 3, padding=1) for i in range(12)}

    def run(m, v):
        for i in range(0, 12, 2):
            v = F.relu(getattr(m, f"c{i}")(v)) + F.relu(getattr(m, f"c{i + 1}")(v)) * v
        return v, v.mean()

    graph, _ = terms(Program(run, **layers), x(1, 4, 5, 5))
    parts = split(graph, [rule for rule in RULES if not rule.always], threshold=8)
    assert len(parts) > 3
    assert join(graph, parts, [part.graph for part in parts]).digest == graph.digest


def test_the_digest_is_canonical():
    layer = nn.Linear(3, 3).double()
    one, _ = terms(Program(lambda m, v: m.a(v) + v.sin(), a=layer), x(2, 3), fused=False)
    other, _ = terms(Program(lambda m, v: v.sin() + m.a(v), a=layer), x(2, 3), fused=False)
    different, _ = terms(Program(lambda m, v: v.cos() + m.a(v), a=layer), x(2, 3), fused=False)
    assert one.digest == other.digest != different.digest


def test_equal_subexpressions_are_one():
    graph, _ = terms(Program(lambda m, v: v.sin() * v.cos() + v.sin()), x(2, 3))
    assert sum(node.op is torch.ops.aten.sin.default for node in graph.order) == 1


def test_random_operators_stay_apart():
    graph, _ = terms(Program(lambda m, v: torch.rand_like(v) + torch.rand_like(v)), x(2, 3))
    assert sum("rand" in str(node.op) for node in graph.order) == 2
