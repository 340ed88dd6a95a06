"""The training graph that Dynamo captured, rewritten before autograd sees it (spec 12: training graphs too)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from .convert import NotRewritable
from .held import Held
from .training import rewrite_training


def rewritten_step(
    graph: fx.GraphModule, values: Sequence[Any], *, gain: float = 0.0, **settings: Any
) -> fx.GraphModule | None:
    """A training graph that Dynamo captured, rewritten: flat tensors in and out, above autograd, as it came.

    Args:
        graph: its placeholders are weights and inputs.
        values: as it is called now.
        gain: share of the predicted time that must be saved.
        settings: of `rewrite_training`.

    Returns:
        None where nothing is gained.

    Raises:
        NotRewritable: as `rewrite_training`; or sizes may vary, or an input is returned or written under another name.
    """
    held = Held(graph, values)
    made = rewrite_training(held, held.inputs, rounds=0, **settings)
    if not made.steps or made.saved < gain:
        return None
    program = made._program
    position = {name: i for i, name in held.names.items()}
    position |= {f"input:{number}": i for number, i in enumerate(held.others)}
    if any(name not in position for name in (*program.writes, *program.state)):
        raise NotRewritable("graph: the captured graph holds tensors of its own")
    new = fx.Graph()
    places = [new.placeholder(node.name) for node in graph.graph.find_nodes(op="placeholder")]
    given = [places[position[name]] for name in program.state] + [places[i] for i in held.others]
    env = dict(zip(made.rewritten.graph.find_nodes(op="placeholder"), given, strict=True))
    results = new.graph_copy(made.rewritten.graph, env)
    assert isinstance(results, tuple | list)  # what graph_copy returns are the copied graph's outputs
    for name, value in zip(program.writes, results, strict=False):
        new.call_function(torch.ops.aten.copy_.default, (places[position[name]], value))
    new.output(tuple(results[len(program.writes) :]))
    return fx.GraphModule(made.rewritten, new)
