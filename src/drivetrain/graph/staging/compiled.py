"""A graph lowered by a compiler, with gradients of every order (spec §2.5).

aot_autograd gives a forward and a backward graph for first-order gradients. It has none for second order, so a call
that needs gradients is one node of ours: its backward runs the compiled backward, and when the caller wants to
differentiate that (create_graph=True), it runs the traced graph under autograd, which differentiates as often as asked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from .. import _torch_compat as compat
from ..ir import copy_graph
from .calls import GraphCall, Runner
from .execute import flat_executor, is_switch
from .trace import Out

if TYPE_CHECKING:
    from .concrete import Concrete

INLINE_BELOW = 200  # nodes


def compiled_run(concrete: Concrete, graphs: dict[str, fx.GraphModule]) -> Callable[..., Any]:
    """The run function of a Concrete with a compiling backend."""
    flat = _compile(concrete, graphs, _options(concrete))
    build = _builder(concrete)
    captured = tuple(capture.tensor for capture in concrete.captures)
    from .concrete import owners

    owner, written = owners(concrete.graph)
    output = next(node for node in concrete.graph.graph.nodes if node.op == "output")
    shares = any(isinstance(value, fx.Node) and value in owner for value in output.args[0])
    state = _Compiled(flat, flat_executor(concrete.graph), written, _is_random(concrete.graph))
    # oneDNN's LSTM gives no workspace to a forward that runs outside autograd: there is nothing to split.
    whole = any(node.target is torch.ops.aten.lstm.input for node in concrete.graph.graph.nodes)
    learns = any(tensor.requires_grad for tensor in captured)
    wraps = concrete.grad == "auto" and not shares
    enabled, eager = torch.is_grad_enabled, concrete.eager
    needs_grad = operator.attrgetter("requires_grad")

    def run(*leaves: Tensor) -> Any:
        if enabled() and (learns or any(map(needs_grad, leaves))):
            inputs = captured + leaves
            if whole or (written and any(inputs[index].requires_grad for index in written)):
                return eager(*leaves)
            if wraps:
                return build(_Staged.apply(state, *inputs))
        if written and _share_memory(captured + leaves):
            return eager(*leaves)  # the compiled code was made for inputs that lie apart
        return build(flat(*captured, *leaves))

    return run


def _options(concrete: Concrete) -> dict[str, Any]:
    return {"then": "inductor"} if concrete.backend == "inductor" else dict(concrete.options)


def _compile(concrete: Concrete, graphs: dict[str, fx.GraphModule], options: dict[str, Any]) -> Callable[..., Any]:
    from ..backend import compile_flat

    module = inline_calls(concrete.graph)
    if any(n.op == "call_module" or getattr(n.target, "opaque", False) for n in module.graph.nodes):
        return _in_pieces(module, options)
    fakes = [compat.plain_fake(node.meta["val"]) for node in module.graph.nodes if node.op == "placeholder"]
    with torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad(), compat.outside_modes():
        return compile_flat(module, fakes, options, watch=graphs.__setitem__)


def _in_pieces(module: fx.GraphModule, options: dict[str, Any]) -> Callable[..., Any]:
    """Compile what lies between calls of Python; the pieces run in program order."""
    from torch.fx.passes.split_module import split_module

    number: dict[fx.Node, int] = {}
    current = 0
    for node in module.graph.nodes:
        if node.op not in ("placeholder", "output"):
            alone = isinstance(node.target, Runner) or node.op == "call_module" or is_switch(node)
            current += alone
            number[node] = current
            current += alone
    pieces = split_module(module, None, number.__getitem__, keep_original_order=True)  # type: ignore[arg-type]
    for name, piece in list(pieces.named_children()):
        nodes = [node for node in piece.graph.nodes if node.op.startswith("call_")]  # type: ignore[union-attr]
        if not any(isinstance(node.target, Runner) or node.op == "call_module" or is_switch(node) for node in nodes):
            setattr(pieces, name, _Piece(piece, options))  # type: ignore[arg-type]
    return lambda *inputs: pieces(*inputs)


class _Piece(torch.nn.Module):
    """A part of a graph, compiled when it is first run."""

    def __init__(self, module: fx.GraphModule, options: dict[str, Any]) -> None:
        super().__init__()
        self._module, self._options = [module], options
        self._made: dict[Any, Callable[..., Any]] = {}

    def forward(self, *inputs: Any) -> Any:
        from ..backend import compile_flat

        key = (torch.is_grad_enabled(), *((v.shape, v.requires_grad) if isinstance(v, Tensor) else v for v in inputs))
        if key not in self._made:
            module = self._module[0]
            output = next(node for node in module.graph.nodes if node.op == "output")
            single = isinstance(output.args[0], fx.Node)
            if single:
                output.args = ((output.args[0],),)
                module.recompile()
            self._single = getattr(self, "_single", False) or single
            self._made[key] = compile_flat(module, list(inputs), self._options)
        results = self._made[key](*inputs)
        return results[0] if self._single else results


def inline_calls(module: fx.GraphModule) -> fx.GraphModule:
    """Put small called graphs in the place of their calls: a compiler sees across them."""
    if not any(node.op == "call_module" for node in module.graph.nodes):
        return module
    graph = copy_graph(module.graph)
    made = fx.GraphModule(module, graph)
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        runner: Any = module.get_submodule(str(node.target))
        inner = inline_calls(runner.module if isinstance(runner, GraphCall) else runner)
        if len(inner.graph.nodes) >= INLINE_BELOW or any(is_switch(n) or n.op == "get_attr" for n in inner.graph.nodes):
            continue
        places = dict(zip((n for n in inner.graph.nodes if n.op == "placeholder"), node.args, strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(inner.graph, places)
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
        graph.erase_node(node)
    made.recompile()
    return made


class _Compiled:
    """What one call node needs at run time."""

    def __init__(
        self, flat: Callable[..., Any], traced: Callable[..., Any], written: Sequence[int] | set[int], random: bool
    ) -> None:
        self.flat, self.traced, self.written, self.random = flat, traced, set(written), random


class _Staged(torch.autograd.Function):
    """A compiled call in the caller's autograd graph: one node."""

    @staticmethod
    def forward(ctx: Any, compiled: _Compiled, *inputs: Tensor) -> Any:
        ctx.compiled = compiled
        ctx.random = torch.get_rng_state() if compiled.random else None
        ctx.save_for_backward(*(v.detach().clone() if i in compiled.written else v for i, v in enumerate(inputs)))
        with torch.enable_grad():
            ctx.inner = [value.detach().requires_grad_(value.requires_grad) for value in inputs]
            ctx.results = compiled.flat(*ctx.inner)
        ctx.set_materialize_grads(False)
        outs = tuple(value.detach() if isinstance(value, Tensor) else value for value in ctx.results)
        ctx.mark_non_differentiable(
            *(
                out
                for out, value in zip(outs, ctx.results, strict=True)
                if isinstance(value, Tensor) and not value.requires_grad
            )
        )
        return outs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        again = torch.is_grad_enabled()
        if again:
            inputs: Sequence[Tensor] = ctx.saved_tensors
            results = _traced_again(ctx, inputs)
        else:
            inputs, results = ctx.inner, ctx.results
        pairs = [
            (value, gradient)
            for value, gradient in zip(results, gradients, strict=True)
            if gradient is not None and isinstance(value, Tensor) and value.requires_grad
        ]
        needed = ctx.needs_input_grad[1:]
        wanted = [value for value, needs in zip(inputs, needed, strict=True) if needs]
        keep = again or compat.graph_is_kept()
        found = iter(
            torch.autograd.grad(
                [v for v, _ in pairs], wanted, [g for _, g in pairs],
                create_graph=again, retain_graph=keep, allow_unused=True,
            ) if pairs else [None] * len(wanted)
        )  # fmt: skip
        return (None, *(next(found) if needs else None for needs in needed))


def _traced_again(ctx: Any, inputs: Sequence[Tensor]) -> Any:
    """Run the traced graph under autograd on the call's own inputs, with the call's own random numbers."""
    compiled: _Compiled = ctx.compiled
    # What the graph writes to was written by the call itself; a second write must not be seen.
    values = [value.detach().clone() if index in compiled.written else value for index, value in enumerate(inputs)]
    later = torch.get_rng_state() if ctx.random is not None else None
    try:
        if ctx.random is not None:
            torch.set_rng_state(ctx.random)
        with torch.enable_grad():
            return compiled.traced(*values)
    finally:
        if later is not None:
            torch.set_rng_state(later)


def _builder(concrete: Concrete) -> Callable[[Sequence[Any]], Any]:
    """From the flat results to the function's own structure."""
    spec, outputs = concrete.out_spec, concrete.outputs
    if spec.is_leaf() and isinstance(outputs[0], Out):
        return lambda flat: flat[0]
    plain = all(isinstance(value, Out) and value.index == index for index, value in enumerate(outputs))
    if spec.type is tuple and plain and all(child.is_leaf() for child in spec.children()):
        return tuple

    def build(flat: Sequence[Any]) -> Any:
        values = [flat[value.index] if isinstance(value, Out) else value for value in outputs]
        return torch.utils._pytree.tree_unflatten(values, spec)

    return build


def _is_random(module: fx.GraphModule) -> bool:
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            if torch.Tag.nondeterministic_seeded in node.target.tags or "dropout" in str(node.target):
                return True
        elif isinstance(node.target, Runner):
            return True
    return False


def _share_memory(inputs: Sequence[Tensor]) -> bool:
    seen = set()
    for value in inputs:
        place = value.untyped_storage().data_ptr()
        if place in seen and place:
            return True
        seen.add(place)
    return False


def split_graphs(concrete: Concrete) -> dict[str, fx.GraphModule]:
    """Forward and backward graphs of a Concrete, made for looking at them.

    Raises:
        CaptureError: nothing in it needs gradients.
    """
    from ..errors import CaptureError

    graphs: dict[str, fx.GraphModule] = {}
    with torch.enable_grad():
        fakes = [n.meta["val"] for n in concrete.graph.graph.nodes if n.op == "placeholder"]
        if any(fake.requires_grad for fake in fakes):
            run = _compile(concrete, graphs, {"then": "eager"})
            del run
    if "backward" not in graphs:
        raise CaptureError(
            f"graph: {concrete.name} has no backward graph: no input or capture of this trace requires gradients"
        )
    return graphs
