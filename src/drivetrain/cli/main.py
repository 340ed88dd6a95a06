"""`drivetrain`: one command for the whole house.

Only the room that is asked for is imported, so `drivetrain --help` answers at once. An error the user can mend is
three lines on standard error and exit code 2 (a spec may name others); `--debug` adds the traceback.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from drivetrain.base import progress
from drivetrain.base.errors import DrivetrainError, RunFailed, nearest

# room -> what it is for; the room's commands live in drivetrain.cli.<room>.app
ROOMS = {
    "data": "statistics, schema, anomalies, drift and skew of data (17)",
    "optim": "optimizers that tune themselves (22)",
    "comm": "gradients over slow, shared or hostile networks (1, 6, 10)",
    "graph": "programs: traced functions, rewritten and faster models (24; 12 and 19 in the making)",
    "ci": "a statistically sound gate for new models (8)",
}
# commands of the house itself, each a function in drivetrain.cli.<module>
HOUSE = {"run": "drive", "new": "drive", "report": "drive", "systems": "house", "doctor": "house"}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Run one command line; return its exit code. Bad input becomes a message on standard error."""
    debug = "--debug" in argv
    progress.set_quiet("--quiet" in argv)
    words = [word for word in argv if word not in ("--debug", "--quiet")]
    if not debug:  # torch warns of its own use of pytrees when a captured program is copied
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
    try:
        code = _build(words)(words or ["--help"], prog_name="drivetrain", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        _complain(DrivetrainError("stopped by the keyboard"))
        return 130
    except BrokenPipeError:
        return 0  # the reader of our output (head, less) has seen enough
    except DrivetrainError as error:
        if debug:
            raise
        _complain(error)
        return int(getattr(error, "exit_code", 2))
    except OSError as error:
        if debug or error.filename is None:
            raise
        _complain(RunFailed(f"{error.filename}: {(error.strerror or str(error)).lower()}"))
        return 2
    except Exception as error:
        return _usage_error(error)


def _build(words: Sequence[str]) -> Callable[..., Any]:
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Drive a PyTorch model from data to the browser. "
        "Everywhere: --quiet shows no progress bars, --debug shows tracebacks.",
    )
    app.callback(invoke_without_command=True)(_house_options)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, module in HOUSE.items():
        if wanted is None or wanted == name:
            app.command(name)(getattr(importlib.import_module(f"drivetrain.cli.{module}"), name))
    for room, purpose in ROOMS.items():
        commands = importlib.import_module(f"drivetrain.cli.{room}").app if wanted == room else typer.Typer()
        if wanted is None:
            commands.command("verb")(lambda: None)  # a group needs one command to be listed
        if wanted in (None, room):
            app.add_typer(commands, name=room, help=purpose, no_args_is_help=True)
    if wanted is not None and wanted not in (*HOUSE, *ROOMS):
        close = nearest(wanted, (*HOUSE, *ROOMS))
        raise DrivetrainError(
            f"there is no command {wanted!r}",
            hint=f"did you mean {close!r}?" if close else f"commands: {', '.join((*HOUSE, *ROOMS))}",
        )
    return typer.main.get_command(app)


def _house_options(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from drivetrain import __version__

        typer.echo(f"drivetrain {__version__}")
        raise typer.Exit()


def _usage_error(error: Exception) -> int:
    """Show a mistake in the use of a command in our own form; anything else is a defect and keeps its traceback."""
    show = getattr(error, "format_message", None)
    if show is None:
        if type(error).__name__ in ("Exit", "Abort"):
            return int(getattr(error, "exit_code", 1))
        raise error
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "drivetrain"
    message = str(show())
    _complain(DrivetrainError(message[:1].lower() + message[1:].rstrip("."), hint=f"see {path} --help"))
    return 2


def _complain(error: DrivetrainError) -> None:
    first, *rest = str(error).splitlines()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]drivetrain:[/] {escape(first)}")
    for line in rest:
        console.print(f"            {escape(line)}")


if __name__ == "__main__":
    main()
