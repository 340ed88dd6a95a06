"""Draw docs/img/architecture.svg from the register and the folders: five floors, rooms that stand drawn solid."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from drivetrain.base.files import write_text
from drivetrain.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[1]
FLOORS: tuple[tuple[str, Sequence[str]], ...] = (
    ("5 commands", ("cli",)),
    ("4 the whole way", ("drive",)),
    ("3 the systems", ("data", "optim", "comm", "plan", "compress", "audit", "ci", "federated", "embed", "rl", "video",
                       "spatial", "web")),
    ("2 shared by systems", ("graph", "sim", "nets")),
    ("1 shared by all", ("base",)),
)  # fmt: skip
ABOUT = {
    "cli": "parse, call, print",
    "drive": "config → stages → artifacts → report",
    "sim": "task-graph simulator",
    "nets": "reference networks",
    "base": "errors, config, files, seeds, timing, native kernels",
}
WIDTH, LEFT, GAP, ROW = 1120, 170, 10, 76
PER_ROW = 5

STYLE = """
svg { font: 14px system-ui, sans-serif; background: #fff; }
.floor { fill: #5b6675; } .name { font-weight: 600; fill: #1c2430; } .about { font-size: 11px; fill: #5b6675; }
.stands { fill: #e8f0fa; stroke: #2563a8; stroke-width: 1.5; }
.planned { fill: #fff; stroke: #b4bec9; stroke-dasharray: 4 4; } .rule { stroke: #d9dfe6; }
@media (prefers-color-scheme: dark) {
  svg { background: #12161c; } .name { fill: #e3e8ee; } .about, .floor { fill: #98a4b3; }
  .stands { fill: #1d2b3d; stroke: #6ea8e8; } .planned { fill: #12161c; stroke: #4a5663; } .rule { stroke: #2c3540; }
}
"""


def draw() -> str:
    """The picture as SVG text."""
    standing = {path.parent.name for path in (ROOT / "src" / "drivetrain").glob("*/__init__.py")}
    y, body = 12, []
    for title, rooms in FLOORS:
        rows = [rooms[start : start + PER_ROW] for start in range(0, len(rooms), PER_ROW)]
        body.append(f'<text class="floor" x="12" y="{y + 32}">{escape(title)}</text>')
        for row in rows:
            width = (WIDTH - LEFT - GAP * len(row)) / len(row)
            for index, room in enumerate(row):
                body.append(_room(room, LEFT + index * (width + GAP), y, width, room in standing))
            y += ROW
        body.append(f'<line class="rule" x1="12" x2="{WIDTH - 12}" y1="{y - 2}" y2="{y - 2}"/>')
        y += GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
        f'aria-label="Five floors of rooms"><style>{STYLE}</style>{"".join(body)}</svg>\n'
    )


def _room(room: str, x: float, y: int, width: float, stands: bool) -> str:
    systems = [f"{system.number}" for system in SYSTEMS if system.room == room]
    about = ABOUT.get(room) or f"system{'s' if len(systems) > 1 else ''} {', '.join(systems)}"
    return (
        f'<rect class="{"stands" if stands else "planned"}" x="{x:.1f}" y="{y}" width="{width:.1f}" '
        f'height="{ROW - 14}" rx="8"/><text class="name" x="{x + 14:.1f}" y="{y + 27}">{room}</text>'
        f'<text class="about" x="{x + 14:.1f}" y="{y + 46}">{escape(about)}</text>'
    )


if __name__ == "__main__":
    write_text(ROOT / "docs" / "img" / "architecture.svg", draw())
    sys.stdout.write("written to docs/img/architecture.svg\n")
