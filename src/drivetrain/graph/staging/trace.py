"""A trace: Python runs once on tensors without values, and what it asked of torch is the graph (spec §2.1).

No Python source is analysed: control flow on Python values unrolls, control flow on tensor values is an error with a
line. Shapes of the result: C captures, then L tensor leaves of the arguments, are the placeholders.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from .. import _torch_compat as compat
from ..errors import CaptureError, Line, StateCreationError, explain_failure
from ..ir import source_line
from . import calls, state
from .captures import PLAIN_TENSORS, CaptureMode, FunctionalTransform
from .effects import EffectWatch, SideEffect
from .reach import Surroundings

# Traces patch names of torch and Python while they run; one at a time keeps that sound. Other threads wait here only if
# they meet a new kind of call too.
LOCK = threading.RLock()


class _Here(threading.local):
    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.suspended = 0


HERE = _Here()


@dataclass
class Trace:
    """A trace in progress, and what came of it.

    Attributes:
        graph: placeholders are captures, then leaves; returns the flat tensor outputs.
        captured: pairs of real tensor and fake stand-in, in the order of the placeholders.
        outputs: flat results: an _Out for a tensor, anything else by value.
        out_spec: pytree of the result.
        fakes: fake leaves.
        effects: what Python did that no later call repeats.
    """

    tracer: compat.RecordingTracer
    mode: FakeTensorMode
    capture: CaptureMode
    graph: fx.GraphModule = field(default_factory=lambda: fx.GraphModule({}, fx.Graph()))
    outputs: list[Any] = field(default_factory=list)
    out_spec: Any = None
    fakes: list[Any] = field(default_factory=list)
    effects: list[SideEffect] = field(default_factory=list)
    lines: list[Line | None] = field(default_factory=list)
    seconds: float = 0.0
    runners: dict[str, Any] = field(default_factory=dict)

    @property
    def captured(self) -> list[tuple[Tensor, Tensor]]:
        return list(reversed(self.capture.found))  # each was put before the ones there

    def module_name(self, runner: Any) -> str:
        """Put a called graph under a name of its own into the graph being made."""
        for name, known in self.runners.items():
            if known is runner:
                return name
        stem = "".join(c if c.isalnum() else "_" for c in runner.__name__).strip("_")
        stem = f"call_{stem}"
        name = stem if stem not in self.runners else f"{stem}_{len(self.runners)}"
        self.runners[name] = runner
        runner.module._is_impure = True  # make_fx drops what it takes for pure; `finish_graph` knows better
        setattr(self.tracer.root, name, runner.module)
        self.tracer.graph.owning_module = self.tracer.root  # type: ignore[assignment]
        return name


@dataclass(frozen=True)
class Out:
    """A place of the result that a tensor of the graph fills."""

    index: int


def current() -> Trace | None:
    """The trace that this thread is in, unless `init_scope` has left it."""
    return HERE.traces[-1] if HERE.traces and not HERE.suspended else None


def trace(
    body: Callable[[Sequence[Any]], Any],
    leaves: Sequence[Tensor],
    *,
    what: str,
    names: Sequence[str] = (),
    dynamic: Sequence[Sequence[bool]] = (),
    same: Sequence[Sequence[tuple[int, int]]] = (),
    whole_range: bool = False,
    around: Surroundings | None = None,
    code: Any = None,
    readable: Sequence[Tensor] = (),
) -> Trace:
    """Trace a function of a flat list of tensors.

    Args:
        body: takes the fake leaves; returns a pytree.
        leaves: tensors as of a call; only their metas are read.
        what: the function's name, for errors.
        names: of the leaves.
        dynamic: for each leaf, which sizes are symbols.
        same: groups of (leaf, dim) that are one size.
        whole_range: the symbols stand for 0 and 1, too.
        around: what the function can reach, watched for side effects and leaked tensors.
        code: the Python function, whose source side effects are looked up in.
        readable: tensors whose values the body may read, since they are declared static.

    Raises:
        CaptureError, ControlFlowError, StateCreationError: with the user's line.
    """
    request = _Request(body, leaves, names, dynamic, same, whole_range, around, code, readable)
    try:
        return _trace(request, pre_dispatch=True)
    except FunctionalTransform:
        pass
    except Exception as error:
        raise explain_failure(error, what) from error
    try:  # vmap, grad, jvp of torch.func work below autograd only
        return _trace(request, pre_dispatch=False)
    except Exception as error:
        raise explain_failure(error, what) from error


@dataclass(frozen=True)
class _Request:
    """The arguments of `trace`."""

    body: Callable[[Sequence[Any]], Any]
    leaves: Sequence[Tensor]
    names: Sequence[str]
    dynamic: Sequence[Sequence[bool]]
    same: Sequence[Sequence[tuple[int, int]]]
    whole_range: bool
    around: Surroundings | None
    code: Any
    readable: Sequence[Tensor]


def _trace(request: _Request, pre_dispatch: bool) -> Trace:
    start = time.perf_counter()
    mode = FakeTensorMode(shape_env=compat.shape_environment(request.whole_range))
    tracer = compat.RecordingTracer()
    device = request.leaves[0].device if request.leaves else None
    made = Trace(tracer, mode, CaptureMode(tracer, mode, device))
    made.capture.above_autograd = pre_dispatch
    made.capture.readable = {id(tensor) for tensor in request.readable}
    with LOCK, ExitStack() as stack:
        stack.enter_context(compat.outside_modes())
        stack.enter_context(compat.size_oblivious(request.whole_range))
        _fake_leaves(made, request)

        def run(*fakes: Any) -> tuple[Any, ...]:
            for group in request.same:
                for leaf, dim in group[1:]:
                    torch._check(fakes[leaf].shape[dim] == fakes[group[0][0]].shape[group[0][1]])
            with made.capture:
                result = request.body(fakes)
            return _flat_outputs(made, result)

        watch = EffectWatch(request.around, request.code)
        HERE.traces.append(made)
        suspended, HERE.suspended = HERE.suspended, 0
        try:
            with watch, state.creation_forbidden(), calls.functions_kept():
                made.graph = compat.trace_flat(run, made.fakes, mode, tracer, pre_dispatch)
        finally:
            HERE.traces.pop()
            HERE.suspended = suspended
            leaked = watch.leaked()
    if leaked is not None:
        raise StateCreationError(
            f"graph: {leaked[0]} was bound to a tensor of the trace, which has no value and does not outlive it",
            hint="keep state in a parameter or buffer created on the first call (if self.n is None: ...), and write to "
            "it in place: self.n.copy_(value)",
            where=str(leaked[1]) if leaked[1] is not None else None,
        )
    _check_constants(made.graph)
    inputs = (node for node in made.graph.graph.nodes if node.op == "placeholder")
    for node, fake in zip(inputs, [fake for _, fake in made.captured] + made.fakes, strict=True):
        node.meta["val"] = fake  # the recorded one has forgotten whether it needs gradients
    made.effects = watch.effects
    made.lines = list(reversed(made.capture.lines))
    made.seconds = time.perf_counter() - start
    return made


def _check_constants(graph: fx.GraphModule) -> None:
    """A tensor of the trace that nobody saw being made must not become a constant."""
    for node in graph.graph.nodes:
        value = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if compat.is_fake(value):
            line = source_line(next(iter(node.users)))
            raise CaptureError(
                "graph: a tensor was made by something that a trace does not see",
                hint="a C++ extension or a hook? wrap it as torch.library.custom_op, or in drivetrain.py_call",
                where=str(line) if line is not None else None,
            )


def _fake_leaves(made: Trace, request: _Request) -> None:
    for index, leaf in enumerate(request.leaves):
        fake = compat.is_fake(leaf)
        if not fake and type(leaf) not in PLAIN_TENSORS:
            raise CaptureError(
                f"graph: an argument is a {type(leaf).__name__}; plain tensors and parameters are supported",
                hint="pass the plain tensors that it is made of",
            )
        alone = compat.stand_in(leaf) if fake else leaf.detach().requires_grad_(leaf.requires_grad)
        free = request.dynamic[index] if index < len(request.dynamic) else ()
        name = request.names[index] if index < len(request.names) else f"L{index}"
        made.fakes.append(compat.fake_input(made.mode, alone, name, free))


def _flat_outputs(made: Trace, result: Any) -> tuple[Any, ...]:
    """The tensors of a result; notes in the trace where they belong."""
    flat, made.out_spec = pytree.tree_flatten(result)
    tensors: list[Any] = []
    made.outputs = []
    for value in flat:
        if isinstance(value, Tensor):
            made.outputs.append(Out(len(tensors)))
            tensors.append(made.capture.replace(value))
        elif isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            made.outputs.append(Out(len(tensors)))
            tensors.append(value)
        elif value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
            made.outputs.append(value)
        else:
            raise CaptureError(
                f"graph: the function returns a {type(value).__name__}, which is no tensor and no plain value",
                hint="return tensors in tuples, lists and dicts; register your class with torch.utils._pytree",
            )
    return tuple(tensors)
