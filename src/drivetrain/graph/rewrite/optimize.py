"""Optimise a program: rules, search, the choice of lowering, the check of its results, and a last measured comparison.

Nothing is believed: costs are measured, the rewritten program's outputs are compared with the original's, and what is
returned is the fastest of original and rewritten forms in an interleaved run, so it is never slower than the input.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue, MissingExtra, unknown_name

from ..capture import Program, capture
from ..cost import CostTable, default_path
from ..lowering import lacks, of_programs, to_try
from .candidates import Candidates, compare, culprits, metas_of, taken_apart
from .convert import NotRewritable, fold, from_fx
from .guard import Guarded
from .meta import Meta
from .price import Objective, Pricer
from .result import OptimizeResult, Step, steps_of
from .rule import Change, Rule, simplify
from .rules import RULES
from .strategy import search_program
from .term import Graph

__all__ = ["OptimizeResult", "Step", "optimize"]


def optimize(
    target: nn.Module | torch.export.ExportedProgram | Program,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: str | Sequence[Rule] = "default",
    cost: str | Objective = "time",
    alpha: float = 1.05,
    budget: int = 300,
    split_threshold: int = 30,
    time_limit_s: float = 60.0,
    tolerance: float = 1e-4,
    then: str = "auto",
    table: CostTable | Path | None = None,
    rounds: int = 15,
) -> OptimizeResult:
    """Make a module's inference faster on this machine, for inputs like the given ones.

    The result holds the weights as they are now: train first. Its outputs lie in memory as the original's do for the
    example; a call with other sizes is refused. A rule that raises is left out and told in `failures`; where a rule
    makes the program compute something else, it is named in `wrong` and the original is returned.

    Args:
        target: a module in evaluation mode, or a captured program.
        args, kwargs: example inputs of a module; sizes are those that will be served.
        rules: "default", "always" (no search), or rules, as `[*RULES, my_rule]` (see `rule`).
        cost: what the search minimises: "time", "flops", "bytes", "launches", or an `Objective` with limits.
        alpha: how much dearer than the best a program may be to be followed; 1 is greedy.
        budget: programs the search takes up at most, over all parts.
        split_threshold: operators of a part that is searched as a whole.
        time_limit_s: of the search.
        tolerance: largest accepted difference, relative to the largest output.
        then: how to run: "auto" (what is measured fastest), "eager", "onednn", "onnxruntime", or "inductor" (which
            compiles for minutes, so "auto" leaves it out).
        table: measured operator costs; by default this machine's own file.
        rounds: of the last comparison.

    Raises:
        InvalidValue: alpha below 1 and other values out of range; the module is in training mode.
        MissingExtra: the lowering that was asked for can't run here.
        NotRewritable: the captured program mutates tensors or has shapes that depend on data.
    """
    if isinstance(target, nn.Module) and target.training:
        raise InvalidValue("graph: the module is in training mode", hint="call .eval() first")
    started = time.monotonic()
    lowerings, failures = _lowerings(then), dict[str, str]()
    chosen = [Guarded(rule, failures) for rule in _rules(rules)]
    objective = cost if isinstance(cost, Objective) else Objective(cost)
    if not isinstance(table, CostTable):
        table = CostTable(table or default_path())
    with torch.no_grad():
        program = target if isinstance(target, Program) else capture(target, args, kwargs)
    if program.writes:
        raise NotRewritable(
            f"graph: the program writes {', '.join(program.writes)} at each call", hint="is a module in training mode?"
        )
    original = target if isinstance(target, nn.Module) else program.as_module()
    captured = time.monotonic()
    whole, images = terms_of(program)
    simple, changes = simplify(whole, [rule for rule in chosen if rule.always])
    simple, state = fold(simple, program.state)
    pricer = Pricer(table, measured=objective.metric == "time" or any(name == "time" for name, _ in objective.limits))
    left = max(0.0, time_limit_s - (time.monotonic() - started))
    found = search_program(
        simple, chosen, pricer, objective, alpha=alpha, budget=budget, threshold=split_threshold, seconds=left
    )
    table.save()
    search_seconds = time.monotonic() - captured
    call_args, call_kwargs = program.example_call
    with torch.no_grad():
        expected = pytree.tree_leaves(original(*call_args, **call_kwargs))
        candidates = Candidates(
            found.forms, state, lowerings, images, program.in_spec, program.out_spec,
            [Meta.of(x) for x in program.example_inputs], metas_of(expected),
            original if taken_apart(original) else None,
        )  # fmt: skip
        compared = compare(original, expected, call_args, call_kwargs, candidates, tolerance, rounds)
        wrong = _culprits(whole, chosen, changes, found.changes, program, tolerance) if compared.off else []
        if compared.off:
            compared.then, compared.module = "original", original
    return OptimizeResult(
        compared.module, compared.then, steps_of(changes, found.changes), pricer.graph(simple),
        pricer.graph(found.forms[-1]), compared.measured, compared.errors[compared.then], found.explored, found.seen,
        time.monotonic() - started, search_seconds, compared.refused, failures, wrong, candidates, program, whole,
    )  # fmt: skip


def terms_of(program: Program) -> tuple[Graph, bool]:
    """A captured program's terms, and whether it takes images, which are then taken channels last."""
    names = {node.name: name for name, node in program.state_nodes.items()}
    images = any(isinstance(x, Tensor) and x.dim() == 4 for x in program.example_inputs)
    return from_fx(program.module.graph, names, channels_last=images), images


def _culprits(
    whole: Graph,
    rules: Sequence[Rule],
    changes: Sequence[Change],
    tried: Sequence[tuple[Change, float]],
    program: Program,
    tolerance: float,
) -> list[str]:
    """Which of the rules that were applied compute something else; all of them where none does alone."""
    names = {change.rule for change in [*changes, *(change for change, _ in tried)]}
    used = [rule for rule in rules if rule.name in names]
    return culprits(whole, used, program.state, program.example_inputs, tolerance) or sorted(names)


def _rules(rules: str | Sequence[Rule]) -> list[Rule]:
    if rules == "default":
        return list(RULES)
    if rules == "always":
        return [rule for rule in RULES if rule.always]
    if isinstance(rules, str):
        raise unknown_name("graph: rules", rules, ["default", "always"])
    for rule in rules:
        if not isinstance(rule, Rule):
            raise InvalidValue(f"graph: {rule!r} is no rule", hint='@drivetrain.graph.rule("its name") makes one')
    return list(rules)


def _lowerings(then: str) -> list[str]:
    if then == "auto":
        return to_try()
    if then not in of_programs():
        raise unknown_name("graph: lowering", then, [*of_programs(), "auto"])
    if lacks(then):
        raise MissingExtra(f"graph: the lowering {then!r} needs {lacks(then)}", hint="then='auto' takes what is there")
    return [then]
