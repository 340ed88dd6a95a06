"""Lowerings: how a graph that passes are done with is run. One registry, found by name, imported when first needed.

The compiler backend lowers fx graphs: `find_lowering(name)(module, example_inputs, kind)` gives a boxed function that
takes one list of inputs, which it may empty so that memory is freed early, and returns a flat list or tuple.
`optimize` lowers rewritten terms: `find_runner(name)(graph, state)` gives a function of flat tensors.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, fx

from drivetrain.base.errors import InvalidValue, unknown_name

from .passes import Kind

if TYPE_CHECKING:
    from .rewrite.term import Graph

Boxed = Callable[[list[Any]], Sequence[Any]]
Runner = Callable[..., Sequence[Any]]


class Lowering(Protocol):
    """Make a graph runnable; `kind` tells whether it is a forward, a backward or an inference graph."""

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed: ...


class TermLowering(Protocol):
    """Make a rewritten program runnable: flat tensors in, flat outputs out.

    Those that are not `Registered.channels_last` also take `inputs`, what the arguments are and how they lie.
    """

    def __call__(self, graph: Graph, state: Mapping[str, Tensor]) -> Runner: ...


@dataclass(frozen=True)
class Registered:
    """A line of the registry.

    Attributes:
        of_fx: "module:function" that lowers fx graphs, a `Lowering`.
        of_terms: "module:function" that lowers rewritten programs, a `TermLowering`; "" where there is none.
        lacks: what is missing here to run it, "" if nothing.
        tried: whether `optimize(then="auto")` measures it; not what takes minutes to compile.
        channels_last: its images are fastest channels last.
    """

    of_fx: str
    of_terms: str = ""
    lacks: Callable[[], str] = str
    tried: bool = True
    channels_last: bool = True


def _lacks_packages(*names: str) -> Callable[[], str]:
    return lambda: ", ".join(name for name in names if find_spec(name) is None)


def _lacks_onednn() -> str:
    return "" if torch.backends.mkldnn.is_available() else "a PyTorch with oneDNN"


def _lacks_compiler() -> str:
    return "" if has_compiler() or torch.cuda.is_available() else "a C++ compiler"


LOWERINGS: dict[str, Registered] = {
    "auto": Registered("drivetrain.graph.lowering:lower_auto"),
    "eager": Registered("drivetrain.graph.lowering:lower_eager", "drivetrain.graph.rewrite.convert:to_fx"),
    "onednn": Registered(
        "drivetrain.graph.rewrite.lower:lower_onednn", "drivetrain.graph.rewrite.lower.onednn:lower", _lacks_onednn
    ),
    "onnxruntime": Registered(
        "drivetrain.graph.lower_onnxruntime:lower_onnxruntime", "drivetrain.graph.rewrite.lower:to_session",
        _lacks_packages("onnxruntime", "onnx", "onnxscript"), channels_last=False,
    ),
    "inductor": Registered(
        "drivetrain.graph.lowering:lower_inductor", "drivetrain.graph.rewrite.lower:to_inductor", _lacks_compiler,
        tried=False,
    ),
}  # fmt: skip


def find_lowering(name: str) -> Lowering:
    """The lowering of fx graphs of a name.

    Raises:
        InvalidValue: no such lowering; names the nearest.
    """
    found: Lowering = _loaded(_registered(name, LOWERINGS).of_fx)
    return found


def find_runner(name: str) -> TermLowering:
    """The lowering of rewritten programs of a name.

    Raises:
        InvalidValue: no such lowering; names the nearest.
    """
    found: TermLowering = _loaded(_registered(name, of_programs()).of_terms)
    return found


def of_programs() -> list[str]:
    """Names of the lowerings that run rewritten programs."""
    return [name for name, registered in LOWERINGS.items() if registered.of_terms]


def lacks(name: str) -> str:
    """What is missing on this machine for a lowering, "" if nothing.

    Raises:
        InvalidValue: no such lowering; names the nearest.
    """
    return _registered(name, LOWERINGS).lacks()


def to_try() -> list[str]:
    """The lowerings that `optimize(then="auto")` measures on this machine."""
    return [name for name in of_programs() if LOWERINGS[name].tried and not LOWERINGS[name].lacks()]


def _registered(name: str, names: Iterable[str]) -> Registered:
    if name not in (allowed := list(names)):
        raise unknown_name("graph: lowering", str(name), allowed)
    return LOWERINGS[name]


def _loaded(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)


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
