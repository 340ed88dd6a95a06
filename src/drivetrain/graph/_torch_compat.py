"""Every private name of torch that this room uses, in one place; a smoke test calls each (tests/graph/test_compat.py).

Tested with torch 2.13. A later torch that lacks one of them is told by name at first use, not by an AttributeError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

TESTED = "2.13"


def fake_mode_of(values: Sequence[Any]) -> FakeTensorMode | None:
    """The mode that a graph's fake inputs belong to."""
    return next((value.fake_mode for value in values if isinstance(value, FakeTensor)), None)


def retrace(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    mode: FakeTensorMode | None,
    decompositions: Mapping[Any, Callable[..., Any]] | None = None,
) -> fx.GraphModule:
    """Trace a flat graph again on its own fake inputs, with other decompositions."""
    from torch._decomp import core_aten_decompositions  # noqa: F401  (registers them)
    from torch.fx.traceback import preserve_node_meta

    def run(*values: Any) -> Any:
        with preserve_node_meta():
            return fx.Interpreter(module).run(*values)

    with torch.no_grad(), mode or FakeTensorMode(allow_non_fake_inputs=True):
        found: fx.GraphModule = make_fx(run, decomposition_table=dict(decompositions or {}))(*inputs)
    return found


def is_fake(value: Any) -> bool:
    """Whether a value is a tensor without data, made while tracing."""
    return isinstance(value, FakeTensor)


def real_tensor(value: Any) -> bool:
    """Whether a value is a tensor with data."""
    return isinstance(value, Tensor) and not isinstance(value, FakeTensor)


def keep_lines_of(function: Callable[..., Any]) -> None:
    """Make torch.export record source lines of a function that is no module's forward."""
    fx.proxy._register_stack_trace_anchor(function)
