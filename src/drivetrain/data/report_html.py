"""A validation report as one HTML page: no network, no script, light and dark, narrow and wide."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .report import Anomaly, Measurement, Report, share_text

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --page: #fff; --card: #f6f8fa;
  --bad: #b3261e; --warn: #9a6700; --good: #1a7f37; --bar: #4c78a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa7b5; --line: #30363d; --page: #0d1117;
  --card: #161b22; --bad: #ff7b72; --warn: #d29922; --good: #3fb950; --bar: #79a8d8; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.ok { color: var(--good); } .ERROR { color: var(--bad); } .WARNING { color: var(--warn); }
.card { border: 1px solid var(--line); background: var(--card); border-radius: 6px; padding: .75rem 1rem;
  margin: .75rem 0; }
.card h3 { margin: 0 0 .25rem; font-size: 1rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); } code, pre { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; margin: .5rem 0 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; }
rect.bar { fill: var(--bar); } rect.over { fill: var(--bad); } line.limit { stroke: var(--ink); }
"""


def report_page(report: Report) -> str:
    """The whole page."""
    verdict = "ok" if report.ok else "ERROR"
    environment = f", environment {escape(report.environment)}" if report.environment else ""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Data validation: {escape(report.summary())}</title><style>{STYLE}</style></head><body>",
        f"<h1>Data validation</h1><p class='{verdict}'><strong>{escape(report.summary())}</strong>{environment}</p>",
    ]
    if report.anomalies:
        parts.append("<h2>Anomalies, most severe first</h2>")
        parts += [_anomaly(anomaly) for anomaly in report.anomalies]
    if report.drift:
        parts.append(_distances(report.drift))
    return "\n".join([*parts, "</body></html>", ""])


def _anomaly(anomaly: Anomaly) -> str:
    reasons = "".join(
        f"<p><code>{escape(reason.type)}</code><br>expected {escape(reason.expected)}<br>saw {escape(reason.seen)}</p>"
        for reason in anomaly.reasons
    )
    edits = "\n".join(escape(str(edit)) for edit in anomaly.edit)
    concerned = f"<span class='soft'> {share_text(anomaly.share)}</span>" if anomaly.share is not None else ""
    return (
        f"<section class='card'><h3><span class='{anomaly.severity}'>{anomaly.severity}</span> "
        f"{escape(anomaly.feature)}{concerned}</h3>{reasons}"
        f"<details><summary class='soft'>proposed edit of the schema</summary><pre>{edits}</pre></details></section>"
    )


def _distances(measured: Iterable[Measurement]) -> str:
    ranked = sorted(measured, key=lambda item: (not item.exceeded, -item.distances["linf"]))
    rows = []
    for item in ranked:
        moved = "" if item.moved is None else f"{escape(item.moved[0])}: {item.moved[1]:.2%} to {item.moved[2]:.2%}"
        numbers = "".join(
            f"<td class='number'>{item.distances.get(name, float('nan')):.4f}</td>" for name in ("linf", "js")
        )
        notes = "".join(f"<br><span class='WARNING'>{escape(note)}</span>" for note in item.notes)
        rows.append(
            f"<tr><td>{escape(item.feature)}</td><td>{item.kind}</td><td>{_bar(item)}</td>{numbers}"
            f"<td class='number'>{item.floor['linf']:.4f}</td><td>{moved}{notes}</td></tr>"
        )
    head = "<tr><th>feature</th><th>kind</th><th>L∞</th><th>L∞</th><th>JS</th><th>noise</th><th>moved most</th></tr>"
    return (
        "<h2>Distances to the other batch</h2>"
        "<p class='soft'>L∞: no value's share moved by more than this. Noise: what it reaches "
        "by chance alone, with probability 0.01. The mark is the schema's threshold.</p>"
        f"<div class='scroll'><table>{head}{''.join(rows)}</table></div>"
    )


def _bar(item: Measurement) -> str:
    value, limit = item.distances["linf"], item.thresholds.get("linf")
    width = 100
    mark = (
        ""
        if limit is None
        else f"<line class='limit' x1='{limit * width:.1f}' x2='{limit * width:.1f}' y1='0' y2='14'/>"
    )
    kind = "over" if limit is not None and value > limit else "bar"
    title = f"<title>{value:.4f}{'' if limit is None else f', threshold {limit:g}'}</title>"
    bar = f"<rect class='{kind}' x='0' y='2' height='10' width='{max(1.0, value * width):.1f}'/>"
    return f"<svg width='{width}' height='14' role='img'>{title}{bar}{mark}</svg>"
