"""From terms to a graph that takes its weights as arguments: for programs whose weights belong to somebody else.

`convert.to_fx` puts state into the module; a compiler's pass and a training step get it from outside at each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import fx

from .fused import aten
from .meta import Meta
from .term import INPUT, STATE, Graph, Node


def state_as_inputs(graph: Graph, placeholders: Sequence[str]) -> Graph:
    """The program with its state leaves as inputs, taken in the order of some names.

    Args:
        graph: the program; each of its leaves' names is among the placeholders.
        placeholders: names in the order in which the program will be called; names that nothing reads keep their place.
    """
    inputs = {str(leaf.args[0]): leaf for leaf in graph.inputs}
    states = {str(node.args[0]): node for node in graph.order if node.op == STATE}
    leaves = {node: graph.arena.leaf(INPUT, f"state.{name}", node.meta) for name, node in states.items()}
    unread = Meta((), torch.float32, ())
    order = [
        leaves[states[name]] if name in states else inputs.get(name) or graph.arena.leaf(INPUT, name, unread)
        for name in placeholders
    ]
    return Graph(graph.arena, tuple(order), graph.replace(leaves).outputs)


def with_layouts_of(graph: Graph, original: fx.Graph) -> Graph:
    """The program with outputs laid out in memory as the original's, also where they are parts of a larger result.

    Images are copied only where they lie otherwise when it runs: shape functions only guess their layout.
    """
    outputs = []
    for new, old in zip(graph.outputs, layouts(original), strict=True):
        form = memory_format_of(old) if isinstance(new, Node) and old is not None else None
        if form is not None and old is not None and (len(old.shape) > 3 or new.meta.stride != old.stride):
            new = graph.arena.call(aten.contiguous.default, new, memory_format=form)
        outputs.append(new)
    return Graph(graph.arena, graph.inputs, tuple(outputs))


def layouts(graph: fx.Graph) -> list[Meta | None]:
    """What a captured graph's outputs are, as the capture saw them; None for what is no tensor."""
    returned = next(node for node in graph.nodes if node.op == "output").args[0]
    values = [value.meta.get("val") if isinstance(value, fx.Node) else None for value in returned]
    return [Meta.of(value) if isinstance(value, torch.Tensor) else None for value in values]


def names_of_state(nodes: Iterable[Node]) -> set[str]:
    """Names of the state leaves among some nodes."""
    return {str(node.args[0]) for node in nodes if node.op == STATE}


def by_name(state: Mapping[str, torch.Tensor], graph: Graph) -> dict[str, torch.Tensor]:
    """The state that a program reads."""
    return {name: state[name] for name in sorted(names_of_state(graph.order))}


def memory_format_of(meta: Meta) -> torch.memory_format | None:
    """The format that a tensor lies in, contiguous before channels last; None for another one."""
    tensor = meta.empty()
    if tensor.is_contiguous():
        return torch.contiguous_format
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    form = formats.get(len(meta.shape))
    return form if form is not None and tensor.is_contiguous(memory_format=form) else None
