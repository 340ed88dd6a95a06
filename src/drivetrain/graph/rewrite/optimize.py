"""Optimise a program: rules, search, the choice of lowering, the check of its results, and a last measured comparison.

Nothing is believed: costs are measured, the rewritten program's outputs are compared with the original's, and what is
returned is the fastest of original and rewritten forms in an interleaved run, so it is never slower than the input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue, RunFailed, unknown_name
from drivetrain.base.timing import Timing, interleave

from ..capture import Program, capture
from ..cost import Cost, CostTable, default_path
from .convert import NotRewritable, fold, from_fx, to_fx
from .lower import choose
from .price import Objective, Pricer
from .rule import Rule, simplify
from .rules import RULES
from .search import search
from .split import join, seams, split
from .term import Graph, Node

Neighbours = Callable[[Graph], Iterator[tuple[str, Graph]]]


@dataclass(frozen=True)
class Step:
    """One kind of rewrite that was applied.

    Attributes:
        rule: its name.
        times: how often.
    """

    rule: str
    times: int


@dataclass
class OptimizeResult:
    """What optimising came to.

    Attributes:
        module: the fastest form, called as the original is.
        then: how it runs: a lowering's name, or "original" where nothing was faster.
        steps: rewrites that lead to it.
        cost_before, cost_after: by the cost table, of the simplified and of the searched program.
        measured: every form's times in the last, interleaved comparison, seconds.
        max_abs_err: largest difference of any output from the original's.
        explored, seen: graphs the search took up, and made.
        seconds, search_seconds: what optimising took, and of it rules, costs and search.
        refused: forms that could not be built or whose results were off, and why.
    """

    module: nn.Module
    then: str
    steps: list[Step]
    cost_before: Cost
    cost_after: Cost
    measured: dict[str, Timing]
    max_abs_err: float
    explored: int = 0
    seen: int = 0
    seconds: float = 0.0
    search_seconds: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    searched: _Candidates | None = None
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def program(self) -> Program:
        """The rewritten program in plain ATen operators, for `save` and other tools; no lowering is in it."""
        assert self.searched is not None
        module = self.searched.build(self.searched.forms[-1], to_fx, channels_last=False)
        args, kwargs = self.arguments
        with torch.no_grad():
            return capture(module.eval(), args, kwargs)

    @property
    def measured_before_ms(self) -> float:
        """The original's median time."""
        return 1e3 * self.measured["original"].median

    @property
    def measured_after_ms(self) -> float:
        """The chosen form's median time."""
        return 1e3 * self.measured[self.then].median

    @property
    def gain(self) -> float:
        """How many times faster, by pairs of runs next to each other."""
        return 1.0 / self.measured[self.then].ratio(self.measured["original"])


class Optimized(nn.Module):
    """A rewritten program that takes and returns what the original did.

    Args:
        runner: flat tensors in, flat outputs out.
        in_spec, out_spec: the original's structure of arguments and results.
        channels_last: 4-D arguments are brought into this memory format first.
    """

    def __init__(self, runner: nn.Module, in_spec: Any, out_spec: Any, channels_last: bool) -> None:
        super().__init__()
        self.runner, self.in_spec, self.out_spec, self.channels_last = runner, in_spec, out_spec, channels_last
        count = in_spec.num_leaves
        # Tensors in, one tensor out, is what most models do: 20 us less than the general way.
        self._count = count if in_spec == pytree.tree_structure((tuple(range(count)), {})) else -1
        self._single = out_spec == pytree.tree_structure(0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        flat: Sequence[Any] = args
        if kwargs or len(args) != self._count or not all(isinstance(value, Tensor) for value in args):
            flat, spec = pytree.tree_flatten((args, kwargs))
            if spec != self.in_spec:
                raise InvalidValue(f"graph: called with the arguments {spec}, optimised for {self.in_spec}")
        if self.channels_last:
            flat = [
                x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.dim() == 4 else x
                for x in flat
            ]
        results = self.runner(*flat)
        return results[0] if self._single else pytree.tree_unflatten(list(results), self.out_spec)


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

    The result holds the weights as they are now: train first.

    Args:
        target: a module in evaluation mode, or a captured program.
        args, kwargs: example inputs of a module; sizes are those that will be served.
        rules: "default", "always" (no search), or rules.
        cost: what the search minimises: "time", "flops", "bytes", "launches", or an `Objective` with limits.
        alpha: how much dearer than the best a program may be to be followed; 1 is greedy.
        budget: programs the search takes up at most, over all parts.
        split_threshold: operators of a part that is searched as a whole.
        time_limit_s: of the search.
        tolerance: largest accepted difference, relative to the largest output.
        then: how to run: "auto" (what is measured fastest), "eager", "onednn", "onnxruntime".
        table: measured operator costs; by default this machine's own file.
        rounds: of the last comparison.

    Raises:
        InvalidValue: alpha below 1 and other values out of range; the module is in training mode.
        NotRewritable: the captured program mutates tensors or has shapes that depend on data.
    """
    if isinstance(target, nn.Module) and target.training:
        raise InvalidValue("graph: the module is in training mode", hint="call .eval() first")
    started = time.monotonic()
    lowerings = choose(then)
    chosen = _rules(rules)
    objective = cost if isinstance(cost, Objective) else Objective(cost)
    if not isinstance(table, CostTable):
        table = CostTable(table or default_path())
    with torch.no_grad():
        program = target if isinstance(target, Program) else capture(target, args, kwargs)
    if program.writes:
        raise NotRewritable(
            f"graph: the program writes {', '.join(program.writes)} at each call", hint="is a module in training mode?"
        )
    args, kwargs = program.example_call
    original = target if isinstance(target, nn.Module) else program.as_module()
    names, state = {node.name: name for name, node in program.state_nodes.items()}, program.state
    images = any(isinstance(x, Tensor) and x.dim() == 4 for x in pytree.tree_leaves((args, kwargs)))
    captured = time.monotonic()
    whole = from_fx(program.module.graph, names, channels_last=images)
    simple, changes = simplify(whole, [rule for rule in chosen if rule.always])
    simple, state = fold(simple, state)
    pricer = Pricer(table, measured=objective.metric == "time" or any(name == "time" for name, _ in objective.limits))
    left = max(0.0, time_limit_s - (time.monotonic() - started))
    forms, path, outcome = _searched(simple, chosen, pricer, objective, alpha, budget, split_threshold, left)
    table.save()
    searched = time.monotonic() - captured
    result = OptimizeResult(
        original, "original", _steps([change.rule for change in changes], path),
        pricer.graph(simple), pricer.graph(forms[-1]), {}, 0.0, *outcome,
    )  # fmt: skip
    candidates = _Candidates(forms, state, lowerings, images, program.in_spec, program.out_spec)
    _compare(original, args, kwargs, candidates, tolerance, rounds, result)
    result.searched, result.seconds = candidates, time.monotonic() - started
    result.arguments, result.search_seconds = (args, kwargs), searched
    return result


@dataclass(frozen=True)
class _Candidates:
    """Forms of a program and ways to run each."""

    forms: Sequence[Graph]
    state: Mapping[str, Tensor]
    lowerings: Mapping[str, Any]
    images: bool
    in_spec: Any
    out_spec: Any

    def __iter__(self) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
        """Each one's name, and a function that builds it."""
        for name, lower in self.lowerings.items():
            for number, form in enumerate(self.forms):
                build = partial(self.build, form, lower, channels_last=self.images and name != "onnxruntime")
                yield (name if number == 0 else f"{name} after search"), build

    def build(self, form: Graph, lower: Any, channels_last: bool) -> nn.Module:
        """One form under one lowering, called as the original is."""
        return Optimized(lower(*fold(form, self.state)), self.in_spec, self.out_spec, channels_last)


def _rules(rules: str | Sequence[Rule]) -> list[Rule]:
    if rules == "default":
        return list(RULES)
    if rules == "always":
        return [rule for rule in RULES if rule.always]
    if isinstance(rules, str):
        raise unknown_name("graph: rules", rules, ["default", "always"])
    return list(rules)


def _searched(
    graph: Graph, rules: Sequence[Rule], pricer: Pricer, objective: Objective,
    alpha: float, budget: int, threshold: int, seconds: float,
) -> tuple[list[Graph], list[str], tuple[int, int]]:  # fmt: skip
    """The program as it came and as the search made it; which rules; graphs explored and seen."""
    always, tried = [rule for rule in rules if rule.always], [rule for rule in rules if not rule.always]
    if not tried:
        return [graph], [], (0, 0)
    end = time.monotonic() + seconds

    def price(item: Graph) -> float:
        return objective.of(pricer.graph(item))

    def made_by(some: Sequence[Rule], anchors: Sequence[Node] | None = None) -> Neighbours:
        def neighbours(item: Graph) -> Iterator[tuple[str, Graph]]:
            here = None if anchors is None else [node for node in anchors if node in item.users]
            for rule in some:
                for change in rule.changes(item, here):
                    yield rule.name, simplify(item.replace(change.new), always)[0]

        return neighbours

    def best(start: Graph, neighbours: Neighbours, taken: int, until: float) -> Graph:
        left = max(0.0, until - time.monotonic())
        found = search(
            start, neighbours, price, lambda item: item.digest, alpha=alpha, budget=taken, time_limit_s=left, keep=1
        )
        path.extend(found.best[0].path)
        counts[0], counts[1] = counts[0] + found.explored, counts[1] + found.seen
        return found.best[0].item

    path, counts = list[str](), [0, 0]
    wide = best(graph, made_by([rule for rule in tried if rule.whole]), budget, end)
    parts = split(wide, tried, threshold)
    better = []
    for number, part in enumerate(parts):
        share = time.monotonic() + max(0.0, end - time.monotonic()) / (len(parts) - number + 1)
        better.append(best(part.graph, made_by(tried), max(1, budget // len(parts)), share))
    joined = simplify(join(wide, parts, better), always)[0]
    if len(parts) > 1:
        joined = best(joined, made_by(tried, seams(parts, joined)), max(1, budget // len(parts)), end)
    forms = [graph] if joined.digest == graph.digest else [graph, joined]
    return forms, path, (counts[0], counts[1])


def _compare(
    target: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], candidates: _Candidates,
    tolerance: float, rounds: int, result: OptimizeResult,
) -> None:  # fmt: skip
    """Run every candidate beside the original; the fastest right one becomes the result's module."""
    runners: dict[str, nn.Module] = {"original": target}
    errors: dict[str, float] = {"original": 0.0}
    with torch.no_grad():
        expected = pytree.tree_leaves(target(*args, **kwargs))
        for label, build in candidates:
            try:
                module = build()
                got = pytree.tree_leaves(module(*args, **kwargs))
            except Exception as error:  # whatever a backend can't hold: it is named, and the others go on
                result.refused[label] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                continue
            errors[label], worst = _difference(expected, got)
            if worst <= tolerance:
                runners[label] = module
            else:
                result.refused[label] = f"its outputs differ by {worst:.2g} of the largest; allowed {tolerance:g}"
        competitors = {label: _caller(module, args, kwargs) for label, module in runners.items()}
        result.measured = interleave(competitors, rounds=rounds, warmup=2)
    reference = result.measured["original"]
    result.then = min(result.measured, key=lambda label: result.measured[label].ratio(reference))
    result.module, result.max_abs_err = runners[result.then], errors[result.then]


def _caller(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return lambda: module(*args, **kwargs)


def _difference(expected: Sequence[Any], got: Sequence[Any]) -> tuple[float, float]:
    """Largest absolute difference, and largest relative to its output's largest value."""
    if len(expected) != len(got):
        raise RunFailed(f"graph: {len(got)} outputs where the original has {len(expected)}")
    largest = relative = 0.0
    for one, other in zip(expected, got, strict=True):
        if isinstance(one, Tensor) and one.numel():
            gap = float((one.double() - other.double()).abs().max())
            largest = max(largest, gap)
            relative = max(relative, gap / max(float(one.double().abs().max()), 1e-30))
    return largest, relative


def _steps(*names: Sequence[str]) -> list[Step]:
    counted: dict[str, int] = {}
    for name in (name for some in names for name in some):
        counted[name] = counted.get(name, 0) + 1
    return [Step(name, times) for name, times in counted.items()]
