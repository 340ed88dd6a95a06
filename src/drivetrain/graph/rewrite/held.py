"""What Dynamo captured, a flat graph that takes its weights as arguments, as a module that holds them.

So the tools for modules (`optimize`, `rewrite_training`) serve `torch.compile(backend="drivetrain")`, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from .._torch_compat import is_weight
from ..race import stand_in_for
from .convert import NotRewritable, register


class Held(nn.Module):
    """A captured graph with the weights in it: called with the other inputs alone.

    Args:
        graph: placeholders in the order of `values`.
        values: as it is called now, weights and others; fake ones are replaced by made-up values.
        copied: hold copies of the weights as they are now, instead of the weights themselves.

    Attributes:
        names: of the weights, by position.
        others: positions of the other inputs.
        inputs: what stands there now.

    Raises:
        NotRewritable: sizes that may vary.
    """

    def __init__(self, graph: fx.GraphModule, values: Sequence[Any], copied: bool = False) -> None:
        super().__init__()
        nodes = graph.graph.find_nodes(op="placeholder")
        if any(isinstance(n, torch.SymInt) for value in values for n in (value, *getattr(value, "shape", ()))):
            raise NotRewritable(
                "graph: sizes that may vary (a rewrite is measured for fixed ones)",
                hint="torch.compile(model, backend='drivetrain', dynamic=False) compiles for each size",
            )
        self.graph = graph
        self.names = {
            i: f"state.{n.name}" for i, (n, v) in enumerate(zip(nodes, values, strict=True)) if is_weight(n, v)
        }
        self.others = [position for position in range(len(nodes)) if position not in self.names]
        values = [stand_in_for(value) for value in values]
        self.inputs: tuple[Any, ...] = tuple(values[position] for position in self.others)
        for position, name in self.names.items():
            register(self, name, values[position].detach().clone() if copied else values[position])
        self.count = len(nodes)

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """As the graph."""
        given, held = iter(inputs), (self.state if self.names else None)
        values = [
            getattr(held, self.names[i].removeprefix("state.")) if i in self.names else next(given)
            for i in range(self.count)
        ]
        return tuple(self.graph(*values))
