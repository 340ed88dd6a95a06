"""`drivetrain systems` and `drivetrain doctor`: what is here, and what this machine lacks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from drivetrain.base.doctor import examine
from drivetrain.systems import SYSTEMS

from .show import console, print_json, table

Json = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


def systems(json: Json = False) -> None:
    """List the twenty-five systems and the state of each."""
    if json:
        print_json([{**asdict(system), "card": system.card, "state": system.state} for system in SYSTEMS])
        return
    working = sum(system.works for system in SYSTEMS)
    rows = [(s.number, s.title, s.room, f"drivetrain {s.command}" if s.works else "", s.state) for s in SYSTEMS]
    table(f"{working} of {len(SYSTEMS)} systems work", ("nr", "system", "room", "command", "state"), rows)
    console.print("The card of a system, docs/systems/NN-slug.md, shows its use and its measured figures.")


def doctor(json: Json = False) -> None:
    """Show versions, extras, compiler, browser, GPU and rights, and what to install for what is missing."""
    findings = examine()
    if json:
        print_json([asdict(finding) for finding in findings])
        return
    missing = sum(not finding.present for finding in findings)
    console.print(f"{len(findings) - missing} of {len(findings)} parts are here; only what your work needs must be.")
    table(
        "",
        ("", "part", "found", "for", "to get it"),
        [("yes" if f.present else "no", f.part, f.found, f.purpose, "" if f.present else f.remedy) for f in findings],
    )
