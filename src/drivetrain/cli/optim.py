"""`drivetrain optim`: learning rate and momentum for one's own model."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .show import console, print_json, table

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _room() -> None:
    """Optimizers that tune themselves."""


@app.command()
def suggest(
    file: Annotated[Path | None, typer.Argument(help="A drive: its model, data and loss are tried.")] = None,
    model: Annotated[
        str | None, typer.Option(help='Without a drive: the model, or a function that builds it: "module:attribute".')
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Without a drive: batches (inputs, targets), or a function that gives them."),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help='A loss of torch.nn.functional, or "module:attribute"; a mean over samples.')
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where the drive's own data stage has run, or will.")] = Path("runs"),
    steps: Annotated[int, typer.Option(help="Training steps to try.")] = 200,
    beta: Annotated[float, typer.Option(help="Smoothing of YellowFin's statistics.")] = 0.999,
    seed: Annotated[int, typer.Option(help="Seeds torch, so that the model's first weights are the same again.")] = 0,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    check: Annotated[bool, typer.Option(help="Train again by SGD with what was found.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Find a learning rate and a momentum for plain SGD. Exit 1 when SGD does not learn with them."""
    import torch

    from drivetrain.optim.suggest import suggest as find

    torch.manual_seed(seed)
    net, batches, loss_of = _from_drive(file, runs, model, data, loss) if file else _from_options(model, data, loss)
    result = find(net, batches, loss_of, steps=steps, check=check, device=device, beta=beta)
    if json:
        print_json({**asdict(result), "stats": result.stats.event(), "holds": result.holds})
    else:
        _show(result)
    if not result.holds:
        raise typer.Exit(1)


def _from_drive(file: Path, runs: Path, *options: str | None) -> tuple[Any, Any, Any]:
    from drivetrain.base.errors import InvalidValue
    from drivetrain.drive import open_training, read_drive

    if any(options):
        raise InvalidValue(
            "optim: a drive brings its own model, data and loss", hint="leave --model, --data, --loss out"
        )
    return open_training(read_drive(file), runs=runs)


def _from_options(model: str | None, data: str | None, loss: str | None) -> tuple[Any, Any, Any]:
    from drivetrain.base.errors import InvalidValue

    if model is None or data is None:
        raise InvalidValue("optim: suggest needs a drive's TOML file, or --model and --data")
    return _model(model), _data(data), loss or "cross_entropy"


def _show(result: Any) -> None:
    console.print(f"[bold]lr = {result.lr:.4g}, momentum = {result.momentum:.4g}[/]")
    losses = [("first tenth of the steps", result.start), ("last tenth, YellowFin", result.tuned)]
    if result.frozen is not None:
        losses.append(("last tenth, SGD with these", result.frozen))
    table(f"{result.steps} steps", ("mean loss", ""), [(name, f"{value:.4g}") for name, value in losses])
    s = result.stats
    table("", ("h_min", "h_max", "C", "D", "mu", "lr"), [(s.h_min, s.h_max, s.variance, s.distance, s.mu, s.lr)])
    console.print(s.reason)
    if result.holds:
        console.print(f"next: torch.optim.SGD(params, lr={result.lr:.4g}, momentum={result.momentum:.4g})")
    else:
        worse = "diverged" if math.isinf(result.frozen) else "did not learn"
        console.print(f"[bold red]SGD {worse} with these.[/] next: keep YellowFin itself, or try more --steps")


def _model(reference: str) -> Any:
    from torch import nn

    from drivetrain.base.errors import InvalidValue
    from drivetrain.base.modules import load_attribute

    found = load_attribute(reference, Path.cwd(), where="--model")
    model = found if isinstance(found, nn.Module) else _called(found, "model", reference)
    if not isinstance(model, nn.Module):
        raise InvalidValue(f"optim: --model {reference} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _data(reference: str) -> Any:
    from drivetrain.base.errors import InvalidValue
    from drivetrain.base.modules import load_attribute

    found = load_attribute(reference, Path.cwd(), where="--data")
    data = _called(found, "data", reference)
    if not hasattr(data, "__iter__"):
        raise InvalidValue(f"optim: --data {reference} gave a {type(data).__name__}, not batches")
    return data


def _called(found: Any, what: str, reference: str) -> Any:
    """What a user's function gives; its own failure becomes a message."""
    from drivetrain.base.errors import InvalidValue

    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise InvalidValue(f"optim: --{what} {reference} failed: {type(error).__name__}: {error}") from error
