"""Every private name of torch that this room uses, in one place; a smoke test calls each (tests/graph/test_compat.py).

Tested with torch 2.13. A later torch that lacks one of them is told by name at first use, not by an AttributeError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from traceback import StackSummary
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch._dynamo.exc import ShortenTraceback
from torch._dynamo.source import ConstantSource
from torch._functorch._aot_autograd.schemas import OutputType
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental import _config as _symbolic_config
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._sympy.printers import PythonPrinter

from .errors import current_line

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


class RecordingTracer(proxy_tensor.PythonKeyTracer):
    """make_fx's tracer, that notes for each node the user's source line and whether gradients were on."""

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = False

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node: fx.Node = super().create_node(*args, **kwargs)
        node.meta["grad"] = torch.is_grad_enabled()
        line = current_line()
        if line is not None and node.op not in ("placeholder", "output"):
            node.meta["stack_trace"] = f'File "{line.file}", line {line.number}, in {line.function}\n    {line.code}'
        return node


class _Maker(proxy_tensor._MakefxTracer):
    """make_fx with a tracer of ours."""

    def __init__(self, tracer: RecordingTracer, pre_dispatch: bool) -> None:
        super().__init__(None, "real", False, pre_dispatch, False, False, True)
        self._tracer = tracer

    @contextmanager
    def _init_modes_from_inputs(self, f: Callable[..., Any], args: tuple[object, ...]) -> Iterator[None]:
        before = self._checkpoint_modes()
        try:
            self.fx_tracer = self._tracer
            self._construct_modes_with_fx_tracer(self._tracer)
            yield
        finally:
            self._restore_modes(*before)


def trace_flat(
    run: Callable[..., Any], inputs: Sequence[Any], mode: FakeTensorMode, tracer: RecordingTracer, pre_dispatch: bool
) -> fx.GraphModule:
    """Run a function of flat fake tensors once and record its operators.

    pre_dispatch records what the program called (linear, batch_norm, in-place writes, views), above autograd: running
    the graph builds the same autograd graph as the program would have. Functional transforms need it off.
    """
    with mode:
        found: fx.GraphModule = _Maker(tracer, pre_dispatch).trace(run, *inputs)
    return found


def track(value: Any, proxy: Any, tracer: RecordingTracer) -> Any:
    """Tell the tracer which proxies stand for fake tensors."""
    with torch._C.DisableTorchFunction():  # the tracer's own torch calls are none of the program's
        return proxy_tensor.track_tensor_tree(value, proxy, constant=None, tracer=tracer)


def proxies_of(values: Sequence[Any], tracer: RecordingTracer) -> tuple[Any, ...]:
    """The proxies that stand for tracked values; other values as they are."""
    found = [
        proxy_tensor.get_proxy_slot(v, tracer, v, lambda p: p.proxy) if isinstance(v, Tensor) else v for v in values
    ]
    return tuple(found)


@contextmanager
def without_recording(mode: FakeTensorMode) -> Iterator[None]:
    """Operators inside run on fake tensors of a mode and leave no nodes."""
    with outside_modes(), temporarily_clear_interpreter_stack(), mode:
        yield


@contextmanager
def outside_modes() -> Iterator[None]:
    """Leave all tracing: no fake tensors, no recording, until the end of the block (`init_scope`)."""
    modes = []
    stack = ExitStack()
    while torch._C._len_torch_function_stack() > 0:
        modes.append(torch._C._pop_torch_function_stack())
    try:
        with stack:
            stack.enter_context(_disable_current_modes())
            stack.enter_context(torch._C._DisablePythonDispatcher())
            yield
    finally:
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)


def shape_environment(whole_range: bool) -> ShapeEnv:
    """Symbols for sizes. `whole_range`: sizes 0 and 1 are no special cases, one graph serves all sizes."""
    return ShapeEnv(
        specialize_zero_one=not whole_range,
        duck_shape=False,
        allow_scalar_outputs=False,  # what Python reads from a tensor would be unknown: an error says so
        allow_dynamic_output_shape_ops=False,
    )


def size_oblivious(on: bool) -> Any:
    """Answer what depends on a size being 0 or 1 as if it were neither."""
    return _symbolic_config.patch(  # type: ignore[attr-defined]
        backed_size_oblivious=on
    )


def fake_input(mode: FakeTensorMode, tensor: Tensor, name: str, dynamic: Sequence[bool]) -> Tensor:
    """A fake tensor like a real one, some of its sizes symbols."""
    if not any(dynamic):
        return mode.from_tensor(tensor, static_shapes=True)
    kinds = [DimDynamic.DYNAMIC if free else DimDynamic.STATIC for free in dynamic]
    context: Any = StatelessSymbolicContext(dynamic_sizes=kinds, constraint_sizes=[None] * len(kinds))
    return mode.from_tensor(tensor, source=ConstantSource(name), symbolic_context=context)


def size_guards(shape_env: ShapeEnv) -> list[Any]:
    """Sympy relations between symbols that a trace relied on."""
    return [guard.expr for guard in shape_env.guards]


def python_text(expression: Any) -> str:
    """A sympy expression as Python."""
    return str(PythonPrinter().doprint(expression))


def symbol_name(size: Any) -> Any:
    """The sympy expression of a symbolic size; an int as it is."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def stand_in(fake: Tensor) -> Tensor:
    """A real tensor of unset values with a fake one's metas."""
    with outside_modes():
        made = torch.empty_strided(tuple(fake.shape), tuple(fake.stride()), dtype=fake.dtype, device=fake.device)
        return made.requires_grad_(fake.requires_grad)


def plain_fake(fake: Any) -> Any:
    """A fake tensor as a leaf of its own, for compilers that look at what their inputs came from."""
    if not isinstance(fake, FakeTensor):
        return fake
    with fake.fake_mode, torch.no_grad():
        return fake.detach().requires_grad_(fake.requires_grad)


@contextmanager
def without_tracing_context() -> Iterator[None]:
    """What runs inside is no part of the compilation that is going on."""
    with torch._guards.tracing(None):
        yield


def written_inputs() -> tuple[int, ...] | None:
    """Positions of the inputs that the graph being compiled writes to; None where torch doesn't tell."""
    metadata = _compiled_graph()
    return None if metadata is None else tuple(i for i, info in enumerate(metadata.input_info) if info.mutates_data)


def returns_views() -> bool:
    """Whether the graph being compiled returns an input or a view of one."""
    metadata = _compiled_graph()
    return metadata is None or any(
        info.output_type in (OutputType.alias_of_input, OutputType.is_input) for info in metadata.output_info
    )


def _compiled_graph() -> Any:
    context = torch._guards.TracingContext.try_get()
    return None if context is None else context.fw_metadata


def is_weight(node: fx.Node, value: Any) -> bool:
    """Whether a placeholder of a graph that Dynamo captured stands for a parameter or a buffer of a module."""
    return isinstance(value, torch.nn.Parameter) or bool(
        isinstance(value, Tensor) and node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")
    )


def frozen_by_inductor(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Any]]:
    """Inductor with its freezing passes on a graph that holds its weights."""
    from torch._inductor.compile_fx import compile_fx

    found: Any = compile_fx(module, list(inputs), config_patches={"freezing": True})
    made: Callable[..., Sequence[Any]] = found
    return made


def raise_plainly(error: Exception) -> NoReturn:
    """Raise an error so that Dynamo hands it to the user as it is, not inside one of its own."""
    kind = type(error)
    made_of = {"__module__": kind.__module__, "__reduce__": lambda self: error.__reduce__()}  # it is pickled as it was
    plain = type(kind.__name__, (kind, ShortenTraceback), made_of)
    made = plain.__new__(plain, *error.args)
    made.__dict__.update(error.__dict__)
    made.args = error.args
    made.first_useful_frame = made._torch_dynamo_tracer_output = made.frame_exec_strategy = None
    made.real_stack = StackSummary()
    raise made from error.__cause__


def hint_of(size: Any) -> int:
    """The size that a symbol stood for when it was traced."""
    return int(size.node.hint)


def graph_is_kept() -> bool:
    """Whether the running backward was called with retain_graph=True."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def is_wrapped(value: Tensor) -> bool:
    """Whether torch.func (vmap, grad) has wrapped a tensor: it is one of the trace already."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(value))
