"""`drivetrain comm tau` and `drivetrain comm simulate`: how often to average models."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any

import typer

from .show import console, print_json, table

PERIODS = (1, 2, 5, 10, 20, 50, 100)


def register(app: typer.Typer) -> None:
    """Add both verbs to the room's commands."""
    app.command()(tau)
    app.command()(simulate)


def tau(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure Y and D: by ranks on this machine, or in the job under torchrun.")
    ] = False,
    alpha: Annotated[float | None, typer.Option(help="Without --measure: D / Y.")] = None,
    model: Annotated[str | None, typer.Option(help='Your model, or a function: "module:attribute".')] = None,
    data: Annotated[str | None, typer.Option(help="Batches (inputs, targets), or a function that gives them.")] = None,
    loss: Annotated[str, typer.Option(help="A loss of torch.nn.functional.")] = "cross_entropy",
    workers: Annotated[int, typer.Option(help="Ranks to start on this machine.")] = 2,
    batch: Annotated[int, typer.Option(help="Rows a step of the built-in data.")] = 32,
    codec: Annotated[str | None, typer.Option(help="What carries the model's change: 3lc, fp16, topk.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """What an averaging costs beside a local step, and the period to start with."""
    from drivetrain.base.errors import InvalidValue
    from drivetrain.comm.sync import propose_tau0, speedup

    if measure == (alpha is not None):
        raise InvalidValue("comm: tau needs --measure, or --alpha with D / Y", hint="drivetrain comm tau --measure")
    found = None
    if measure:
        from drivetrain.comm.sync.probe import measure as run

        found = run(model, data, loss=loss, workers=workers, batch=batch, codec=codec)
        if int(os.environ.get("RANK", "0")):
            return  # under torchrun rank 0 speaks for all
        alpha = found.alpha
    assert alpha is not None
    proposed = propose_tau0(alpha)
    rows = [
        {"tau": period, "speedup": speedup(alpha, period), "communication": alpha / (period + alpha)}
        for period in sorted({*PERIODS, proposed})
    ]
    if json:
        print_json({
            "alpha": alpha, "y": found and found.y, "d": found and found.d, "workers": found and found.workers,
            "parameters": found and found.parameters, "bytes": found and found.bytes, "over": found and found.over,
            "tau0": proposed, "largest_speedup": 1 + alpha, "periods": rows,
        })  # fmt: skip
        return
    console.print(f"[bold]tau_0 = {proposed}[/]: D / Y = {alpha:.3g}, so local steps win at most {1 + alpha:.3g}x")
    if found:
        console.print(
            f"Y = {found.y * 1e3:.3g} ms a local step, D = {found.d * 1e3:.3g} ms an averaging of {found.parameters:,} "
            f"values between {found.workers} ranks over {found.over} ({found.bytes:,} bytes sent by a rank)",
            soft_wrap=True,
        )
    table("", ("tau", "steps a second, to tau = 1", "time in averaging"),
          [(row["tau"], f"{row['speedup']:.2f}x", f"{row['communication']:.0%}") for row in rows])  # fmt: skip
    if found and found.over == "loopback":
        console.print("Loopback is no network: run this under torchrun on your machines for their D.")
    console.print(
        f"next: LocalUpdate(optimizer, model), or drivetrain comm simulate --alpha {alpha:.3g}", soft_wrap=True
    )


def simulate(
    alpha: Annotated[float, typer.Option(help="D / Y.")] = 4.0,
    workers: Annotated[int, typer.Option(help="Workers.")] = 4,
    rules: Annotated[
        str, typer.Option(help="Period rules with options, in a row.")
    ] = "fixed:1,fixed:5,fixed:20,adacomm,marginal",
    task: Annotated[str, typer.Option(help="What is trained on scikit-learn's digits: mlp or cnn.")] = "mlp",
    steps: Annotated[int, typer.Option(help="Local steps of each rule.")] = 600,
    goal: Annotated[float, typer.Option("--loss", help="The training loss that is waited for.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the model and the batches.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Train a small real task under period rules on a simulated clock: 1 second a local step, alpha an averaging."""
    import torch

    from drivetrain.base.errors import InvalidValue, unknown_name
    from drivetrain.base.progress import track
    from drivetrain.comm.sync import digits_cnn, digits_mlp, get
    from drivetrain.comm.sync import simulate as run

    tasks = {
        "mlp": lambda: digits_mlp(batch=32, hidden=128, lr=0.5),
        "cnn": lambda: digits_cnn(batch=16, width=8, lr=0.2),
    }
    if task not in tasks:
        raise unknown_name("comm: simulate: task", task, tasks)
    if steps < 1 or not goal > 0:
        raise InvalidValue(f"comm: simulate: steps={steps}, loss={goal}: wanted steps and a loss above 0")
    names = split_rules(rules)
    if not names:
        raise InvalidValue("comm: simulate: no rules", hint="--rules fixed:1,fixed:20,adacomm,marginal")
    chosen = [get(name) for name in names]
    problem = tasks[task]()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other
    try:
        found = [
            run(rule, problem, workers, D=alpha, T=math.inf, max_steps=steps, seed=seed,
                lr=lambda share: problem.lr * 0.5 * (1 + math.cos(math.pi * share)))
            for rule in track(chosen, "simulating")
        ]  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    rows = [_facts(name, simulation, goal) for name, simulation in zip(names, found, strict=True)]
    if json:
        print_json({"alpha": alpha, "workers": workers, "task": task, "steps": steps, "loss": goal, "rules": rows})
        return
    best = min(rows, key=lambda row: row["seconds_to_loss"] or math.inf)
    if best["seconds_to_loss"] is None:
        console.print(f"[bold]No rule reaches loss {goal:g} in {steps} steps[/]; try more --steps or a larger --loss")
    else:
        console.print(
            f"[bold]{best['rule']}[/] reaches loss {goal:g} first, at {best['seconds_to_loss']:.0f} simulated s"
        )
    table(f"{problem.name}, {workers} workers, D / Y = {alpha:g}, {steps} local steps",
          ("rule", "s to loss", "final loss", "s in all", "averagings", "averaging's share", "tau over the run"),
          [_row(row) for row in rows])  # fmt: skip
    console.print("next: LocalUpdate(optimizer, model, rule), or drivetrain comm tau --measure for your own D / Y")


def split_rules(text: str) -> list[str]:
    """ "fixed:1,adacomm:tau0=20,gamma=1" -> its rules: a comma ends one where a rule's name follows."""
    from drivetrain.comm.sync import names

    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name = part.partition(":")[0].strip().casefold().replace("_", "-")
        if found and name not in names() and ("=" in part.partition(":")[0] or part.replace(".", "").isdigit()):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _facts(name: str, run: Any, goal: float) -> dict[str, Any]:
    seconds = run.seconds_to(goal)
    return {
        "rule": name,
        "seconds_to_loss": seconds if math.isfinite(seconds) else None,
        "final_loss": run.losses[-1],
        "seconds": run.end,
        "averagings": run.syncs,
        "communication": run.communication_share,
        "periods": [tau for _, tau in run.periods],
    }


def _row(facts: dict[str, Any]) -> tuple[Any, ...]:
    reached, periods = facts["seconds_to_loss"], facts["periods"]
    shown = [periods[len(periods) * k // 5] for k in range(5)] if len(set(periods)) > 1 else periods[:1]
    return (
        facts["rule"], "-" if reached is None else f"{reached:.0f}", f"{facts['final_loss']:.4f}",
        f"{facts['seconds']:.0f}", facts["averagings"], f"{facts['communication']:.0%}", " ".join(map(str, shown)),
    )  # fmt: skip
