"""The program: one IR, the ATen-level `torch.fx.GraphModule`, with doors into it and checked passes over it.

- `capture(model, (x,))`: a whole model as a `Program`, through torch.export
- `torch.compile(model, backend="drivetrain")`: what Dynamo captures, through the same passes
- `@function`: staging, a Python function traced once for each kind of call
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# At once, not lazily: the function must hide the file of the same name, whoever imports what first.
from .capture import Program, capture

if TYPE_CHECKING:
    from .ir import normalise, source_line, structural_hash, tensor_meta
    from .passes import PassContext
    from .rewrite.optimize import optimize
    from .staging.concrete import Capture, Concrete
    from .staging.escape import init_scope, is_tracing, py_call
    from .staging.function import Function, function
    from .staging.spec import Spec
    from .staging.store import load

# name -> file of this room; loaded at first use, since most of them need what takes torch a second to import
_DOORS = {
    "Capture": "staging",
    "Concrete": "staging",
    "Function": "staging",
    "PassContext": "passes",
    "Spec": "staging",
    "function": "staging",
    "init_scope": "staging",
    "is_tracing": "staging",
    "load": "staging",
    "normalise": "ir",
    "optimize": "rewrite",
    "py_call": "staging",
    "source_line": "ir",
    "structural_hash": "ir",
    "tensor_meta": "ir",
}

__all__ = [
    "Capture",
    "Concrete",
    "Function",
    "PassContext",
    "Program",
    "Spec",
    "capture",
    "function",
    "init_scope",
    "is_tracing",
    "load",
    "normalise",
    "optimize",
    "py_call",
    "source_line",
    "structural_hash",
    "tensor_meta",
]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return getattr(importlib.import_module(f"{__name__}.{_DOORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
