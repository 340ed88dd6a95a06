"""drivetrain: the ML systems of MLSys 2019 as one PyTorch toolkit.

Rooms load at first use: `drivetrain.data`, `drivetrain.optim`, `drivetrain.comm`, `drivetrain.graph`, `drivetrain.ci`,
`drivetrain.nets`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from .base.errors import DrivetrainError

__version__ = "0.1.0"
__all__ = ["DrivetrainError", "__version__", "ci", "comm", "data", "drive", "graph", "nets", "optim", "systems"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
