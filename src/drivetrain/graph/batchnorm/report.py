"""What restructuring does to a model, edge by edge, as JSON facts and as a page."""

from __future__ import annotations

import copy
import html
from typing import Any

import torch
from torch import nn

from drivetrain.base.timing import interleave, machine_line

from .patch import patch_
from .rewrite import check_level
from .traffic_model import Traffic, sweeps


def facts(found: Traffic) -> dict[str, Any]:
    """Everything the traffic model says, for machines."""
    return {
        "batch_norms": len(found.rows),
        "edges": sum(row.fused for row in found.rows),
        "composite_layers": found.composite_layers,
        "edge_bytes": found.edge_bytes,
        "shared_bytes": found.shared_bytes,
        "distinct_bytes": found.distinct_bytes,
        "step_bytes": {level: found.step_bytes(level) for level in ("baseline", "rcf", "mvf", "bnff")},
        "rows": [
            {
                "bn": row.bn, "shape": list(row.shape), "feature_bytes": row.feature_bytes, "shared": row.shared,
                "bytes_before": sum(sweeps("baseline")) * row.feature_bytes if row.fused else None,
                "bytes_after": sum(sweeps("bnff")) * row.feature_bytes if row.fused else None,
                "fused": row.fused, "reason": row.reason,
            }
            for row in found.rows
        ],
    }  # fmt: skip


def verdict(found: Traffic, level: str = "auto") -> str:
    """The one line that a user wants to know, of a level; "auto" is "bnff", all of it.

    Raises:
        InvalidValue: there is no such level.
    """
    level = "bnff" if check_level(level) == "auto" else level
    if level == "stats_reuse":
        return (
            f"level stats_reuse fuses nothing: {found.shared_bytes / 1e6:,.0f} MB of inputs that several batch norms "
            f"read are swept for statistics as {found.distinct_bytes / 1e6:,.0f} MB of features"
        )
    fused = sum(row.fused for row in found.rows)
    if not fused:
        return f"none of {len(found.rows)} batch norms lies between convolutions with a ReLU: nothing to fuse"
    before, after = (found.step_bytes(level) / 1e6 for level in ("baseline", level))
    return (
        f"{fused} of {len(found.rows)} batch norms fuse into convolutions: {before:,.0f} MB -> {after:,.0f} MB "
        f"a training step by the model"
    )


def measure(model: nn.Module, shape: tuple[int, ...], level: str = "auto", rounds: int = 3) -> dict[str, str | float]:
    """A training step before and after, in turn: seconds, their ratio, and the form that was decided on before.

    The model itself is not touched.

    Raises:
        InvalidValue: there is no such level.
    """
    plain = copy.deepcopy(model).train()
    fused = copy.deepcopy(plain)
    x = torch.randn(shape)
    plan = patch_(fused, example=x, level=level)

    def step(module: nn.Module) -> None:
        module(x).square().mean().backward()
        module.zero_grad(set_to_none=True)

    timings = interleave({"before": lambda: step(plain), "after": lambda: step(fused)}, rounds=rounds)
    before, after = timings["before"], timings["after"]
    return {
        "before_s": before.median, "after_s": after.median, "times_faster": before.ratio(after),
        "level": plan.level, "layout": plan.layout,
    }  # fmt: skip


def form(measured: dict[str, Any]) -> str:
    """What was decided on, in words."""
    return "the model as it is" if measured["level"] == "off" else (
        f"level {measured['level']}, {measured['layout']} layout"
    )  # fmt: skip


def to_html(found: Traffic, title: str, measured: dict[str, Any] | None = None, level: str = "auto") -> str:
    """A self-contained page: the verdict, what was measured, a row for each batch norm."""
    rows = "".join(
        f"<tr><td>{html.escape(row.bn)}</td><td>{' x '.join(map(str, row.shape))}</td>"
        f"<td>{row.feature_bytes / 1e6:.2f}</td>"
        f"<td>{'yes' if row.shared else ''}</td><td>{html.escape(row.reason)}</td></tr>"
        for row in found.rows
    )
    time = "" if measured is None else (
        f"<p>measured: {measured['before_s']:.3g} s before, {measured['after_s']:.3g} s after "
        f"({measured['times_faster']:.2f} times as fast; {form(measured)}), {html.escape(machine_line())}</p>"
    )  # fmt: skip
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{font:15px/1.5 system-ui;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.1rem .8rem;text-align:left;border-bottom:1px solid #ddd}table{border-collapse:collapse}</style>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(verdict(found, level))}</p>{time}"
        f"<p>{found.edge_bytes / 1e6:.1f} MB of inputs, {found.shared_bytes / 1e6:.1f} MB of them read by several "
        f"batch norms and made of {found.distinct_bytes / 1e6:.1f} MB of features, each of which is swept once.</p>"
        "<table><tr><th>batch norm<th>input<th>MB<th>shared<th>what is done</tr>"
        f"{rows}</table>"
    )
