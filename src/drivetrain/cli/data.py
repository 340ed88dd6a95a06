"""`drivetrain data`: statistics, schema, anomalies, drift and skew of data (system 17)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..base.errors import InvalidValue, MissingFile
from .show import console, print_json, table

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the complete facts as JSON.")]
Out = Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")]
SCREEN = 30  # most rows of a table


@app.command()
def stats(
    sources: Annotated[list[str], typer.Argument(help="Data files, folders or globs.", metavar="FILE...")],
    output: Out = None,
    schema: Annotated[Path | None, typer.Option(help="Schema that gives the columns their types.")] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="A feature, or feature=value.")] = None,
    weight: Annotated[str | None, typer.Option(help="Column with the weights of examples.")] = None,
    sample: Annotated[float | None, typer.Option(help="Share of the examples to look at.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between the values of a CSV line, if not a comma.")] = None,
    null: Annotated[list[str] | None, typer.Option(help="A further spelling of a missing value in CSV.")] = None,
    as_json: Json = False,
) -> int:
    """Compute the statistics of data in one pass; save them with -o."""
    from ..data import Csv, Schema, analyze

    source: Any = sources[0] if len(sources) == 1 else sources
    if delimiter or null:
        source = [Csv(file, delimiter=delimiter, nulls=tuple(null or ())) for file in sources]
    known = Schema.load(schema) if schema else None
    found = analyze(source, schema=known, slices=slices or (), weight=weight, sample=sample)
    if output:
        found.save(output)
    if as_json:
        print_json(found.to_json())
        return 0
    rejected = f", {found.rejected.count:,} rows could not be read" if found.rejected.count else ""
    console.print(f"[bold]{found.num_examples:,} examples, {len(found.features)} features[/]{rejected}")
    for row in found.rejected.samples[:3]:
        console.print(escape(f"  {row.where}: {row.reason}"), style="yellow")
    rows = [_stats_row(feature) for feature in found.features.values()]
    table("", ("feature", "type", "missing", "distinct or mean", "range or most frequent"), rows[:SCREEN])
    _more(len(rows))
    _next(f"drivetrain data infer {output or sources[0]} -o schema.toml")
    return 0


@app.command()
def infer(
    data: Annotated[str, typer.Argument(help="Statistics (.json of `stats`) or data.")],
    output: Out = None,
    previous: Annotated[str | None, typer.Option(help="An earlier good batch: proposes drift thresholds.")] = None,
    ranges: Annotated[bool, typer.Option("--ranges", help="Propose numeric ranges, to be reviewed.")] = False,
    max_domain: Annotated[int, typer.Option(help="Most distinct values that are listed.")] = 100,
    as_json: Json = False,
) -> int:
    """Infer a schema from data that is known to be good."""
    from ..data import infer as infer_schema

    before = _load(previous) if previous else None
    schema = infer_schema(_load(data), previous=before, ranges=ranges, max_domain=max_domain)
    if output:
        schema.save(output)
    if as_json:
        print_json(schema.to_dict())
    elif output:
        console.print(
            f"[bold]{len(schema.features)} features[/] in {output}: review it, then keep it under version control"
        )
        _next(f"drivetrain data validate DATA {output}")
    else:
        typer.echo(schema.to_toml(), nl=False)
    return 0


@app.command()
def validate(
    data: Annotated[str, typer.Argument(help="Statistics (.json of `stats`) or data.")],
    schema: Annotated[Path, typer.Argument(help="Schema (.toml or .pbtxt).")],
    env: Annotated[str | None, typer.Option(help="Environment, such as SERVING.")] = None,
    previous: Annotated[str | None, typer.Option(help="The batch before, for drift.")] = None,
    serving: Annotated[str | None, typer.Option(help="Serving data, for skew.")] = None,
    scored: Annotated[str | None, typer.Option(help="All scored examples, for scored skew.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Report file [SCHEMA.report.json].")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as an HTML page.")] = None,
    rows: Annotated[int, typer.Option(help="Show this many offending rows.")] = 0,
    as_json: Json = False,
) -> int:
    """Check data against a schema. Exit 0 valid, 1 anomalies, 2 bad input or schema."""
    from ..data import Schema
    from ..data import rows as offenders
    from ..data import validate as check
    from ..data.rules_schema import CONFUSED

    promises = Schema.load(schema)
    others = {
        name: _load(p, promises) if p else None
        for name, p in (("previous", previous), ("serving", serving), ("scored", scored))
    }
    report = check(_load(data, promises), promises, environment=env, **others)
    place = output or schema.with_suffix(".report.json")
    if report.anomalies or output:
        report.save(place)
    if html:
        report.to_html(html)
    confused = any(reason.type in CONFUSED for anomaly in report.anomalies for reason in anomaly.reasons)
    code = 0 if report.ok else 2 if confused else 1
    if as_json:
        print_json(report.to_json())
        return code
    _print_report(report)
    if rows and not data.endswith(".json"):
        found = [tuple(item) for item in offenders(data, promises, environment=env, limit=rows)]
        table("offending rows", ("row", "feature", "type", "value"), found)
    if report.anomalies:
        ids = " ".join(_word(anomaly.id) for anomaly in report.anomalies[:2])
        _next(f"drivetrain data accept {ids} --schema {schema} --report {place}    (or mend the data)")
    return code


@app.command()
def accept(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Features whose anomalies to accept.", metavar="ID...")
    ] = None,
    schema: Annotated[Path, typer.Option(help="The schema file to edit.")] = Path("schema.toml"),
    report: Annotated[Path | None, typer.Option(help="Report of `validate` [SCHEMA.report.json].")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Accept all anomalies.")] = False,
    as_json: Json = False,
) -> int:
    """Accept anomalies: edit the schema as proposed, with a comment, keeping its layout."""
    from ..data import accept as accept_edits

    if not ids and not everything:
        raise InvalidValue(
            "data: accept needs the id of an anomaly", hint="the ids are in the report; --all accepts them all"
        )
    edits = accept_edits(schema, report or schema.with_suffix(".report.json"), [] if everything else ids or [])
    if as_json:
        print_json([edit.to_json() for edit in edits])
        return 0
    console.print(f"[bold]{len(edits)} edit{'s' * (len(edits) != 1)}[/] of {schema}")
    for edit in edits[:SCREEN]:
        console.print(escape(f"  {edit}"))
    _next(f"git diff {schema}")
    return 0


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="Schema.")],
    b: Annotated[Path, typer.Argument(help="Schema.")],
    as_json: Json = False,
) -> int:
    """Show what changes from one schema to another. Exit 1 if anything does."""
    from ..data import Schema

    changes = Schema.load(a).diff(Schema.load(b))
    if as_json:
        print_json([vars(change) for change in changes])
    else:
        console.print(f"[bold]{len(changes)} change{'s' * (len(changes) != 1)}[/]" if changes else "no change")
        for change in changes:
            console.print(escape(f"  {change}"))
    return 1 if changes else 0


@app.command()
def skew(
    train: Annotated[str, typer.Argument(help="Training log.")],
    serving: Annotated[str, typer.Argument(help="Serving log.")],
    on: Annotated[list[str], typer.Option("--on", help="Id feature; give it again for more.")],
    ignore: Annotated[list[str] | None, typer.Option(help="Feature not to compare.")] = None,
    rtol: Annotated[float, typer.Option(help="Relative tolerance of numbers.")] = 0.0,
    samples: Annotated[int, typer.Option(help="Differing pairs to keep for each feature.")] = 10,
    as_json: Json = False,
) -> int:
    """Join training and serving logs and compare features example by example. Exit 1 if any differs."""
    from ..data import feature_skew

    report = feature_skew(train, serving, on=on, ignore=ignore or (), float_rtol=rtol, samples=samples)
    if as_json:
        print_json(report.to_json())
    else:
        differing = [item for item in report.features.values() if item.diff_count]
        verdict = f"{len(differing)} of {len(report.features)} features differ" if differing else "no feature differs"
        console.print(f"[bold]{verdict}[/] in {report.joined:,} pairs")
        rows = [
            (i.feature, i.mismatch_count, i.base_only, i.test_only, f"{i.share:.2%}", str(i.samples[0]))
            for i in differing
        ]
        columns = ("feature", "different", "train only", "serving only", "share", "(id, train, serving)")
        if rows:
            table("", columns, rows[:SCREEN])
        if not report.joined:
            console.print("nothing was joined: do the ids have the same form on both sides?")
    return 0 if report.ok else 1


@app.command()
def fuzz(
    schema: Annotated[Path, typer.Argument(help="Schema (.toml or .pbtxt).")],
    step: Annotated[str, typer.Argument(help='The training step, "module:function": batch -> loss.')],
    collate: Annotated[str | None, typer.Option(help='"module:function": list of examples -> batch.')] = None,
    examples: Annotated[int, typer.Option(help="Examples to try.")] = 200,
    batch: Annotated[int, typer.Option(help="Examples in a batch.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    as_json: Json = False,
) -> int:
    """Feed a training step with examples that satisfy the schema and nothing more. Exit 1 if it fails."""
    from ..base.modules import load_attribute
    from ..data import Schema
    from ..data import fuzz as try_out

    here = Path.cwd()
    make = load_attribute(collate, here) if collate else None
    report = try_out(
        Schema.load(schema), load_attribute(step, here), collate=make, examples=examples, batch=batch, seed=seed
    )
    if as_json:
        print_json(report.to_json())
    else:
        console.print(escape(str(report)))
    return 0 if report.ok else 1


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="Report of `validate`.")],
    html: Annotated[Path | None, typer.Option(help="Write it as an HTML page.")] = None,
    as_json: Json = False,
) -> int:
    """Show a saved report again. Exit 1 if it has errors."""
    from ..data.accept import read_report
    from ..data.report import report_from_json

    data = read_report(path)
    found = report_from_json(data)
    if html:
        found.to_html(html)
    if as_json:
        print_json(data)
    else:
        _print_report(found)
    return 0 if found.ok else 1


@app.command()
def rules(
    kind: Annotated[str | None, typer.Argument(help="One type of anomaly.")] = None,
    page: Annotated[bool, typer.Option("--page", help="Print them as a Markdown page.")] = False,
    as_json: Json = False,
) -> int:
    """Show every rule: the anomaly, when it fires, and the edit it proposes."""
    from ..base.errors import unknown_name
    from ..data.rules import RULES, rules_page

    chosen = [rule for rule in RULES if kind is None or rule.type == kind.upper()]
    if not chosen:
        raise unknown_name("data: anomaly type", str(kind), [rule.type for rule in RULES])
    if page:
        typer.echo(rules_page(), nl=False)
    elif as_json:
        print_json([{"type": rule.type, "condition": rule.condition, "edit": rule.edit} for rule in chosen])
    else:
        rows = [(rule.type, rule.condition, rule.edit) for rule in chosen]
        table("", ("anomaly", "fires when", "proposed edit"), rows)
    return 0


def _load(path: str, schema: Any = None) -> Any:
    """Statistics from a file of statistics, or from data."""
    from ..data import Stats, analyze

    if path.endswith(".json"):
        if not Path(path).is_file():
            raise MissingFile(f"data: there is no file {path}")
        if '"drivetrain-stats' in Path(path).read_text(encoding="utf-8", errors="replace"):
            return Stats.load(path)
    return analyze(path, schema=schema)


def _print_report(report: Any) -> None:
    console.print(f"[bold {'green' if report.ok else 'red'}]{escape(report.summary())}[/]")
    if report.anomalies:
        rows = [(a.severity, a.id, a.type, a.description) for a in report.anomalies]
        table("", ("severity", "feature", "type", "expected and seen"), rows[:SCREEN])
        _more(len(rows))
    moved = sorted((m for m in report.drift if m.moved), key=lambda m: -m.distances["linf"])[:5]
    if moved:
        table("moved most", ("feature", "kind", "linf", "noise", "threshold", "value"), [_moved_row(m) for m in moved])
    for note in [note for m in report.drift for note in m.notes][:3]:
        console.print(escape(f"note: {note}"), style="yellow")


def _moved_row(measured: Any) -> tuple[Any, ...]:
    value, before, now = measured.moved
    numbers = measured.distances["linf"], measured.floor["linf"], measured.thresholds.get("linf", "")
    return measured.feature, measured.kind, *numbers, f"{value}: {before:.1%} -> {now:.1%}"


def _stats_row(feature: Any) -> tuple[Any, ...]:
    missing = f"{feature.num_missing:,}"
    if feature.text is not None and feature.type != "int":
        top = ", ".join(f"{value} ({count:,})" for value, count in feature.text.top_values[:3])
        return feature.name, feature.type, missing, f"{feature.text.unique:,} distinct", top[:80]
    if feature.numeric is not None and feature.numeric.min is not None:
        numeric = feature.numeric
        return feature.name, feature.type, missing, f"{numeric.mean:.5g}", f"{numeric.min:.6g} .. {numeric.max:.6g}"
    return feature.name, feature.type, missing, "", ""


def _more(count: int) -> None:
    if count > SCREEN:
        console.print(f"... and {count - SCREEN} more; --json has all")


def _next(command: str) -> None:
    console.print(f"next: {escape(command)}", style="dim", soft_wrap=True)


def _word(text: str) -> str:
    import shlex

    return shlex.quote(text)
