"""Small programs as terms, and what they compute."""

import torch
from torch import nn

from drivetrain.graph.rewrite.convert import from_fx, to_fx
from drivetrain.graph.rewrite.rule import simplify
from drivetrain.graph.rewrite.rules import RULES

BY_NAME = {rule.name: rule for rule in RULES}
FUSE = [BY_NAME["fuse-activation"], BY_NAME["fuse-residual"]]


def terms(module: nn.Module, *inputs, fused=True):
    """(graph, state) of a module in evaluation mode; with fused, residuals and activations are in the products."""
    module.eval()
    with torch.no_grad():
        exported = torch.export.export(module, inputs).run_decompositions()
    signature = exported.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    graph = from_fx(exported.graph, names)
    return (simplify(graph, FUSE)[0] if fused else graph), {**exported.state_dict, **exported.constants}


def outputs(graph, state, *inputs):
    with torch.no_grad():
        return to_fx(graph, state)(*inputs)


def fires(rule, graph):
    """All graphs that one rule makes of a graph."""
    return [graph.replace(change.new) for change in BY_NAME[rule].changes(graph)]


def error(first, second):
    """Largest difference relative to the largest value."""
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)) for a, b in zip(first, second, strict=True))


class Program(nn.Module):
    """A function of inputs and named layers as a module."""

    def __init__(self, run, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, *inputs):
        return self.run(self, *inputs)


def x(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def conv(i, o, k, **options):
    return nn.Conv2d(i, o, k, **options).double()


def norm(channels):
    layer = nn.BatchNorm2d(channels).double()
    for value in (layer.running_mean, layer.weight.data, layer.bias.data):
        value.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer
