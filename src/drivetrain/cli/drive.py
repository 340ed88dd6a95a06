"""`drivetrain run`, `new` and `report`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .show import console, print_json


def run(
    file: Annotated[Path, typer.Argument(help="The drive, a TOML file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a value: train.epochs=2.")] = None,
    only: Annotated[str | None, typer.Option(help="Run this stage alone.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Run from this stage on, even where unchanged.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage anew.")] = False,
    runs: Annotated[Path, typer.Option(help="Artifacts go to RUNS/<name>.")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Drive a model from data to a verdict and a report."""
    from drivetrain.drive import read_drive, run_drive, write_report
    from drivetrain.drive.runner import StageRun

    marks = {"ran": "[green]ok[/]       ", "unchanged": "[green]unchanged[/]", "failed": "[red]failed[/]   ",
             "not reached": "[dim]not reached[/]"}  # fmt: skip

    def tell(step: StageRun) -> None:
        if not json:
            time = f"{step.seconds:6.1f} s" if step.state in ("ran", "failed") else " " * 8
            console.print(f"{marks[step.state]} {time}  [bold]{step.name:<6}[/] {escape(step.summary)}", soft_wrap=True)

    drive_file = read_drive(file, set_ or ())
    result = run_drive(drive_file, runs=runs, only=only, start=from_, fresh=fresh, tell=tell)
    page = write_report(result.folder)
    if json:
        print_json({**asdict(result), "report": str(page)})
    else:
        verdict = "[bold green]passed[/]" if result.passed else "[bold red]failed[/]"
        console.print(f"{drive_file.name} {verdict}. Report: {escape(str(page))}", soft_wrap=True)
    return 0 if result.passed else 1


def new(
    name: Annotated[str, typer.Argument(help="Names the drive and its folder.")],
    data: Annotated[Path | None, typer.Option(help="Your file: CSV, Parquet, Arrow or JSON lines.")] = None,
    label: Annotated[str | None, typer.Option(help="The column to predict; by default 'label' or the last.")] = None,
    model: Annotated[str | None, typer.Option(help="Your model as module:attribute; by default a small MLP.")] = None,
) -> None:
    """Write a drive around your own data and module."""
    from drivetrain.drive import scaffold

    home = scaffold(name, data=data, label=label, model=model)
    console.print(f"wrote {escape(str(home))}: {', '.join(sorted(path.name for path in home.iterdir()))}")
    console.print(f"next: drivetrain run {escape(str(home / 'drive.toml'))}")


def report(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run: runs/<name>.")],
) -> None:
    """Write the report of a finished run anew, from its artifacts."""
    from drivetrain.drive import write_report

    console.print(str(write_report(run_dir)), soft_wrap=True)
