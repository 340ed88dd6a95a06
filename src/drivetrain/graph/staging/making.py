"""Making a Concrete: surroundings, trace, guards, captures, judgement of side effects, compilation, in this order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import SideEffectError
from .binding import Baked
from .captures import Capture
from .concrete import Concrete, finish_graph, written_inputs
from .explain import show
from .guards import guards_for
from .key import is_tensor_leaf, rebuild
from .reach import surroundings
from .signature import Plan
from .sizes import Sizes
from .trace import HERE, trace

if TYPE_CHECKING:
    from .function import Function


def make_concrete(
    function: Function, values: tuple[Any, ...], key: tuple[Any, ...], leaves: Sequence[Tensor]
) -> Concrete:
    """Trace a function for a kind of call, and compile what came of it.

    Args:
        function: whose Python body is run.
        values: canonical arguments. key, leaves: their key and tensors.

    Raises:
        CaptureError, ControlFlowError, StateCreationError, SideEffectError: with the user's line.
    """
    around = surroundings(function.python, function.roots(values))
    plan = _plan(function, key, leaves)
    backend = function.settings["backend"]

    def body(fakes: Sequence[Any]) -> Any:
        remaining = iter(fakes)
        return function.call_python(tuple(rebuild(value, lambda _: next(remaining)) for value in values))

    names = [name for name, value in function.named(values) if is_tensor_leaf(value)]
    made = trace(
        body, plan.examples, what=function.name, names=names, dynamic=plan.dynamic, same=plan.same,
        whole_range=plan.whole_range, around=around, code=_code(function.python),
        readable=[value.value for value in values if isinstance(value, Baked) and isinstance(value.value, Tensor)],
    )  # fmt: skip
    graph = finish_graph(made, bool(key[0]))
    captured = [real for real, _ in made.captured]
    guards, capture_names = guards_for(captured, around, fixed_grad=backend != "eager")
    written = set(written_inputs(graph))
    captures = [
        Capture(name, tensor, _kind(tensor, index in written))
        for index, (name, tensor) in enumerate(zip(capture_names, captured, strict=True))
    ]
    concrete = Concrete(
        function.name, graph, captures, made.outputs, made.out_spec, argument_names=names, backend=backend,
        options=function.settings["options"], grad=function.settings["grad"],
    )  # fmt: skip
    concrete.key, concrete.guards, concrete.side_effects = key, guards, made.effects
    concrete.shown_arguments = [(name, show(value)) for name, value in function.named(values)]
    concrete.seconds = made.seconds
    concrete.in_spec = pytree.tree_structure(dict(function.binding.named(values)))
    _judge_effects(function, concrete)
    if HERE.traces:
        concrete.compile_later()
    else:
        concrete.compile()
    if any(map(any, plan.dynamic)):
        concrete.sizes = Sizes(made.fakes, made.mode.shape_env, plan.whole_range)
        if function.signature is not None:
            function.signature.check_sizes(concrete, leaves)
    return concrete


def _plan(function: Function, key: tuple[Any, ...], leaves: Sequence[Tensor]) -> Plan:
    if function.signature is not None:
        return function.signature.plan(leaves)
    mode = function.settings["dynamic"]
    free: list[list[bool]] = [[False] * leaf.dim() for leaf in leaves]
    if mode is True:
        free = [[size > 1 for size in leaf.shape] for leaf in leaves]
    elif mode == "auto":
        for other in function.peers(key):
            shapes = [part for part in other.key if isinstance(part, torch.Size)]
            for index, (leaf, shape) in enumerate(zip(leaves, shapes, strict=False)):
                for dim, size in enumerate(leaf.shape):
                    free[index][dim] |= size != shape[dim]
    return Plan(list(leaves), free)


def _judge_effects(function: Function, concrete: Concrete) -> None:
    policy = function.settings["effects"]
    if not concrete.side_effects or policy == "ignore":
        return
    lines = "\n".join(str(effect) for effect in concrete.side_effects)
    if policy == "error":
        raise SideEffectError(f"graph: {function.name} has effects that no later call repeats", hint=lines)
    print(f"drivetrain: graph: {function.name}: {lines}", file=sys.stderr)


def _kind(tensor: Tensor, written: bool) -> Any:
    if isinstance(tensor, nn.Parameter):
        return "parameter"
    return "buffer" if written or isinstance(tensor, nn.Buffer) else "tensor"


def _code(python: Any) -> Any:
    return type(python).forward if isinstance(python, nn.Module) else python
