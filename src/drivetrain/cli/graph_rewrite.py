"""`drivetrain graph optimize | rules`: relaxed graph substitutions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drivetrain.base.errors import DrivetrainError, InvalidValue, MissingFile

from .show import console, print_json, table

if TYPE_CHECKING:
    from drivetrain.graph.capture import Program
    from drivetrain.graph.rewrite import Rule


def optimize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="model.pt2, module:attribute, or a drivetrain.nets name.")
    ],
    shape: Annotated[str | None, typer.Option(help="Shape of the input, as 1,3,224,224; a .pt2 has its own.")] = None,
    sample: Annotated[Path | None, typer.Option("--input", metavar="X.npy", help="An example input instead.")] = None,
    alpha: Annotated[float, typer.Option(help="How much dearer a program may be to be followed; 1 is greedy.")] = 1.05,
    budget: Annotated[int, typer.Option(help="Programs that the search takes up at most.")] = 300,
    seconds: Annotated[float, typer.Option(help="Of the search, at most.")] = 60.0,
    cost: Annotated[str, typer.Option(help="time, flops, bytes or launches.")] = "time",
    then: Annotated[str, typer.Option(help="How to run: auto, eager, onednn, onnxruntime or inductor.")] = "auto",
    own: Annotated[
        list[str] | None, typer.Option("--rule", metavar="MODULE:ATTRIBUTE", help="A rule of your own, beside ours.")
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Print the program before and after.")] = False,
    threads: Annotated[int | None, typer.Option(help="PyTorch threads. (default: as many as there are)")] = None,
    report: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page of what was done.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="OUT.pt2", help="Write the program.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rewrite a model for faster inference on this machine, and measure that it is.

    Exits with 1 where a rule made it compute something else; the original is what is kept then.
    """
    import torch

    from drivetrain.base.files import write_text
    from drivetrain.graph import rewrite
    from drivetrain.graph.rewrite.report import gained, verdict

    if threads is not None:
        if threads < 1:
            raise InvalidValue(f"graph: --threads must be 1 or more, found {threads}")
        torch.set_num_threads(threads)
    program = _program(model, shape, sample)
    result = rewrite.optimize(
        program, alpha=alpha, budget=budget, time_limit_s=seconds, cost=cost, then=then, rules=_rules(own or [])
    )
    if report is not None:
        write_text(report, rewrite.to_html(result, f"{model}, rewritten"))
    if out is not None:
        (result.program() if result.ok else program).save(out)
    if as_json:
        print_json({
            "then": result.then, "gain": result.gain, "max_abs_err": result.max_abs_err,
            "before_ms": result.measured_before_ms, "after_ms": result.measured_after_ms,
            "measured_ms": {label: 1e3 * timing.median for label, timing in result.measured.items()},
            "steps": [asdict(step) for step in result.steps], "explored": result.explored, "seen": result.seen,
            "cost_before": asdict(result.cost_before), "cost_after": asdict(result.cost_after),
            "refused": result.refused, "failures": result.failures, "wrong": result.wrong,
            "seconds": result.seconds, **({"diff": result.diff()} if diff else {}),
        })  # fmt: skip
        raise typer.Exit(0 if result.ok else 1)
    console.print(verdict(result))
    rows = sorted(result.measured.items(), key=lambda item: item[1].median)
    table("How fast each form ran", ("form", "time (spread)"), [(k, str(v)) for k, v in rows])
    if result.steps:
        rows_of_steps = [
            (step.rule, step.times, gained(step), step.where[0] + (" ..." if step.times > 1 else ""))
            for step in result.steps
        ]
        table("Rewrites", ("rule", "times", "gain by the table", "where"), rows_of_steps)
    for name, why in result.failures.items():
        console.print(f"left out: {name}: {why}", markup=False)
    for label, why in result.refused.items():
        console.print(f"refused: {label}: {why}", markup=False)
    written = [str(path) for path in (report, out) if path is not None]
    if diff:
        console.print(result.diff(), markup=False, highlight=False)
    console.print(f"written: {', '.join(written)}" if written else "next: --report out.html, -o faster.pt2")
    if not result.ok:
        raise typer.Exit(1)


def rules(
    verify: Annotated[bool, typer.Option("--verify", help="Try each on random programs in float64.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every substitution: what it says and when it may be applied."""
    if verify:
        _verify(as_json)
        return
    from drivetrain.graph.rewrite import RULES

    rows: list[dict[str, Any]] = [
        {
            "number": rule.number,
            "name": rule.name,
            "says": rule.says,
            "needs": rule.needs,
            "always": rule.always,
            "proof": rule.proof,
        }
        for rule in RULES
    ]
    if as_json:
        print_json(rows)
        return
    shown = [(row["number"], row["name"], row["says"], row["needs"]) for row in rows]
    table("Substitutions", ("no.", "rule", "says", "needs"), shown)


def _verify(as_json: bool) -> None:
    """Exit 1 where a rule computes something else."""
    from drivetrain.graph.verify import verify_rules

    bound = 1e-12
    found = [(rule.number, rule.name, trials, worst) for rule, trials, worst in verify_rules()]
    wrong = [name for _, name, _, worst in found if not worst <= bound]
    if as_json:
        print_json([{"number": a, "name": b, "programs": c, "largest error": d} for a, b, c, d in found])
    else:
        told = f"wrong: {', '.join(wrong)}" if wrong else f"all {len(found)} rules compute the same, to {bound:g}"
        console.print(told)
        table("Tried on random programs", ("no.", "rule", "programs", "largest error"), found)
    if wrong:
        raise typer.Exit(1)


def _rules(own: list[str]) -> str | list[Rule]:
    """Ours, and those that the command line names."""
    from drivetrain.base.modules import load_attribute
    from drivetrain.graph.rewrite import RULES, Rule

    if not own:
        return "default"
    found = [load_attribute(spec, Path.cwd()) for spec in own]
    for spec, rule in zip(own, found, strict=True):
        if not isinstance(rule, Rule):
            raise InvalidValue(
                f"graph: {spec} is a {type(rule).__name__}, wanted a rule", hint="@drivetrain.graph.rule"
            )
    return [*found, *RULES]  # first, so that they see operators that ours would fuse away


def _program(model: str, shape: str | None, sample: Path | None) -> Program:
    """Capture what the command line names."""
    import torch

    from drivetrain import nets
    from drivetrain.base.errors import unknown_name
    from drivetrain.base.modules import is_spec, load_attribute
    from drivetrain.graph.capture import Program, capture

    if model.endswith(".pt2"):
        return Program.load(model)
    if is_spec(model):
        found = load_attribute(model, Path.cwd())
        module = found if isinstance(found, torch.nn.Module) else found()
    elif model in nets.NETS:
        module = nets.build(model, seed=0)
    else:
        raise unknown_name("graph: model", model, sorted(nets.NETS))
    if not isinstance(module, torch.nn.Module):
        raise InvalidValue(f"graph: {model} gives a {type(module).__name__}, wanted a torch.nn.Module")
    with torch.no_grad():
        return capture(module.eval(), (_example(shape, sample),))


def _example(shape: str | None, sample: Path | None) -> Any:
    import numpy as np
    import torch

    if sample is not None:
        if not sample.is_file():
            raise MissingFile(f"graph: there is no file {sample}")
        try:
            return torch.from_numpy(np.load(sample))
        except ValueError as error:
            raise InvalidValue(f"graph: {sample} is no .npy file: {error}") from None
    if shape is None:
        raise DrivetrainError("graph: an example input is needed", hint="--shape 1,3,224,224 or --input x.npy")
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        raise InvalidValue(f"graph: --shape {shape!r} is no list of sizes", hint="--shape 1,3,224,224") from None
    if min(sizes) < 1:
        raise InvalidValue(f"graph: --shape {shape!r} has a size below 1")
    return torch.randn(sizes)


def register(app: typer.Typer) -> None:
    """Add the commands to the room's."""
    app.command()(optimize)
    app.command()(rules)
