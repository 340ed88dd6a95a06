"""The program: one IR, the ATen-level `torch.fx.GraphModule`, with doors into it and checked passes over it.

- `capture(model, (x,))`: a whole model as a `Program`, through torch.export
- `torch.compile(model, backend="drivetrain")`: what Dynamo captures, through the same passes
- `optimize(model, (x,))`: relaxed substitutions, searched and measured; `@rule` adds one, `check` tries it
- `@function`: staging, a Python function traced once for each kind of call
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# At once, not lazily: the function must hide the file of the same name, whoever imports what first.
from .capture import Program, capture

if TYPE_CHECKING:
    from .cost import CostTable
    from .ir import normalise, source_line, structural_hash, tensor_meta
    from .passes import PassContext
    from .rewrite.optimize import optimize
    from .rewrite.pattern import PatternRule
    from .rewrite.result import OptimizeResult
    from .rewrite.rule import Rule, rule
    from .rewrite.rules import RULES
    from .rewrite.taso import read_rules
    from .rewrite.training import rewrite_training
    from .staging.concrete import Capture, Concrete
    from .staging.escape import init_scope, is_tracing, py_call
    from .staging.function import Function, function
    from .staging.spec import Spec
    from .staging.store import load
    from .verify import Report, check, verify_rules

# name -> file of this room; loaded at first use, since most of them need what takes torch a second to import
_DOORS = {
    "Capture": "staging",
    "Concrete": "staging",
    "CostTable": "cost",
    "Function": "staging",
    "OptimizeResult": "rewrite",
    "PassContext": "passes",
    "PatternRule": "rewrite",
    "RULES": "rewrite",
    "Report": "verify",
    "Rule": "rewrite",
    "Spec": "staging",
    "check": "verify",
    "function": "staging",
    "init_scope": "staging",
    "is_tracing": "staging",
    "load": "staging",
    "normalise": "ir",
    "optimize": "rewrite",
    "py_call": "staging",
    "read_rules": "rewrite",
    "rewrite_training": "rewrite",
    "rule": "rewrite",
    "source_line": "ir",
    "structural_hash": "ir",
    "tensor_meta": "ir",
    "verify_rules": "verify",
}

__all__ = [
    "RULES",
    "Capture",
    "Concrete",
    "CostTable",
    "Function",
    "OptimizeResult",
    "PassContext",
    "PatternRule",
    "Program",
    "Report",
    "Rule",
    "Spec",
    "capture",
    "check",
    "function",
    "init_scope",
    "is_tracing",
    "load",
    "normalise",
    "optimize",
    "py_call",
    "read_rules",
    "rewrite_training",
    "rule",
    "source_line",
    "structural_hash",
    "tensor_meta",
    "verify_rules",
]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return getattr(importlib.import_module(f"{__name__}.{_DOORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
