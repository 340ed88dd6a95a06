"""Programs that are trained: in operators that have derivatives, and with the gradients that the original gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..capture import Program
from ..ir import copy_graph, source_line
from .convert import NotRewritable, to_fx
from .emit import state_as_inputs
from .term import Graph, name_of


def runnable(graph: Graph, order: Sequence[str]) -> fx.GraphModule:
    """A program with state as arguments, in operators that autograd knows."""

    def call(emitter: Any, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        made: fx.Node = emitter.graph.call_function(_DIFFERENTIABLE.get(name_of(node.op), node.op), args, kwargs)
        return made

    return to_fx(state_as_inputs(graph, order), {}, call)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Batch norm that returns new running statistics, by the operator that has a derivative."""
    mean, variance = mean.clone(), variance.clone()
    return (*torch.native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps), mean, variance)


# what torch.export functionalises to and autograd has no derivative for
_DIFFERENTIABLE = {"aten._native_batch_norm_legit_functional.default": batch_norm}


def refuse_cut_gradients(program: Program) -> None:
    """Raise NotRewritable where the user's code stops gradients; lowering to core operators loses that."""
    for module in program.module.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            name = str(node.target)
            if node.op == "call_function" and ("detach" in name or "set_grad_enabled" in name):
                line = source_line(node)
                raise NotRewritable(
                    f"graph: {name} stops gradients, and a rewritten program would not",
                    hint="rewrite the part of the model without it", where=None if line is None else str(line),
                )  # fmt: skip


def differentiable(module: fx.GraphModule) -> fx.GraphModule:
    """A captured graph in operators that autograd knows, in the captured order."""
    graph = copy_graph(module.graph)
    for node in graph.nodes:
        node.target = _DIFFERENTIABLE.get(str(node.target), node.target)
    return fx.GraphModule(module, graph)


def compare_gradients(
    rewritten: Callable[..., Sequence[Any]], original: Callable[..., Sequence[Any]],
    state: Mapping[str, Tensor], inputs: Sequence[Any],
) -> None:  # fmt: skip
    """One step of two forms on copies of the state, with the same random numbers.

    Args:
        rewritten, original: take the state's values and the inputs, return flat outputs.
        state: by name; the gradients of what requires one are compared.
        inputs: flat; as the state.

    Raises:
        NotRewritable: an output or a gradient differs by more than rounding.
    """
    found: list[dict[Any, Tensor | None]] = []
    given = {**state, **{f"input {number}": value for number, value in enumerate(inputs)}}
    wanted = [name for name, value in given.items() if isinstance(value, Tensor) and value.requires_grad]
    for form in (rewritten, original):
        copies = {
            name: value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            outputs = [value for value in form(*copies.values()) if isinstance(value, Tensor)]
        lossy = [value.double().square().sum() for value in outputs if value.requires_grad]
        grads = (
            torch.autograd.grad(torch.stack(lossy).sum(), [copies[name] for name in wanted], allow_unused=True)
            if lossy
            else ()
        )
        found.append({**dict(enumerate(outputs)), **dict(zip(wanted, grads, strict=False))})
    largest = max(
        (float(value.detach().abs().max()) for value in found[1].values() if value is not None and value.numel()),
        default=0.0,
    )
    for name in {**found[1], **found[0]}:
        one, other = found[0].get(name), found[1].get(name)
        same = one is other is None or (one is not None and other is not None and _close(one, other, largest))
        if not same:
            what = f"output {name}" if isinstance(name, int) else f"the gradient of {name}"
            raise NotRewritable(f"graph: rewritten for training, {what} is not what the original gives")


def _close(one: Tensor, other: Tensor, largest: float) -> bool:
    """Equal up to rounding of its own values, or of the sums of larger ones that cancelled (a bias before a norm)."""
    if one.shape != other.shape or not one.is_floating_point():
        return one.shape == other.shape and torch.equal(one, other)
    own, all_ = (1e-9, 1e-13) if one.dtype == torch.float64 else (1e-3, 1e-6)
    return not one.numel() or bool((one - other).abs().max() <= own * other.abs().max() + all_ * largest)
