"""From rewritten programs to what runs them, and back from fx graphs (`graph.lowering` is the registry)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from drivetrain.base.errors import InvalidValue

from ...lower_onnxruntime import Session, export
from ...lowering import Boxed, Runner, lower_eager
from ...passes import Kind
from ..convert import from_fx, to_fx
from ..emit import names_of_state
from ..meta import Meta
from ..rule import simplify
from ..rules import RULES
from ..term import Graph
from . import onednn


def to_session(graph: Graph, state: Mapping[str, Tensor], inputs: Sequence[Meta] = ()) -> Session:
    """A rewritten program in an onnxruntime session; `inputs` tell how arguments lie, if not as in the graph."""
    metas = inputs or [leaf.meta for leaf in graph.inputs]
    return Session(export(to_fx(graph, state), [meta.empty("cpu").zero_() for meta in metas]))


def to_inductor(graph: Graph, state: Mapping[str, Tensor]) -> Runner:
    """A rewritten program compiled by Inductor, its weights constants."""
    compiled: Runner = torch.compile(to_fx(graph, state), options={"freezing": True})
    return compiled


def lower_onednn(module: fx.GraphModule, example_inputs: Sequence[Any], kind: Kind) -> Boxed:
    """Run an inference graph by oneDNN's fused operators; weights that are the module's own are packed.

    Raises:
        InvalidValue: a forward or backward graph, whose weights change.
        NotRewritable: an operator mutates, or a shape is not a number.
    """
    if kind != "inference":
        raise InvalidValue(
            f"graph: the lowering 'onednn' runs inference, this is a {kind} graph",
            hint="call under torch.no_grad(), or use then='inductor' for training",
        )
    graph = from_fx(module.graph, {})
    graph, _ = simplify(graph, [rule for rule in RULES if rule.always and not rule.inference_only])
    state: dict[str, Any] = {
        name: functools.reduce(getattr, name.split("."), module) for name in names_of_state(graph.order)
    }
    return lower_eager(onednn.lower(graph, state), example_inputs, kind)
