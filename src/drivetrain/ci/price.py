"""`Plan.explain()`: what each clause costs and why, and what each knob would save."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .condition import Condition
from .plan import Plan, plan
from .reliability import Adaptivity


@dataclass(frozen=True)
class Knob:
    """One change of the plan and its price.

    Attributes:
        change: what would be changed.
        labels: labels needed then.
        saved: labels saved by it; negative when it costs more.
    """

    change: str
    labels: int
    saved: int


def replan(current: Plan, **changes: Any) -> Plan:
    """The same plan with some arguments of `plan` changed."""
    arguments: dict[str, Any] = {
        "condition": current.condition, "reliability": current.reliability, "steps": current.steps,
        "adaptivity": current.adaptivity, "mode": current.mode, "estimator": current.estimator,
        "variance_bound": current.variance_bound, "label_fraction": current.label_fraction,
        "score_range": current.score_range, "grouped": current.grouped, "pool_tolerance": current.pool_tolerance,
    }  # fmt: skip
    arguments.update(changes)
    return plan(arguments.pop("condition"), **arguments)


def knobs(current: Plan) -> list[Knob]:
    """Price the changes a user can make, one at a time, the largest saving first."""
    changes: list[tuple[str, dict[str, Any]]] = []
    if current.adaptivity == "full":
        changes.append(("adaptivity full -> first-change", {"adaptivity": "first-change"}))
        if current.steps > 3:
            changes.append(("adaptivity full -> passes:3", {"adaptivity": "passes:3"}))
    elif Adaptivity.parse(current.adaptivity).kind != "open":
        changes.append((f"adaptivity {current.adaptivity} -> full", {"adaptivity": "full"}))
    wider = [(clause.tol, clause.tol * 1.5) for clause in current.condition.clauses]
    names = ", ".join(f"{a:g} -> {b:g}" for a, b in dict.fromkeys(wider))
    clauses = [clause.widened(float(f"{1.5 * clause.tol:.12g}")) for clause in current.condition.clauses]
    changes.append((f"tolerance {names}", {"condition": Condition(tuple(clauses))}))
    if current.reliability > 0.9:
        less = float(f"{1 - 10 * (1 - current.reliability):.10g}")
        if 0 < less < 1:
            changes.append((f"reliability {current.reliability:g} -> {less:g}", {"reliability": less}))
    if current.steps > 1:
        changes.append((f"steps {current.steps} -> {current.steps // 2}", {"steps": current.steps // 2}))
    if current.only_differing and current.labels and current.differ >= 1:
        changes.append(("add the clause or promise d < 0.1", {"variance_bound": 0.1}))
    if current.estimator != "hoeffding":
        changes.append(
            (f"estimator {current.estimator} -> hoeffding (paper's plain bound)", {"estimator": "hoeffding"})
        )
    priced = [(name, replan(current, **change)) for name, change in changes]
    found = [Knob(name, other.labels, current.labels - other.labels) for name, other in priced]
    return sorted(found, key=lambda knob: -knob.saved)


def explain(current: Plan) -> str:
    """Text of `Plan.explain()`."""
    per = "" if current.labels_per_commit == current.labels else f", about {current.labels_per_commit:,} per commit"
    lines = [
        f"{current.labels:,} labels{per}, {current.unlabelled:,} unlabelled items",
        f"for {current.condition}",
        f"reliability {current.reliability:g} over {current.steps} commits, adaptivity {current.adaptivity}, mode "
        f"{current.mode}: each decision may err with probability {_probability(current.log_inverse)}",
    ]
    for priced in current.clauses:
        kind = "labels" if priced.clause.labelled else "unlabelled"
        lines.append(f"  {priced.clause}: {priced.n:,} {kind} ({priced.method}: {priced.why})")
    if current.only_differing and current.labels:
        lines.append(
            "  labels are only asked for where the two models differ: elsewhere n - o is zero whatever the label"
        )
    if isinstance(current.variance_bound, float | int):
        lines.append(f"  assumes that at most {current.variance_bound:g} of the items differ: you vouch for it")
    if current.variance_bound == "pool":
        sizes = ", ".join(f"{current.given(d).labels:,} if d <= {d:g}" for d in (0.05, 0.1, 0.2, 0.4))
        lines.append(f"  d is bounded on {current.pool:,} unlabelled items of their own; then {sizes}")
    lines += [f"  warning: {text}" for text in current.warnings]
    if current.labels:
        lines.append("what each knob is worth, in labels")
        for knob in knobs(current):
            lines.append(f"  {knob.change:<58} {knob.labels:>11,}  {_saving(knob.saved)}")
    return "\n".join(lines)


def _saving(saved: int) -> str:
    return f"saves {saved:,}" if saved >= 0 else f"costs {-saved:,} more"


def _probability(log_inverse: float) -> str:
    if log_inverse < 600:
        return f"{math.exp(-log_inverse):.3g}"
    return f"10^-{log_inverse / math.log(10):.0f}"
