"""The page: the verdict, a row a stage, each stage's own part, provenance. One file, no network, no script."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from drivetrain.base.errors import MissingFile
from drivetrain.base.files import sha256_file, write_text

from . import plots
from .parts import Bars, Facts, Histogram, Interval, LinePlot, Part, Table, Text

_DRAW = {LinePlot: plots.line_plot, Bars: plots.bars, Histogram: plots.histogram, Interval: plots.interval}
_STATES = {
    "ran": ("good", "passed"),
    "unchanged": ("good", "unchanged since its last run"),
    "failed": ("bad", "failed"),
    "not reached": ("idle", "not reached"),
}
MOST_HASHED = 40


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run's folder, from its artifacts alone.

    Raises:
        MissingFile: the folder holds no run.
    """
    run_folder = Path(run_folder)
    try:
        record = json.loads((run_folder / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"drive: {run_folder} holds no run", hint="its run.json is missing") from None
    body = [_head(record), *(_stage(run_folder, step) for step in record["stages"]), _provenance(run_folder, record)]
    style = files(__package__).joinpath("style.css").read_text()
    title = escape(f"{record['name']}: {'passed' if record['passed'] else 'failed'}")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )
    target = run_folder / "report.html"
    write_text(target, page)
    return target


def _head(record: dict[str, Any]) -> str:
    kind, word = ("good", "passed") if record["passed"] else ("bad", "failed")
    steps = [
        (
            step["name"],
            _STATES[step["state"]][1],
            f"{step['seconds']:.1f} s" if step["seconds"] else "",
            step["summary"],
        )
        for step in record["stages"]
    ]
    seconds = sum(step["seconds"] for step in record["stages"])
    facts = record["machine"]
    where = f"{facts['processor']}, {facts['cores']} cores, torch {facts['torch']}"
    return (
        f'<h1>{escape(record["name"])}: <span class="verdict {kind}">{word}</span></h1>'
        f'<p class="soft">{escape(record["ended"])} · {seconds:.1f} s of stages · {escape(where)}</p>'
        + _table(Table(("stage", "state", "time", "what"), steps))
    )


def _stage(run_folder: Path, step: dict[str, Any]) -> str:
    from ..folders import read_marker
    from ..stage import all_stages

    stage = all_stages().get(step["name"])
    folder = run_folder / step["name"]
    kind, word = _STATES[step["state"]]
    title = escape(stage.title if stage else step["name"])
    head = f'<h2>{title} <span class="{kind}">· {word}</span></h2><p class="soft">{escape(step["summary"])}</p>'
    marker = read_marker(folder)
    if stage is None or marker is None or marker.key != step["key"]:
        return head
    return head + _parts(stage.show(folder))


def _parts(parts: Iterable[Part]) -> str:
    """Draw parts in order; plots that follow each other share a grid."""
    drawn: list[str] = []
    in_grid = False
    for part in parts:
        is_plot = type(part) in _DRAW
        if is_plot != in_grid:
            drawn.append('<div class="plots">' if is_plot else "</div>")
            in_grid = is_plot
        drawn.append(_part(part))
    return "".join(drawn) + ("</div>" if in_grid else "")


def _part(part: Part) -> str:
    if isinstance(part, Text):
        tag = f"h{part.level}" if part.level else "p"
        return f"<{tag}>{escape(part.text)}</{tag}>"
    if isinstance(part, Facts):
        return (
            "<dl>"
            + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(_cell(v))}</dd></div>" for k, v in part.facts.items())
            + "</dl>"
        )
    if isinstance(part, Table):
        return _table(part)
    return _DRAW[type(part)](part)  # type: ignore[operator]


def _table(table: Table) -> str:
    kept = [i for i in range(len(table.columns)) if not table.rows or any(row[i] != "" for row in table.rows)]
    columns, rows_kept = [table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows]
    table = Table(columns, rows_kept, table.title)
    numeric = [
        bool(table.rows) and all(isinstance(row[i], (int, float)) or row[i] == "" for row in table.rows)
        for i in range(len(table.columns))
    ]
    head = "".join(
        f'<th class="number">{escape(column)}</th>' if is_number else f"<th>{escape(column)}</th>"
        for column, is_number in zip(table.columns, numeric, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(_td(cell, is_number) for cell, is_number in zip(row, numeric, strict=True)) + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _td(cell: Any, is_number: bool) -> str:
    text = _cell(cell)
    kind = "number" if is_number else "long" if len(text) > 40 else ""
    mark = {"failed": "bad", "ERROR": "bad", "passed": "good"}.get(text, "")
    names = " ".join(filter(None, (kind, mark)))
    return f'<td class="{names}">{escape(text)}</td>' if names else f"<td>{escape(text)}</td>"


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _provenance(run_folder: Path, record: dict[str, Any]) -> str:
    hashes = [
        (str(path.relative_to(run_folder)), path.stat().st_size, sha256_file(path)[:16])
        for step in record["stages"]
        for path in sorted((run_folder / step["name"]).rglob("*"))
        if path.is_file()
    ]
    libraries = {name: found for name in ("torch", "numpy", "pyarrow", "scipy") if (found := _version(name))}
    facts = {
        "seed": record["seed"],
        "drivetrain": record["drivetrain"],
        "python": record["machine"]["python"],
        **libraries,
    }
    more = f"<p>{len(hashes) - MOST_HASHED} more files are not listed.</p>" if len(hashes) > MOST_HASHED else ""
    return (
        "<h2>Provenance</h2>"
        + _part(Facts(facts))
        + f"<h3>{escape(record['file'])}, with what --set changed</h3><pre>{escape(_as_toml(record['config']))}</pre>"
        + _table(Table(("artifact", "bytes", "sha256, first 16 digits"), hashes[:MOST_HASHED]))
        + more
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _as_toml(content: dict[str, Any], prefix: str = "") -> str:
    """Plain values as TOML text; JSON's scalars and lists are TOML's too."""
    own = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in content.items()
        if not isinstance(value, dict)
    ]
    tables = [
        f"\n[{prefix}{key}]\n{_as_toml(value, f'{prefix}{key}.')}"
        for key, value in content.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*own, *tables])
