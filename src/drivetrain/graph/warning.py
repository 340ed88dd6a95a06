"""What goes on without an improvement says why in one warning, never in a traceback."""

from __future__ import annotations

import warnings

from drivetrain.base.errors import DrivetrainError


def warn(text: str) -> None:
    """One warning of this room."""
    warnings.warn(f"drivetrain: graph: {text.removeprefix('graph: ')}", stacklevel=2)


def told(error: BaseException) -> str:
    """An error in one line: our own with hint and place, others by kind and first line."""
    if isinstance(error, DrivetrainError):
        return "; ".join(str(error).removeprefix("graph: ").splitlines())
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
