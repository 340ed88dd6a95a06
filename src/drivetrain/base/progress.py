"""Progress bars on standard error: shown at a terminal, silent in a pipe, a log, or with --quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence every bar of this process (the command line's --quiet)."""
    global _quiet
    _quiet = quiet


@contextmanager
def bar(label: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; the block calls what it gets with the amount that was done.

    Args:
        label: what is going on, in a word or two.
        total: the whole amount; None shows a pulse.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if _quiet or not console.is_terminal:
        yield lambda amount: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda amount: progress.advance(task, amount)


def track(items: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Yield `items` and show a bar of how many have been taken."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(label, total) as advance:
        for item in items:
            yield item
            advance(1)
