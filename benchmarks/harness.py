"""The shape of every benchmark: rows beside the peer, targets met or missed, the machine, a result file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from drivetrain.base.files import write_json
from drivetrain.base.timing import Timing, machine, machine_line

RESULTS = Path(__file__).resolve().parent / "results"


class Benchmark:
    """Collect the rows of one benchmark, print them, and write benchmarks/results/NN_slug.json.

    Args:
        number: the system's number, "17".
        slug: names the result file with the number.
        title, setting: the head of the printed table.
    """

    def __init__(self, number: str, slug: str, *, title: str, setting: str) -> None:
        self.path = RESULTS / f"{number}_{slug}.json"
        self.title, self.setting = title, setting
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}

    def row(self, name: str, **columns: Timing | float | int | str) -> None:
        """Add a row; the columns of all rows together make the table."""
        self.rows.append({"name": name, **columns})

    def target(self, text: str, *, measured: float, goal: float, better: Literal["lower", "higher"] = "lower") -> None:
        """Hold a measured figure against its target."""
        met = measured <= goal if better == "lower" else measured >= goal
        self.targets.append({"target": text, "measured": measured, "goal": goal, "better": better, "met": met})

    def fact(self, name: str, value: Any) -> None:
        """Keep a further fact (a size, a version, a curve) in the result file."""
        self.facts[name] = value

    def finish(self) -> Path:
        """Print the table and the targets, write the result file, return its path."""
        console = Console(width=160, highlight=False)
        console.print(f"[bold]{self.title}[/]   {self.setting}\n{machine_line()}")
        columns = list(dict.fromkeys(key for row in self.rows for key in row if key != "name"))
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for row in self.rows:
            table.add_row(row["name"], *(_cell(row.get(column, "")) for column in columns))
        console.print(table)
        for target in self.targets:
            verdict = "[green]met[/]" if target["met"] else "[red]missed[/]"
            console.print(f"{verdict}  {target['target']}: {target['measured']:.4g}")
        content = {
            "title": self.title,
            "setting": self.setting,
            "command": f"python {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
            "machine": machine(),
            "rows": [{key: _plain(value) for key, value in row.items()} for row in self.rows],
            "targets": self.targets,
            "facts": self.facts,
        }
        write_json(self.path, content)
        console.print(f"written to benchmarks/results/{self.path.name}")
        return self.path


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Timing):
        return {"median": value.median, "low": value.low, "high": value.high, "samples": list(value.samples)}
    return value
