"""`drivetrain comm audit` and `drivetrain comm suspects`: what a rule bears, and whom it bore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .show import console, print_json, table

if TYPE_CHECKING:
    from drivetrain.comm.aggregate import Explanation
    from drivetrain.comm.aggregate.audit import Audit


def register(app: typer.Typer) -> None:
    """Add both verbs to the room's commands."""
    app.command()(audit)
    app.command()(suspects)


def audit(
    rule: Annotated[str, typer.Option(help='An aggregation rule, e.g. bulyan, or "nnm+multi-krum".')],
    n: Annotated[int, typer.Option(help="Workers.")],
    f: Annotated[int, typer.Option(help="How many of them may be faulty.")],
    d: Annotated[int, typer.Option(help="Parameters of your model, to price the rule for.")] = 1_000_000,
    attack: Annotated[list[str] | None, typer.Option(help="Only this attack; repeatable. (default: all)")] = None,
    steps: Annotated[int, typer.Option(help="Training steps against each attack.")] = 100,
    tolerance: Annotated[
        float | None, typer.Option(help="Exit with 1 if an attack costs more points of accuracy than this.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, weights and attacks.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Does a rule bear f faulty workers among n? Its conditions and cost, then every attack against it."""
    from drivetrain.comm.aggregate import explain, get
    from drivetrain.comm.aggregate.audit import audit as run

    chosen = get(rule)
    chosen.check(n, f)
    promise = explain(chosen, n, f, d)
    found = run(chosen, n, f, attacks=attack, steps=steps, seed=seed) if f else None
    worst = found.results[0] if found is not None else None
    failed = tolerance is not None and worst is not None and 100 * worst.lost > tolerance
    if json:
        print_json({
            "explanation": promise.to_dict(), "audit": found.to_dict() if found is not None else None,
            "tolerance": tolerance, "failed": failed,
        })  # fmt: skip
    else:
        _print(promise, found, d)
    raise typer.Exit(1 if failed else 0)


def _print(promise: Explanation, found: Audit | None, d: int) -> None:
    console.print(f"[bold]{promise.reason}[/]", soft_wrap=True)
    if found is None:
        console.print("f=0: there is nothing to attack")
        return
    worst = found.results[0]
    console.print(
        f"worst of {len(found.results)} attacks: {worst.attack}, {100 * worst.lost:.1f} points lost of "
        f"{100 * found.accuracy:.1f} % ({found.task}, {found.steps} steps)",
        soft_wrap=True,
    )
    bound = "not known" if promise.variance_bound is None else f"{promise.variance_bound:.4g}"
    rows = [
        ("needs", f"n >= {promise.min_n} for f={promise.f}; largest f for n={promise.n}: {promise.max_f}"),
        ("guarantee holds while honest std / |mean| <", bound),
        ("work of a step", promise.cost),
        ("a rank sends", f"{promise.bytes_per_rank / 1e6:.3g} MB a step (sharded, float32, {d:,} parameters)"),
    ]
    table("", ("", promise.rule), rows)
    table("", ("attack", "accuracy %", "points lost", "attacker's weight"), map(_row, found.results))
    console.print(f'next: Exchange(aggregate="{promise.rule}", f={promise.f})', markup=False, soft_wrap=True)


def _row(result: Any) -> tuple[str, float, float, str]:
    weight = "" if result.influence is None else f"{result.influence:.2f}"
    stopped = "" if result.stopped is None else f" (refused at step {result.stopped})"
    return result.attack + stopped, 100 * result.accuracy, 100 * result.lost, weight


def suspects(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or its exchange.json.")],
    after: Annotated[int, typer.Option(help="Rounds to have watched before anybody is named.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Which ranks looked faulty? Exit 1 if any is named."""
    from drivetrain.comm.aggregate import Quarantine
    from drivetrain.comm.aggregate.record import read_reports

    reports, left_out = read_reports(run)
    verdict = Quarantine(after=after)
    named = {report.rank: reason for report in reports if (reason := verdict.reason(report))}
    if json:
        print_json({
            "suspects": named, "quarantined": left_out, "ranks": [vars(report) for report in reports],
        })  # fmt: skip
        raise typer.Exit(1 if named else 0)
    who = f"rank {', '.join(map(str, named))}" if named else f"none of {len(reports)} ranks"
    rest = f"; left out during the run: {', '.join(map(str, left_out))}" if left_out else ""
    console.print(f"[bold]suspect: {who}[/]{rest}", soft_wrap=True)
    worst_first = sorted(reports, key=lambda report: (report.rank not in named, -report.z_distance))
    rows = [
        (
            report.rank, report.rounds, _share(report.selected_share), _share(report.influence),
            round(report.z_distance, 2), report.nonfinite, _share(report.lost_share), named.get(report.rank, ""),
        )
        for report in worst_first
    ]  # fmt: skip
    table("", ("rank", "rounds", "chosen", "weight", "distance z", "non-finite", "lost", "why"), rows[:20])
    if named:
        console.print(
            "next: look at these ranks' data and hardware; unlike data looks the same. "
            "Exchange(quarantine=True) leaves such ranks out",
            soft_wrap=True,
        )
    raise typer.Exit(1 if named else 0)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
