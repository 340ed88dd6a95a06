"""Errors that say what is wrong, what would be right, and where to change it.

Every error a user can cause is a `DrivetrainError`. The command line prints its three parts and nothing else:

    drivetrain: <message: the thing, the value found, the value wanted>
                <hint: what would be right>
                (<where: file, line, key>)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DrivetrainError(Exception):
    """The base of all errors that drivetrain raises on purpose.

    Args:
        message: the thing, the value found and the value wanted, beginning with the room ("data: ...").
        hint: what would be right, or what to type next.
        where: where to change it, e.g. "drive.toml, line 14: [train] epochs".
    """

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.extend(self.hint.splitlines())
        if self.where:
            parts.append(f"({self.where})")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickles only positional arguments: a worker process would lose the hint on its way to the parent.
        return _rebuild, (type(self), self.message, self.hint, self.where)


def _rebuild(kind: type[DrivetrainError], message: str, hint: str | None, where: str | None) -> DrivetrainError:
    return kind(message, hint=hint, where=where)


class InvalidValue(DrivetrainError, ValueError):
    """A value outside what is allowed: an argument, a configuration key, a malformed file."""


class MissingFile(DrivetrainError, FileNotFoundError):
    """A file that should be there is not."""


class MissingExtra(DrivetrainError, ImportError):
    """A library of an optional extra is not installed; the hint is the install line."""


class RunFailed(DrivetrainError, RuntimeError):
    """Work that began with good input could not be finished: a worker died, a loss became NaN, a disk is full."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` was most likely meant to be, or None when nothing is near."""
    folded = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def unknown_name(kind: str, found: str, names: Iterable[str], *, where: str | None = None) -> InvalidValue:
    """The error for a name that is not in a closed list; suggests the nearest one.

    Args:
        kind: what the name names, with its room: "optim: optimizer".
        found: the name that was given.
        names: the names that are allowed.
    """
    allowed = sorted(names)
    close = nearest(found, allowed)
    guess = f"did you mean {close!r}? " if close else ""
    return InvalidValue(f"{kind} {found!r} is unknown", hint=f"{guess}allowed: {', '.join(allowed)}", where=where)


def check_options(
    what: str, options: Iterable[str], allowed: Iterable[str], error: type[DrivetrainError] = InvalidValue
) -> None:
    """Refuse an option that a named thing does not take; suggests the nearest one.

    Args:
        what: the thing, with its room: "comm: codec '3lc'".
        options: names that were given.
        allowed: names that it takes.
        error: what to raise.
    """
    known = sorted(allowed)
    for option in options:
        if option not in known:
            close = nearest(option, known)
            guess = f"did you mean {close!r}? " if close else ""
            hint = f"{guess}allowed: {', '.join(known)}" if known else "it takes none"
            raise error(f"{what} takes no option {option!r}", hint=hint)
