"""Strides that are worked out without values are those that real tensors get, whatever the image's memory format."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drivetrain.graph.rewrite.convert import to_fx
from drivetrain.graph.rewrite.fused import CONV, aten
from drivetrain.graph.rewrite.meta import Meta
from drivetrain.graph.rewrite.rules.fuse import BATCH_NORM
from drivetrain.graph.rewrite.rules.shape import MAX_POOL
from drivetrain.graph.rewrite.samples import Draw
from drivetrain.graph.rewrite.term import INPUT, STATE

from .programs import terms

FORMATS = [torch.contiguous_format, torch.channels_last]


def grow(draw: Draw, steps: int) -> list:
    """Nodes of a random program over one image; every one is 4-D."""
    call, pick, number = draw.arena.call, draw.pick, draw.number
    values = [draw.input(number(1, 2), number(1, 4), number(3, 7), number(3, 7))]
    for _ in range(steps):
        x = pick(*values)
        channels = x.shape[1]
        vector = [draw.weight(channels) for _ in range(4)]
        kind = pick(
            "conv", "conv", "grouped", "max", "average", "cat", "norm", "act", "add", "scale", "slice", "shuffle"
        )
        if kind == "conv":
            k = number(0, 1) * 2 + 1
            weight = draw.weight(number(1, 4), channels, k, k)
            residual = call(aten.neg.default, x) if weight.shape[0] == channels and pick(True, False) else None
            x = call(CONV, x, weight, None, residual, (1, 1), (k // 2, k // 2), (1, 1), 1, pick("", "relu", "silu"))
        elif kind == "grouped":
            x = call(CONV, x, draw.weight(channels, 1, 3, 3), None, None, (1, 1), (1, 1), (1, 1), channels, "")
        elif kind == "max":
            x = draw.arena.get(call(MAX_POOL, x, (3, 3), (1, 1), (1, 1)), 0)
        elif kind == "average":
            pools = [
                (aten.avg_pool2d.default, (3, 3), (1, 1), (1, 1)),
                (aten.mean.dim, (2, 3), True),
                (aten._adaptive_avg_pool2d.default, (2, 2)),
            ]
            pool, *options = pick(*pools)
            x = call(pool, x, *options)
        elif kind == "cat":
            beside = [value for value in values if (value.shape[0], *value.shape[2:]) == (x.shape[0], *x.shape[2:])]
            x = call(aten.cat.default, [x, pick(*beside)], 1)
        elif kind == "norm":
            x = draw.arena.get(call(BATCH_NORM, x, *vector, 0.1, 1e-5), 0)
        elif kind == "act":
            x = call(pick(aten.relu.default, aten.hardswish.default, aten.sigmoid.default), x)
        elif kind == "add":
            same = [value for value in values if value.shape == x.shape]
            x = call(aten.add.Tensor, x, pick(*same))
        elif kind == "scale":
            x = call(aten.mul.Tensor, x, call(aten.sigmoid.default, call(aten.mean.dim, x, (2, 3), True)))
        elif kind == "slice":
            x = call(aten.slice.Tensor, x, 1, 0, (channels + 1) // 2)
        elif channels % 4 == 0:
            x = call(aten.pixel_shuffle.default, x, 2)
        values.append(x)
    return values


def seen(meta: Meta) -> tuple:
    """A tensor's kind; strides only of axes with more than one element, the others address nothing."""
    return meta.shape, meta.dtype, [stride for stride, size in zip(meta.stride, meta.shape, strict=True) if size > 1]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), form=st.sampled_from(FORMATS), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_every_value_lies_as_the_terms_say(seed, form, dtype):
    draw = Draw(seed, dtype)
    whole = draw.graph(*grow(draw, 8))
    (leaf,) = whole.inputs
    image = torch.rand(leaf.shape, dtype=dtype).contiguous(memory_format=form)
    graph = whole.replace({leaf: draw.arena.leaf(INPUT, "image", Meta.of(image))})
    graph = type(graph)(graph.arena, tuple(node for node in graph.order if node.op == INPUT), graph.outputs)
    state = {node.args[0]: torch.rand(node.shape, dtype=dtype) for node in graph.order if node.op == STATE}
    with torch.no_grad():
        results = to_fx(graph, state)(*([image] if graph.inputs else []))
    for node, result in zip(graph.outputs, results, strict=True):
        assert seen(node.meta) == seen(Meta.of(result)), node


@pytest.mark.parametrize("form", FORMATS)
def test_a_network_stays_in_the_layout_of_its_image(form):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 1),
        nn.AvgPool2d(2),
    )
    image = torch.randn(1, 3, 16, 16).contiguous(memory_format=form)
    graph, _ = terms(net, image)
    images = [node.meta.empty() for node in graph.order if not node.constant and isinstance(node.meta, Meta)]
    assert len(images) > 5 and all(value.is_contiguous(memory_format=form) for value in images)
