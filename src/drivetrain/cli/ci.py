"""`drivetrain ci`: plan, check, status, label, renew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drivetrain.ci import Gate, LabelStore, TestSet, plan, read_predictions
from drivetrain.ci.gate import Decision, append_summary, summarise
from drivetrain.ci.ledger import Ledger

from .show import console, print_json, table

app = typer.Typer(no_args_is_help=True, add_completion=False)

Config = Annotated[Path, typer.Option("--config", help="TOML file with a [ci] table, or a legacy .yml file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]
DEFAULT = Path("drivetrain.toml")


@app.command("plan")
def plan_command(
    condition: Annotated[str | None, typer.Argument(help="Condition to price; by default the configured one.")] = None,
    config: Config = DEFAULT,
    reliability: Annotated[float | None, typer.Option(help="Probability that all decisions are right.")] = None,
    steps: Annotated[int | None, typer.Option(help="Commits that one test set judges.")] = None,
    adaptivity: Annotated[str | None, typer.Option(help="none, full, first-change, passes:k, open.")] = None,
    mode: Annotated[str | None, typer.Option(help="fp-free or fn-free.")] = None,
    estimator: Annotated[str | None, typer.Option(help="auto, hoeffding, bennett, exact.")] = None,
    json: Json = False,
) -> None:
    """Price a condition in labels, and each knob in labels saved."""
    given = {
        "reliability": reliability, "steps": steps, "adaptivity": adaptivity, "mode": mode, "estimator": estimator,
    }  # fmt: skip
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if condition is None:
        from drivetrain.ci.price import replan

        found = Gate(config).plan()
        priced = replan(found, **changes) if changes else found
    else:
        priced = plan(condition, **changes)
    if json:
        print_json(priced.to_dict())
    else:
        console.print(priced.explain(), markup=False, soft_wrap=True)


@app.command()
def check(
    config: Config = DEFAULT,
    commit: Annotated[str | None, typer.Option(help="Name of the commit; by default git's HEAD.")] = None,
    new: Annotated[Path | None, typer.Option(help="Predictions of the new model (.npy or .csv).")] = None,
    old: Annotated[str, typer.Option(help="Commit of the old model; by default the last accepted one.")] = "last-pass",
    json: Json = False,
) -> None:
    """Decide on a commit: exit 0 pass (or recorded), 1 reject, 2 bad input, 3 test set spent, 4 labels missing."""
    gate = Gate(config)
    predictions = read_predictions(new, gate.testset) if new is not None else None
    decision = gate.check(predictions, old, commit)
    append_summary(summarise(decision, gate.ledger) if decision.entry is not None else "")
    if json:
        print_json(_facts(decision, gate.ledger))
    else:
        _show(decision, gate.ledger)
    raise typer.Exit(decision.exit_code)


def _facts(decision: Decision, ledger: Ledger) -> dict[str, Any]:
    facts: dict[str, Any] = {"commit": decision.commit, "recorded": decision.entry is not None}
    if decision.entry is not None:
        facts |= {"step": decision.entry.step, "repeated": decision.entry.repeated, "remaining": ledger.remaining}
    if decision.needed is not None:
        facts |= {"labels_needed": len(decision.verdict.needs_labels), "file": str(decision.needed)}
    return facts if decision.hidden else facts | decision.verdict.to_dict() | {"alarm": ledger.alarm}


def _show(decision: Decision, ledger: Ledger) -> None:
    verdict = decision.verdict
    if decision.entry is None:
        console.print(f"{len(verdict.needs_labels):,} labels are missing; nothing was recorded", markup=False)
        console.print(f"fill in {decision.needed}, then: drivetrain ci label {decision.needed}", soft_wrap=True)
        return
    again = ", decided before: no step used" if decision.entry.repeated else ""
    if decision.hidden:
        console.print(f"recorded (step {decision.entry.step}{again})")
    else:
        console.print(f"{verdict.text} (step {decision.entry.step}{again})")
        rows = [
            (
                str(c.clause),
                "" if c.estimate is None else f"{c.estimate:.4f}",
                _interval(c.low, c.high),
                facts["outcome"],
            )
            for c, facts in zip(verdict.clauses, verdict.to_dict()["clauses"], strict=True)
        ]
        table("", ("clause", "estimate", "interval", "outcome"), rows)
    if ledger.alarm:
        console.print(f"new test set needed: {ledger.alarm}; next: drivetrain ci renew --testset FILE", soft_wrap=True)
    elif ledger.remaining is not None:
        console.print(f"{ledger.remaining} steps left on this test set")


def _interval(low: float | None, high: float | None) -> str:
    return "not looked at" if low is None or high is None else f"{low:.4f} .. {high:.4f}"


@app.command()
def status(config: Config = DEFAULT, json: Json = False) -> None:
    """Show the test set's life: steps used and left, the alarm, the decisions; checks the ledger's chain."""
    gate = Gate(config)
    ledger = gate.ledger
    lines = ledger.verify()
    if ledger.current is None:
        facts: dict[str, Any] = {"registered": False, "lines": lines}
        print_json(facts) if json else console.print("no test set is registered yet; next: drivetrain ci check")
        return
    entries = [entry.__dict__ for entry in ledger.entries]
    if json:
        print_json({
            "registered": True, "lines": lines, "testset": ledger.current["testset"], "used": ledger.steps_used,
            "remaining": ledger.remaining, "passes": ledger.passes, "alarm": ledger.alarm, "entries": entries,
        })  # fmt: skip
        return
    left = "open" if ledger.remaining is None else ledger.remaining
    console.print(
        f"{ledger.alarm or 'in use'}: {ledger.steps_used} steps used, {left} left; ledger intact, {lines} lines"
    )
    rows = [(e["step"], e["commit"][:12], e["outcome"] or "withheld", e["labels_used"] or "") for e in entries[-20:]]
    table(ledger.current["condition"], ("step", "commit", "outcome", "labels used"), rows)
    if ledger.alarm:
        console.print("next: drivetrain ci renew --testset FILE")


@app.command()
def label(
    file: Annotated[Path, typer.Argument(help="CSV with columns id and label, e.g. the filled-in labels-needed.csv.")],
    config: Config = DEFAULT,
    json: Json = False,
) -> None:
    """Take over labels; later commits use them too."""
    gate = Gate(config)
    store: LabelStore = gate.store
    fresh = store.add(file, gate.testset, gate.config.classes)
    if json:
        print_json({"new": fresh, "known": len(store.known)})
    else:
        console.print(f"{fresh:,} new labels, {len(store.known):,} in all; next: drivetrain ci check")


@app.command()
def renew(
    config: Config = DEFAULT,
    testset: Annotated[Path | None, typer.Option(help="The new test set; by default the configured file.")] = None,
    json: Json = False,
) -> None:
    """Register a new test set: counters start at zero, the old set may be given to the developers."""
    gate = Gate(config, TestSet(testset) if testset is not None else None)
    before = gate.ledger.current
    gate.register()
    changed = before is not gate.ledger.current and before != gate.ledger.current
    if json:
        print_json({"registered": gate.testset.fingerprint, "changed": changed, "items": gate.testset.pool_size})
    elif changed:
        console.print(f"registered {gate.testset.fingerprint[:12]}, {gate.testset.pool_size:,} items")
        if testset is not None and testset != gate.root / str(gate.config.testset):
            console.print(f'next: set [ci] testset = "{testset}"', markup=False)
    else:
        console.print("this test set is registered already; nothing changed")
