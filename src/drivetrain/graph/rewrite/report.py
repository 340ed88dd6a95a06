"""What optimising came to, as one self-contained page."""

from __future__ import annotations

from html import escape

from drivetrain.base.timing import machine_line

from .result import OptimizeResult, Step
from .rules import RULES

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fff; --line: #d5d9e2; --bar: #3b6ea8; --best: #2e8b57; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --paper: #14171f; --line: #333a48; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; white-space: nowrap; } .bar { background: var(--bar); height: .9rem; min-width: 1px; }
.best .bar { background: var(--best); } .best { font-weight: 600; } code { font-size: .9em; }
"""


def to_html(result: OptimizeResult, title: str) -> str:
    """A page: the verdict, what was tried and how fast it ran, which rules were applied, what was refused and why."""
    parts = [
        f"<h1>{escape(title)}</h1><p><strong>{escape(verdict(result))}</strong></p>",
        _measured(result),
        _rules(result),
        _costs(result),
    ]
    if result.refused:
        rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in result.refused.items())
        parts.append(f"<h2>Refused</h2><div class=wide><table><tr><th>form<th>why</tr>{rows}</table></div>")
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body>{body}"
        f"<p><small>{escape(machine_line())}. Medians of interleaved runs.</small></p></body></html>\n"
    )


def verdict(result: OptimizeResult) -> str:
    """One sentence."""
    if result.wrong:
        return f"computes something else: {', '.join(result.wrong)}; the original stays as it is"
    if result.then == "original":
        return f"nothing was faster than the original ({result.measured_before_ms:.3g} ms): it stays as it is"
    return (
        f"{result.gain:.2f}x faster by {result.then}: {result.measured_before_ms:.3g} ms became "
        f"{result.measured_after_ms:.3g} ms; outputs differ by {result.max_abs_err:.1e} at most"
    )


def _measured(result: OptimizeResult) -> str:
    longest = max(timing.median for timing in result.measured.values())
    rows = []
    for label, timing in sorted(result.measured.items(), key=lambda item: item[1].median):
        mark = ' class="best"' if label == result.then else ""
        width = 100 * timing.median / longest
        rows.append(
            f"<tr{mark}><td>{escape(label)}</td><td class=n>{escape(str(timing))}</td>"
            f'<td style="width:45%"><div class="bar" style="width:{width:.1f}%"></div></td></tr>'
        )
    return (
        f"<h2>Measured</h2><div class=wide><table><tr><th>form<th>time (spread)<th></tr>{''.join(rows)}</table></div>"
    )


def gained(step: Step) -> str:
    """What the cost table says that a rule's applications gained; "" where it is applied without asking."""
    return f"{sum(step.gains):.3g}" if step.gains else ""


def _rules(result: OptimizeResult) -> str:
    known = {rule.name: rule for rule in RULES}
    rows = []
    for step in result.steps:
        rule = known.get(step.rule)
        says = f"<br><code>{escape(rule.says)}</code>" if rule is not None else ""
        places = "".join(f"<li><code>{escape(place)}</code></li>" for place in step.where)
        rows.append(
            f"<tr><td>{escape(rule.number) if rule is not None else ''}</td><td>{escape(step.rule)}</td>"
            f"<td class=n>{step.times}</td><td class=n>{gained(step)}</td>"
            f"<td><details><summary>where</summary><ul>{places}</ul></details>{says}</td></tr>"
        )
    rows += [
        f"<tr><td></td><td>{escape(name)}</td><td></td><td></td><td>left out: {escape(why)}</td></tr>"
        for name, why in result.failures.items()
    ]
    told = (
        f"Gains are by the cost table, for rules that the search tried. It took up {result.explored} programs of "
        f"{result.seen} that it made, in {result.search_seconds:.1f} s."
    )
    if not rows:
        return f"<h2>Rewrites</h2><p>No rule fired. {told}</p>"
    return (
        "<h2>Rewrites</h2><div class=wide><table><tr><th>no.<th>rule<th>times<th>gain<th>where, and what it says</tr>"
        f"{''.join(rows)}"
        f"</table></div><p>{told}</p>"
    )


def _costs(result: OptimizeResult) -> str:
    before, after = result.cost_before, result.cost_after
    rows = "".join(
        f"<tr><td>{name}</td><td class=n>{one:,.4g}</td><td class=n>{other:,.4g}</td></tr>"
        for name, one, other in (
            ("time by the table, µs", before.time_us, after.time_us),
            ("floating-point operations", before.flops, after.flops),
            ("bytes read and written", before.bytes, after.bytes),
            ("kernels", before.launches, after.launches),
        )
    )
    return (
        "<h2>Cost</h2><div class=wide><table><tr><th><th>simplified<th>after search</tr>"
        f"{rows}</table></div>"
    )  # fmt: skip
