"""drivetrain: the ML systems of MLSys 2019 as one PyTorch toolkit.

Rooms load at first use: `drivetrain.data`, `drivetrain.optim`, `drivetrain.comm`, `drivetrain.graph`, `drivetrain.ci`,
`drivetrain.nets`.
"""

from __future__ import annotations

import importlib
from typing import Any

from .base.errors import DrivetrainError

__version__ = "0.1.0"
_ROOMS = ("ci", "comm", "data", "drive", "graph", "nets", "optim", "systems")
_OF_GRAPH = ("Spec", "function", "load", "py_call")  # written so often that the house's name will do
__all__ = ["DrivetrainError", "__version__", *_ROOMS, *_OF_GRAPH]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _OF_GRAPH:
        return getattr(importlib.import_module(f"{__name__}.graph"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
