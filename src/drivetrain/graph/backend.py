"""The second door: `torch.compile(model, backend="drivetrain", options={...})`.

Dynamo captures, aot_autograd splits into inference, or forward and backward graphs, the passes rewrite each, and a
lowering makes it run:

    capture -> joint passes -> partition -> forward/backward/inference passes -> then = auto | eager | inductor | ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from .lowering import LOWERINGS, find_lowering
from .passes import Kind, check_options, run_passes

OWN_OPTIONS = ("then",)


def drivetrain_backend(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The function behind `backend="drivetrain"`.

    Args:
        module: what Dynamo captured.
        example_inputs: its flat inputs.
        options: then="auto"|"eager"|"inductor"|"onnxruntime", and the options of the passes (`PASSES`).
        mode: torch.compile's mode; only None and "default" mean something here.

    Raises:
        InvalidValue: an option nobody knows (names the nearest), a lowering nobody knows.
    """
    from drivetrain.base.errors import InvalidValue

    if mode not in (None, "default"):
        raise InvalidValue(
            f"graph: torch.compile mode {mode!r} means nothing to backend='drivetrain'", hint="options={'then': ...}"
        )
    return compile_flat(module, example_inputs, options or {})


def compile_flat(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Mapping[str, Any],
    watch: Callable[[Kind, fx.GraphModule], None] | None = None,
) -> Callable[..., Any]:
    """Compile a graph with flat inputs, differentiable where an input requires gradients.

    Args:
        module: any graph of tensors; may write to its inputs and return views of them.
        example_inputs: tensors (or fake ones) as it will be called with.
        options: as of `drivetrain_backend`.
        watch: is told each graph after its passes.
    """
    from torch._dynamo.backends.common import aot_autograd

    check_options(options, OWN_OPTIONS)
    then = str(options.get("then", "auto"))
    lowering = find_lowering(then)

    def compiler(kind: Kind, graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        graph = run_passes(graph, inputs, kind, options, params=_params(len(inputs)), then=then)
        if watch is not None:
            watch(kind, graph)
        compiled = lowering(graph, inputs, kind)
        compiled._boxed_call = True  # type: ignore[attr-defined]
        return compiled

    return aot_autograd(
        fw_compiler=functools.partial(compiler, "forward"),
        bw_compiler=functools.partial(compiler, "backward"),
        inference_compiler=functools.partial(compiler, "inference"),
        partition_fn=functools.partial(_partition, options, then, watch),
        keep_inference_input_mutations=then in ("auto", "inductor"),
    )(module, list(example_inputs))


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
    import torch

    context = torch._guards.TracingContext.try_get()
    flat = context.params_flat if context is not None else None
    return tuple(range(min(len(flat), inputs))) if flat else ()


def register() -> None:
    """Make the name "drivetrain" known to torch.compile where the entry point is not installed."""
    from torch._dynamo.backends.registry import list_backends, register_backend

    if "drivetrain" not in list_backends():
        register_backend(compiler_fn=drivetrain_backend, name="drivetrain")


def lowerings() -> list[str]:
    """The names that `then` may have."""
    return list(LOWERINGS)
