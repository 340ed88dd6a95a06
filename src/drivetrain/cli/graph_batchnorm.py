"""`drivetrain graph bn`: what restructuring the batch norms of a model saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drivetrain.base.errors import InvalidValue, unknown_name

from .show import console, print_json, table

if TYPE_CHECKING:
    from torch import nn


def bn(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="module:attribute or a drivetrain.nets name.")],
    shape: Annotated[str, typer.Option(help="Shape of a batch, as 16,3,224,224.")],
    level: Annotated[str, typer.Option(help="auto, stats_reuse, rcf, mvf or bnff: how far to fuse.")] = "auto",
    measure: Annotated[bool, typer.Option("--measure", help="Time a training step before and after, too.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which batch norms of a model fuse with their neighbours in training, and what that saves."""
    from drivetrain.base.files import write_text
    from drivetrain.graph.batchnorm import report as page
    from drivetrain.graph.batchnorm import restructure, traffic

    module, sizes = _module(model), _sizes(shape)
    found = traffic(module, sizes)
    summary = page.verdict(found, level)
    measured = page.measure(module, sizes, level) if measure else None
    if report is not None:
        write_text(report, page.to_html(found, f"{model}, batch norms restructured", measured, level))
    if as_json:
        print_json(page.facts(found) | ({"measured": measured} if measured else {}))
        return
    console.print(summary, markup=False, soft_wrap=True)
    if measured is not None:
        line = f"measured: {measured['before_s']:.3g} s before, {measured['after_s']:.3g} s after a training step"
        line += f" ({page.form(measured)})"
        console.print(line, markup=False, soft_wrap=True)
    largest = sorted(found.rows, key=lambda row: -row.feature_bytes)[:20]
    done = {edge.bn: edge.reason for edge in restructure(module, level=level)[1]}
    rows: list[tuple[Any, ...]] = [
        (row.bn, " x ".join(map(str, row.shape)), f"{row.feature_bytes / 1e6:.2f}", done[row.bn]) for row in largest
    ]
    table("Largest inputs", ("batch norm", "input", "MB", "what is done"), rows)
    written = f"written: {report}; " if report is not None else ""
    option = "" if level == "auto" else f', level="{level}"'
    console.print(f"{written}next: drivetrain.graph.batchnorm.patch_(model{option})", markup=False, soft_wrap=True)


def _module(model: str) -> nn.Module:
    from torch import nn

    from drivetrain import nets
    from drivetrain.base.modules import is_spec, load_attribute

    if is_spec(model):
        found = load_attribute(model, Path.cwd())
        found = found if isinstance(found, nn.Module) else found()
    elif model in nets.NETS:
        found = nets.build(model, seed=0)
    else:
        raise unknown_name("graph: model", model, sorted(nets.NETS))
    if not isinstance(found, nn.Module):
        raise InvalidValue(f"graph: {model} gives a {type(found).__name__}, wanted a torch.nn.Module")
    return found


def _sizes(shape: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError:
        raise InvalidValue(f"graph: --shape {shape!r} is no list of sizes", hint="--shape 16,3,224,224") from None
    if len(sizes) != 4 or min(sizes) < 1:
        raise InvalidValue(f"graph: --shape {shape!r} is not four sizes N,C,H,W of 1 or more")
    return sizes


def register(app: typer.Typer) -> None:
    """Add the command to the room's."""
    app.command()(bn)
