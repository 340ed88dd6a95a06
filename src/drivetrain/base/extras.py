"""Optional libraries, imported at first use; a missing one tells the line that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` with the install line of `drivetrain[extra]`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise  # the library is there, something it needs is not: its own message says more
        raise MissingExtra(
            f"this needs the library {root!r}, which is not installed", hint=f'pip install "drivetrain[{extra}]"'
        ) from None
