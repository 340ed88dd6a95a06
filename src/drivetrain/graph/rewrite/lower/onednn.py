"""Lowering to oneDNN: weights re-ordered once, residuals and activations applied on the way out of each product."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, fx

from ..convert import Emitter, to_fx
from ..fused import CONV
from ..term import STATE, Graph, Node

_ops = torch.ops.mkldnn
# activation -> (name, scalars, algorithm), as oneDNN's operators take them
_POST: dict[str, tuple[str, list[float], str]] = {
    "": ("none", [], ""),
    "relu": ("relu", [], ""),
    "sigmoid": ("sigmoid", [], ""),
    "tanh": ("tanh", [], ""),
    "silu": ("swish", [], ""),
    "hardswish": ("hardswish", [], ""),
}


def available() -> bool:
    """Whether this PyTorch has oneDNN."""
    return bool(torch.backends.mkldnn.is_available())


def lower(graph: Graph, state: Mapping[str, Tensor]) -> fx.GraphModule:
    """A module whose convolutions run in oneDNN's own layouts. 4-D inputs are expected channels last."""

    def call(emitter: Emitter, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        if not _suits(node):
            return emitter.graph.call_function(node.op, args, kwargs)
        x, w, b, residual, stride, padding, dilation, groups, activation = args
        if node.args[1].op == STATE:
            w = emitter.tensor(_name(node), lambda: _packed(node, state[node.args[1].args[0]]))
        post = _POST.get(activation) or ("hardtanh", [float(bound) for bound in activation.split(":")[1:]], "")
        where = (padding, stride, dilation, groups)
        if residual is None:
            return emitter.graph.call_function(_ops._convolution_pointwise.default, (x, w, b, *where, *post))
        added = (x, residual, w, b, *where, "add", 1.0, *post)
        return emitter.graph.call_function(_ops._convolution_pointwise.binary, added)

    return to_fx(graph, state, call)


def _suits(node: Node) -> bool:
    """What oneDNN's fused operators hold: float32 images on a CPU."""
    return node.op is CONV and node.meta.dtype == torch.float32 and node.meta.device == "cpu" and len(node.shape) == 4


def _name(node: Node) -> str:
    """One packed weight for each weight, input shape and geometry."""
    text = f"{node.args[1].args[0]} {node.args[0].shape} {node.args[4:8]}"
    return f"packed_{blake2b(text.encode(), digest_size=8).hexdigest()}"


def _packed(node: Node, weight: Tensor) -> Tensor:
    stride, padding, dilation, groups = node.args[4:8]
    shape = list(node.args[0].shape)
    with torch.no_grad():
        return _ops._reorder_convolution_weight(weight.detach(), padding, stride, dilation, groups, shape)
