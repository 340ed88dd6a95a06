"""Batch normalisation restructured for training: statistics once, no normalised feature in memory (system 19).

- `traffic(model, (N, C, H, W))`: what its batch norms move, before and after
- `patch_(model, example=x)`: fused sweeps in place of the modules' own where measured faster, same state_dict keys;
  `unpatch_(model)` undoes it; what was decided is a `BNPlan`
- `BNReLUConv2d(bn, conv)`: one edge by hand
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .modules import BNReLUConv2d
    from .patch import patch_, unpatch_
    from .plan import BNPlan, Edge
    from .rewrite import restructure
    from .statistics import batch_statistics
    from .traffic_model import Traffic, sweeps, traffic

_FILES = {
    "BNPlan": "plan",
    "BNReLUConv2d": "modules",
    "Edge": "plan",
    "Traffic": "traffic_model",
    "batch_statistics": "statistics",
    "patch_": "patch",
    "restructure": "rewrite",
    "sweeps": "traffic_model",
    "traffic": "traffic_model",
    "unpatch_": "patch",
}

__all__ = [
    "BNPlan",
    "BNReLUConv2d",
    "Edge",
    "Traffic",
    "batch_statistics",
    "patch_",
    "restructure",
    "sweeps",
    "traffic",
    "unpatch_",
]


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
