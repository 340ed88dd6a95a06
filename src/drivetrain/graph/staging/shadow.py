"""Shadow mode: every n-th call also runs the Python body on copies, and the two must agree.

It finds what no key sees: a Python number, a list, a file that the trace has baked into the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import StaleTraceError
from .calls import control_flow_by_value
from .key import rebuild

if TYPE_CHECKING:
    from .concrete import Concrete
    from .function import Function


def shadowed(function: Function, concrete: Concrete, values: tuple[Any, ...], leaves: Sequence[Tensor]) -> Any:
    """Run a graph; on every n-th call hold it against the Python body.

    Raises:
        StaleTraceError: names the first output that differs and by how much; the state is that after the graph's call.
    """
    concrete.calls += 1
    if concrete.calls % function.settings["shadow"]:
        return concrete.run(*leaves)
    written = [capture.tensor for capture in concrete.captures if capture.kind == "buffer"]
    inputs = [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in leaves]
    before, random = [tensor.detach().clone() for tensor in written], torch.get_rng_state()
    result = concrete.run(*leaves)
    after, later = [tensor.detach().clone() for tensor in written], torch.get_rng_state()
    remaining = iter(inputs)
    try:
        _put(written, before)
        torch.set_rng_state(random)
        with control_flow_by_value():
            expected = function.call_python(tuple(rebuild(value, lambda _: next(remaining)) for value in values))
        states = [tensor.detach().clone() for tensor in written]
    finally:
        _put(written, after)
        torch.set_rng_state(later)
    pairs = [(f"output {path}", ours, theirs) for path, ours, theirs in _outputs(result, expected)]
    pairs += [(f"argument {n}", a, b) for n, a, b in zip(concrete.argument_names, leaves, inputs, strict=True)]
    names = [capture.name for capture in concrete.captures if capture.kind == "buffer"]
    pairs += [(f"state {n}", a, b) for n, a, b in zip(names, after, states, strict=True)]
    for what, ours, theirs in pairs:
        _compare(function, concrete, what, ours, theirs)
    return result


def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _outputs(result: Any, expected: Any) -> list[tuple[str, Any, Any]]:
    ours, theirs = pytree.tree_flatten_with_path(result)[0], pytree.tree_flatten_with_path(expected)[0]
    paths = [pytree.keystr(path) or "0" for path, _ in ours]
    if len(ours) != len(theirs):
        return [("structure", f"{len(ours)} values", f"{len(theirs)} values")]
    return [(path, a, b) for path, (_, a), (_, b) in zip(paths, ours, theirs, strict=True)]


def _compare(function: Function, concrete: Concrete, what: str, ours: Any, theirs: Any) -> None:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        if ours.shape == theirs.shape and torch.allclose(
            ours, theirs.to(ours.dtype), rtol=1e-4, atol=1e-5, equal_nan=True
        ):
            return
        by = (
            f"by up to {float((ours - theirs).abs().max()):.4g}"
            if ours.shape == theirs.shape
            else f"{ours.shape} {theirs.shape}"
        )
    elif ours == theirs:
        return
    else:
        by = f"{ours!r} where Python returns {theirs!r}"
    number = function.traces.index(concrete) + 1
    raise StaleTraceError(
        f"graph: {function.name}: the graph of trace {number} and the Python body differ in {what} ({by})",
        hint="the trace holds a Python value that has changed since (a global, an attribute, a list): make it an "
        f"argument, or a tensor; {function.name}.clear() traces anew",
    )
