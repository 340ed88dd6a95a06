"""One graph with flat inputs through aot_autograd, the passes and a lowering.

inference:  passes -> lowering
training:   joint passes -> partition -> forward, backward: passes -> lowering each
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .lowering import Boxed, find_lowering, lower_eager
from .passes import Kind, check_options, run_passes
from .warning import told, warn

OWN_OPTIONS = ("then", "freeze")


@dataclass
class Seen:
    """What `compile_flat` learned of a graph.

    Attributes:
        rewritten: whether a pass returned another graph.
        written: positions of inputs that it writes to; None where torch doesn't tell.
    """

    rewritten: bool = False
    written: tuple[int, ...] | None = None


def compile_flat(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Mapping[str, Any],
    watch: Callable[[Kind, fx.GraphModule], None] | None = None,
    seen: Seen | None = None,
) -> Callable[..., Any]:
    """Compile a graph with flat inputs, differentiable where an input requires gradients.

    Args:
        module: any graph of tensors; may write to its inputs and return views of them.
        example_inputs: tensors (or fake ones) as it will be called with.
        options: as of `backend.drivetrain_backend`; what is not given here is off.
        watch: is told each graph after its passes.
        seen: is filled in.
    """
    from torch._dynamo.backends.common import aot_autograd

    from ._torch_compat import written_inputs

    check_options(options, OWN_OPTIONS)
    if options.get("freeze"):
        warn("weights not frozen: freeze is an option of torch.compile(backend='drivetrain'); here captures may change")
    then = str(options.get("then", "auto"))
    lowering = find_lowering(then)

    def compiler(kind: Kind, graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        made = run_passes(graph, inputs, kind, options, params=_params(len(inputs)), then=then)
        if seen is not None and kind != "backward":
            seen.rewritten, seen.written = made is not graph, written_inputs()
        if watch is not None:
            watch(kind, made)
        compiled = _lowered(then, lowering, made, inputs, kind)
        compiled._boxed_call = True  # type: ignore[attr-defined]
        return compiled

    return aot_autograd(
        fw_compiler=functools.partial(compiler, "forward"),
        bw_compiler=functools.partial(compiler, "backward"),
        inference_compiler=functools.partial(compiler, "inference"),
        partition_fn=functools.partial(_partition, options, then, watch),
        keep_inference_input_mutations=then in ("auto", "inductor"),
    )(module, list(example_inputs))


def _lowered(then: str, lowering: Any, graph: fx.GraphModule, inputs: Sequence[Any], kind: Kind) -> Boxed:
    """The lowering that was asked for; torch's own kernels where nobody asked for one and Inductor fails."""
    try:
        made: Boxed = lowering(graph, inputs, kind)
        return made
    except Exception as error:
        if then != "auto":
            raise
        warn(f"a {kind} graph runs on torch's own kernels: Inductor fails with {told(error)}")
        return lower_eager(graph, inputs, kind)


def _partition(
    options: Mapping[str, Any],
    then: str,
    watch: Callable[[Kind, fx.GraphModule], None] | None,
    joint: fx.GraphModule,
    joint_inputs: Sequence[Any],
    **rest: Any,
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split a joint graph so that little is kept for the backward, after the joint passes."""
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    joint = run_passes(joint, joint_inputs, "joint", options, then=then)
    if watch is not None:
        watch("joint", joint)
    split: tuple[fx.GraphModule, fx.GraphModule] = min_cut_rematerialization_partition(joint, joint_inputs, **rest)
    if watch is not None:  # the backward is compiled when it is first run; it can be looked at before
        watch("forward", split[0])
        watch("backward", split[1])
    return split


def _params(inputs: int) -> tuple[int, ...]:
    """Positions of parameters and buffers among the inputs, as far as the tracing context tells."""
    context = torch._guards.TracingContext.try_get()
    flat = context.params_flat if context is not None else None
    return tuple(range(min(len(flat), inputs))) if flat else ()
