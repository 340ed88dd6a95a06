"""Do two programs compute the same? Random inputs in float64, where rounding can't hide a wrong equation.

check(model, optimised, (x,))            # two modules, or captured programs
check(rule)                              # a rewrite rule, on random programs in which it fires
verify_rules()                           # all of them: [(rule, trials, worst error)]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from drivetrain.base.errors import InvalidValue
from drivetrain.base.seeds import derive, torch_generator

from .capture import Program

if TYPE_CHECKING:
    from .rewrite.rule import Rule
    from .rewrite.samples import Draw
    from .rewrite.term import Graph


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        ok: no output differed by more than allowed.
        trials: programs or inputs tried.
        worst: largest difference, relative to the largest value of its output; infinite where shapes or dtypes differ.
        rtol: what is allowed.
        where: the trial and output with the worst difference, to find it again.
    """

    ok: bool
    trials: int
    worst: float
    rtol: float
    where: str

    def __str__(self) -> str:
        found = "the same" if self.ok else "NOT the same"
        return f"{found}: {self.worst:.2g} at worst (allowed {self.rtol:.2g}), {self.trials} trials, {self.where}"


def check(
    first: nn.Module | Program | Rule,
    second: nn.Module | Program | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = torch.float64,
    trials: int = 5,
    rtol: float = 1e-9,
    seed: int = 0,
    sample: Callable[[Draw], Graph] | None = None,
) -> Report:
    """Compare two modules on random inputs, or a rule's two sides on random programs.

    Args:
        first, second: modules (copied, never changed) or programs; a rule alone.
        args, kwargs: example inputs: shapes and the range of integers are taken from them, values drawn anew.
        dtype: floating-point dtype to compute in; None leaves modules as they are (packed weights can't be converted).
        trials: inputs to try; for a rule, programs.
        rtol: largest difference allowed, relative to the largest value of the output.
        seed: of all that is drawn.
        sample: draws programs for a rule that is not one of ours.

    Raises:
        InvalidValue: a second module is missing, no trials, or a rule never fired.
    """
    from .rewrite.rule import Rule

    if trials < 1:
        raise InvalidValue(f"graph: check needs 1 trial or more, found {trials}")
    if isinstance(first, Rule):
        return _check_rule(first, dtype or torch.float64, trials, rtol, seed, sample)
    if second is None:
        raise InvalidValue("graph: check compares two modules and got one", hint="check(model, optimised, (x,))")
    modules = [_module(module, dtype) for module in (first, second)]
    worst, where = -1.0, ""
    for trial in range(trials):
        leaves, spec = pytree.tree_flatten((args, dict(kwargs or {})))
        generator = torch_generator(seed, "check", trial)
        drawn = [_drawn(leaf, dtype, generator) for leaf in leaves]
        results = []
        for module in modules:
            again, named = pytree.tree_unflatten([_copied(value) for value in drawn], spec)
            with torch.no_grad():
                results.append(pytree.tree_leaves(module(*again, **named)))
        error, output = difference(*results)
        if error > worst:
            worst, where = error, f"trial {trial}, {output}"
    return Report(worst <= rtol, trials, max(worst, 0.0), rtol, where)


def verify_rules(trials: int = 25, seed: int = 0) -> list[tuple[Rule, int, float]]:
    """Check every rule on random programs: the rule, on how many, and the worst relative error in float64."""
    from .rewrite.rules import RULES

    reports = [(rule, check(rule, trials=trials, seed=seed)) for rule in RULES]
    return [(rule, report.trials, report.worst) for rule, report in reports]


def difference(expected: list[Any], got: list[Any]) -> tuple[float, str]:
    """Largest difference relative to the largest value of its output, and which output it is."""
    if len(expected) != len(got):
        return float("inf"), f"{len(got)} outputs instead of {len(expected)}"
    worst, where = 0.0, "output 0"
    for number, (one, other) in enumerate(zip(expected, got, strict=True)):
        error = _gap(one, other)
        if error > worst:
            worst, where = error, f"output {number}"
    return worst, where


def _gap(one: Any, other: Any) -> float:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return 0.0 if type(one) is type(other) and one == other else float("inf")
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if not one.numel():
        return 0.0
    same = one == other if not one.is_floating_point() else (one == other) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return 0.0
    if not one.is_floating_point():
        return float("inf")
    gap = torch.where(same, 0.0, (one.double() - other.double()).abs())
    scale = torch.where(one.isfinite(), one.double().abs(), 0.0).max().clamp_min(1e-300)
    return float((gap / scale).nan_to_num(float("inf"), float("inf")).max())


def _check_rule(
    rule: Rule, dtype: torch.dtype, trials: int, rtol: float, seed: int, sample: Callable[[Draw], Graph] | None
) -> Report:
    from .rewrite.samples import SAMPLES, Draw

    own = sample or SAMPLES.get(rule.name)
    samplers = [own] if own else list(SAMPLES.values())
    worst, where, fired, tried = -1.0, "", 0, 0
    while fired < trials and tried < 20 * trials:
        number = derive(seed, rule.name, tried)
        graph = samplers[tried % len(samplers)](Draw(number, dtype))
        tried += 1
        errors = [compare(graph, graph.replace(change.new), number) for change in rule.changes(graph)]
        fired += bool(errors)
        for error, output in errors:
            if error > worst:
                worst, where = error, f"program {number}, {output}"
    if not fired:
        raise InvalidValue(
            f"graph: the rule {rule.name!r} fired in none of {tried} random programs",
            hint="check(rule, sample=...) with a function that draws a program in which it fires",
        )
    return Report(worst <= rtol, fired, max(worst, 0.0), rtol, where)


def compare(graph: Graph, other: Graph, seed: int) -> tuple[float, str]:
    """Run two programs over the same leaves on the same random values; `difference` of their outputs."""
    from .rewrite.convert import to_fx
    from .rewrite.samples import values

    state, inputs = values(graph, seed)
    with torch.no_grad():
        return difference(*(list(to_fx(program, state)(*inputs)) for program in (graph, other)))


def _module(target: nn.Module | Program, dtype: torch.dtype | None) -> nn.Module:
    if isinstance(target, Program):  # its module would share the tensors
        module = target.with_module(target.module, copy.deepcopy(target.state)).as_module()
    else:
        module = copy.deepcopy(target)
    return module if dtype is None else module.to(dtype)


def _drawn(leaf: Any, dtype: torch.dtype | None, generator: torch.Generator) -> Any:
    """Another value like an example: normal, or an integer within the example's range."""
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_floating_point():
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(dtype or leaf.dtype)
    if leaf.dtype == torch.bool:
        return torch.rand(leaf.shape, generator=generator) < 0.5
    low, high = (int(leaf.min()), int(leaf.max())) if leaf.numel() else (0, 0)
    return torch.randint(low, high + 1, leaf.shape, generator=generator, dtype=leaf.dtype)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
