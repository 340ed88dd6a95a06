"""Lowerings: how a graph that passes are done with is run. Found by name, imported when first needed.

A lowering takes a flat functional graph and returns a boxed function: it gets one list of inputs, which it may empty
so that memory is freed early, and returns a flat list or tuple.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import fx

from drivetrain.base.errors import InvalidValue, unknown_name

from .passes import Kind

Boxed = Callable[[list[Any]], Sequence[Any]]


class Lowering(Protocol):
    """Make a graph runnable; `kind` tells whether it is a forward, a backward or an inference graph."""

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed: ...


LOWERINGS: dict[str, str] = {
    "auto": "drivetrain.graph.lowering:lower_auto",
    "eager": "drivetrain.graph.lowering:lower_eager",
    "inductor": "drivetrain.graph.lowering:lower_inductor",
    "onnxruntime": "drivetrain.graph.lower_onnxruntime:lower_onnxruntime",
}


def find_lowering(name: str) -> Lowering:
    """The lowering of a name.

    Raises:
        InvalidValue: no such lowering; names the nearest.
    """
    if name not in LOWERINGS:
        raise unknown_name("graph: lowering", str(name), LOWERINGS)
    module, _, attribute = LOWERINGS[name].partition(":")
    found: Lowering = getattr(importlib.import_module(module), attribute)
    return found


def lower_auto(module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed:
    """Inductor where it can compile for the graph's device, else torch's own kernels one after the other."""
    on_gpu = any(getattr(value, "is_cuda", False) for value in example_inputs)
    return (lower_inductor if on_gpu or has_compiler() else lower_eager)(module, example_inputs, kind)


@functools.cache
def has_compiler() -> bool:
    """Whether a C++ compiler is there, which Inductor needs on a CPU."""
    return any(name and shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++"))


def lower_eager(module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed:
    """Run the graph's operators one after the other by torch's own kernels."""
    from torch._functorch.aot_autograd import make_boxed_func

    boxed: Boxed = make_boxed_func(module.forward)
    return boxed


def lower_inductor(module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed:
    """Compile by Inductor, after lowering to the operators that it knows.

    Raises:
        InvalidValue: no C++ compiler for a graph on the CPU.
    """
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    from ._torch_compat import fake_mode_of, retrace

    if not has_compiler() and not any(getattr(value, "is_cuda", False) for value in example_inputs):
        raise InvalidValue(
            "graph: the lowering 'inductor' needs a C++ compiler and none was found",
            hint="install g++, or set CXX, or use then='eager'",
        )
    # Not the placeholders' metas: a backward graph's saved tensors have the strides that the compiled forward chose.
    inputs = list(example_inputs)
    mode = fake_mode_of(inputs)
    # Inductor lays convolutions' results and gradients out as it likes: what was a view there may need a copy here.
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    lowered = retrace(module, inputs, mode, select_decomp_table())
    guard = torch._guards.tracing(torch._guards.TracingContext(mode)) if mode is not None else torch.no_grad()
    with guard if torch._guards.TracingContext.try_get() is None else torch.no_grad():
        compiled: Boxed = compile_fx_inner(
            lowered, inputs, is_backward=kind == "backward", is_inference=kind == "inference"
        )
    return compiled
