"""Every rule computes the same in float64, and stays silent one step away from its conditions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .programs import Program, conv, error, fires, norm, outputs, terms, x

torch.set_default_dtype(torch.float32)


def linear(i, o, bias=True):
    return nn.Linear(i, o, bias=bias).double()


def pair(a, b):
    """Two layers on one input."""
    return Program(lambda m, v: (m.a(v), m.b(v)), a=a, b=b)


IMAGE = (2, 4, 9, 9)
# rule -> programs in which it fires
FIRES = {
    "fold-batch-norm": [
        (Program(lambda m, v: m.n(m.c(v)), c=conv(4, 6, 3, stride=2), n=norm(6)), IMAGE),
        (Program(lambda m, v: F.relu(m.n(m.c(v))), c=conv(4, 6, (1, 3), groups=2, bias=False), n=norm(6)), IMAGE),
        (Program(lambda m, v: m.n(m.c(v)), c=conv(4, 4, 3), n=nn.BatchNorm2d(4, affine=False).double()), IMAGE),
    ],
    "merge-convs": [
        (pair(a=conv(4, 6, 3, padding=1), b=conv(4, 2, 3, padding=1)), IMAGE),
        (Program(lambda m, v: (F.relu(m.a(v)), F.relu(m.b(v)), F.relu(m.c(v))),
            a=conv(4, 6, 1), b=conv(4, 2, 1, bias=False), c=conv(4, 3, 1)), IMAGE),
    ],
    "enlarge-kernel": [
        (pair(a=conv(4, 6, 1), b=conv(4, 2, 3, padding=1)), IMAGE),
        (pair(a=conv(4, 6, (1, 7), padding=(0, 3), stride=2), b=conv(4, 2, (7, 1), padding=(3, 0), stride=2)), IMAGE),
        (Program(lambda m, v: m.a(v) + m.b(v[:, :2]), a=conv(4, 6, 1), b=conv(2, 6, 3, padding=1)), IMAGE),
        (pair(a=conv(4, 6, 3, dilation=2), b=conv(4, 2, 5, dilation=2, padding=2)), IMAGE),
    ],
    "merge-matmuls": [
        (pair(a=linear(5, 7), b=linear(5, 3)), (4, 5)),
        (Program(lambda m, v: (m.a(v), m.b(v), m.c(v)),
            a=linear(5, 7), b=linear(5, 3, bias=False), c=linear(5, 3)), (4, 5)),
    ],
    "absorb-residual": [
        (Program(lambda m, v: m.a(v) + v, a=conv(4, 4, 3, padding=1)), IMAGE),
        (Program(lambda m, v: F.relu(v + m.a(v)), a=conv(4, 4, (1, 5), padding=(0, 4), dilation=2, bias=False)), IMAGE),
    ],
    "add-convs": [
        (Program(lambda m, v: m.a(v[:, :3]) + m.b(v[:, 3:]),
            a=conv(3, 6, 3, padding=1), b=conv(1, 6, 3, padding=1)), IMAGE),
        (Program(lambda m, v: F.relu(m.a(v[:, :3]) + m.b(v)),
            a=conv(3, 6, 3, stride=2, bias=False), b=conv(4, 6, 3, stride=2)), IMAGE),
    ],
    "join-slices": [(Program(lambda m, v: torch.cat([v[:, :2], v[:, 2:3], v[:, 3:]], 1) * 2), IMAGE)],
    "slice-of-cat": [
        (Program(lambda m, v: torch.cat([v * 2, v * 3], 1)[:, 4:] + 1), IMAGE),
        (Program(lambda m, v: v[:, 1:][:, 1:2] + 1), IMAGE),
    ],
    "activate-parts": [(Program(lambda m, v: F.relu(torch.cat([m.a(v), v.neg()], 1)), a=conv(4, 6, 1)), IMAGE)],
    "activate-before-pool": [(Program(lambda m, v: F.relu(F.max_pool2d(m.a(v), 3, 2, 1)), a=conv(4, 6, 1)), IMAGE)],
    "factor-sum": [(Program(lambda m, v: v.sin() * v.cos() + v.exp() * v.sin()), (3, 4))],
    "interpolate": [(Program(lambda m, v: v.sin() * v.cos() + (1 - v.sin()) * v.exp()), (3, 4))],
    "reassociate": [(Program(lambda m, v: m.b(m.a(v)), a=linear(5, 2, bias=False), b=linear(2, 9)), (4, 5))],
    "batch-over-time": [
        (Program(lambda m, v: [torch.tanh(m.a(v[t])) for t in range(3)], a=linear(5, 7)), (3, 2, 5)),
        (Program(lambda m, v: [m.a(v[t].sin()) for t in (0, 2)], a=linear(5, 7, bias=False)), (3, 2, 5)),
    ],
    "merge-groups": [(Program(lambda m, v: m.a(v), a=conv(8, 12, 3, groups=4, padding=1)), (2, 8, 9, 9))],
    "pool-into-conv": [(Program(lambda m, v: m.a(F.avg_pool2d(v, 3, 2, 1)), a=conv(4, 6, 1)), IMAGE)],
    "pool-as-conv": [(Program(lambda m, v: F.avg_pool2d(v, 3, 1, 1)), IMAGE),
        (Program(lambda m, v: F.avg_pool2d(v, (2, 3))), IMAGE)],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "program", "shape"), [(r, p, s) for r, ps in FIRES.items() for p, s in ps])
def test_a_rule_fires_and_computes_the_same(rule, program, shape):
    value = x(*shape)
    graph, state = terms(program, value)
    made = fires(rule, graph)
    assert made, "did not fire"
    for new in made:
        assert new.digest != graph.digest
        assert error(outputs(graph, state, value), outputs(new, state, value)) < 1e-12


# rule -> programs one step away from its conditions
SILENT = {
    "fold-batch-norm": {
        "two readers": (Program(lambda m, v: (lambda y: m.n(y) + y)(m.c(v)), c=conv(4, 6, 3), n=norm(6)), IMAGE),
        "activation between": (Program(lambda m, v: m.n(F.relu(m.c(v))), c=conv(4, 6, 3), n=norm(6)), IMAGE),
        "returned as well": (Program(lambda m, v: (lambda y: (m.n(y), y))(m.c(v)), c=conv(4, 6, 3), n=norm(6)), IMAGE),
    },
    "fuse-activation": {
        "two readers": (Program(lambda m, v: (lambda y: F.relu(y) + y)(m.c(v)), c=conv(4, 6, 3)), IMAGE),
    },
    "fuse-residual": {
        "broadcast": (Program(lambda m, v: m.c(v) + v[:, :, :1, :1], c=conv(4, 4, 1)), IMAGE),
        "scaled": (Program(lambda m, v: torch.add(m.c(v), v, alpha=2), c=conv(4, 4, 1)), IMAGE),
        "relu first": (Program(lambda m, v: F.relu(m.c(v)) + v, c=conv(4, 4, 1)), IMAGE),
    },
    "merge-convs": {
        "stride": (pair(a=conv(4, 6, 1), b=conv(4, 2, 1, stride=2)), IMAGE),
        "padding": (pair(a=conv(4, 6, 3), b=conv(4, 2, 3, padding=1)), IMAGE),
        "dilation": (pair(a=conv(4, 6, 3), b=conv(4, 2, 3, dilation=2)), IMAGE),
        "groups": (pair(a=conv(4, 6, 1, groups=2), b=conv(4, 2, 1, groups=2)), IMAGE),
        "activation": (Program(lambda m, v: (F.relu(m.a(v)), m.b(v)), a=conv(4, 6, 1), b=conv(4, 2, 1)), IMAGE),
        "other input": (Program(lambda m, v: (m.a(v), m.b(v + 1)), a=conv(4, 6, 1), b=conv(4, 2, 1)), IMAGE),
        "residual": (Program(lambda m, v: (m.a(v) + v, m.b(v)), a=conv(4, 4, 1), b=conv(4, 4, 1)), IMAGE),
    },
    "enlarge-kernel": {
        "even difference": (pair(a=conv(4, 6, 1), b=conv(4, 2, 2)), IMAGE),
        "padding does not fit": (pair(a=conv(4, 6, 1), b=conv(4, 2, 3)), IMAGE),
        "stride": (pair(a=conv(4, 6, 1), b=conv(4, 2, 3, padding=1, stride=2)), IMAGE),
        "groups": (pair(a=conv(4, 6, 1, groups=2), b=conv(4, 2, 3, padding=1)), IMAGE),
        "reflected padding": (pair(a=conv(4, 6, 1), b=conv(4, 2, 3, padding=1, padding_mode="reflect")), IMAGE),
    },
    "merge-matmuls": {
        "other input": (Program(lambda m, v: (m.a(v), m.b(v + 1)), a=linear(5, 7), b=linear(5, 3)), (4, 5)),
        "activation": (Program(lambda m, v: (m.a(v).relu(), m.b(v)), a=linear(5, 7), b=linear(5, 3)), (4, 5)),
    },
    "absorb-residual": {
        "activation on the convolution": (Program(lambda m, v: F.relu(m.a(v)) + v, a=conv(4, 4, 3, padding=1)), IMAGE),
        "another tensor": (Program(lambda m, v: m.a(v) + v.neg(), a=conv(4, 4, 3, padding=1)), IMAGE),
        "not centred": (Program(lambda m, v: m.a(F.pad(v, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1] + v,
            a=conv(4, 4, 3, padding=1)), IMAGE),
        "groups": (Program(lambda m, v: m.a(v) + v, a=conv(4, 4, 3, padding=1, groups=2)), IMAGE),
        "two readers": (Program(lambda m, v: (lambda y: (y + v, y))(m.a(v)), a=conv(4, 4, 3, padding=1)), IMAGE),
    },
    "add-convs": {
        "kernels": (Program(lambda m, v: m.a(v[:, :3]) + m.b(v[:, 3:]),
            a=conv(3, 6, 3, padding=1), b=conv(1, 6, 1)), IMAGE),
        "activation": (Program(lambda m, v: F.relu(m.a(v[:, :3])) + F.relu(m.b(v)),
            a=conv(3, 6, 1), b=conv(4, 6, 1)), IMAGE),
        "groups": (Program(lambda m, v: m.a(v[:, :2]) + m.b(v), a=conv(2, 6, 1), b=conv(4, 6, 1, groups=2)), IMAGE),
    },
    "join-slices": {
        "out of order": (Program(lambda m, v: torch.cat([v[:, 2:], v[:, :2]], 1)), IMAGE),
        "a gap": (Program(lambda m, v: torch.cat([v[:, :1], v[:, 2:]], 1)), IMAGE),
        "another axis": (Program(lambda m, v: torch.cat([v[:, :2], v[:, 2:]], 2)), IMAGE),
        "step 2": (Program(lambda m, v: torch.cat([v[:, :2], v[:, 2::2]], 1)), IMAGE),
        "two tensors": (Program(lambda m, v: torch.cat([v[:, :2], v.neg()[:, 2:]], 1)), IMAGE),
    },
    "slice-of-cat": {"across a seam": (Program(lambda m, v: torch.cat([v * 2, v * 3], 1)[:, 3:6]), IMAGE)},
    "activate-parts": {"no product": (Program(lambda m, v: F.relu(torch.cat([v.neg(), v * 2], 1))), IMAGE)},
    "activate-before-pool": {
        "not rising": (Program(lambda m, v: F.silu(F.max_pool2d(m.a(v), 3)), a=conv(4, 6, 1)), IMAGE),
        "pool read twice": (Program(lambda m, v: (lambda y: F.relu(y) + y)(F.max_pool2d(v, 3))), IMAGE),
    },
    "factor-sum": {"read elsewhere": (
            Program(lambda m, v: (lambda p: (p + v.exp() * v.sin(), p))(v.sin() * v.cos())), (3, 4))},
    "interpolate": {"2 - f": (Program(lambda m, v: v.sin() * v.cos() + (2 - v.sin()) * v.exp()), (3, 4))},
    "reassociate": {
        "bias inside": (Program(lambda m, v: m.b(m.a(v)), a=linear(5, 2), b=linear(2, 9)), (4, 5)),
        "activation inside": (Program(lambda m, v: m.b(m.a(v).relu()),
            a=linear(5, 2, bias=False), b=linear(2, 9)), (4, 5)),
    },
    "batch-over-time": {
        "recurrent": (Program(lambda m, v: m.a(m.a(m.a(v))), a=linear(5, 5)), (2, 5)),
        "two weights": (Program(lambda m, v: (m.a(v[0]), m.b(v[1])), a=linear(5, 7), b=linear(5, 7)), (3, 2, 5)),
    },
    "merge-groups": {
        "odd": (Program(lambda m, v: m.a(v), a=conv(6, 6, 1, groups=3)), (2, 6, 9, 9)),
        "depthwise": (Program(lambda m, v: m.a(v), a=conv(4, 4, 1, groups=4)), IMAGE),
    },
    "pool-into-conv": {
        "3x3": (Program(lambda m, v: m.a(F.avg_pool2d(v, 3)), a=conv(4, 6, 3)), IMAGE),
        "padding not counted": (Program(lambda m, v: m.a(F.avg_pool2d(v, 3, 1, 1, count_include_pad=False)),
            a=conv(4, 6, 1)), IMAGE),
        "pool read twice": (Program(lambda m, v: (lambda y: (m.a(y), y))(F.avg_pool2d(v, 3)), a=conv(4, 6, 1)), IMAGE),
    },
    "pool-as-conv": {
        "ceil": (Program(lambda m, v: F.avg_pool2d(v, 2, ceil_mode=True)), IMAGE),
        "padding not counted": (Program(lambda m, v: F.avg_pool2d(v, 3, 1, 1, count_include_pad=False)), IMAGE),
        "a divisor": (Program(lambda m, v: F.avg_pool2d(v, 3, divisor_override=5)), IMAGE),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "why", "program", "shape"), [(r, why, *case) for r, cases in SILENT.items() for why, case in cases.items()]
)
def test_a_rule_is_silent_one_step_away(rule, why, program, shape):
    graph, _ = terms(program, x(*shape), fused=not rule.startswith("fuse"))
    assert not fires(rule, graph), why


def test_every_rule_is_tried_both_ways():
    from drivetrain.graph.rewrite import RULES

    names = {rule.name for rule in RULES} - {"fuse-activation", "fuse-residual"}
    assert names == set(FIRES) and names <= set(SILENT)


def test_the_residual_of_the_hand_example():
    """x = [1, 2, 3], w = [1, 0, -1], padding 1: conv = [-2, -2, 2], with x added [-1, 0, 5]."""
    layer = nn.Conv1d(1, 1, 3, padding=1, bias=False).double()
    layer.weight.data[:] = torch.tensor([1.0, 0.0, -1.0])
    value = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    graph, state = terms(Program(lambda m, v: m.a(v) + v, a=layer), value)
    (new,) = fires("absorb-residual", graph)
    assert outputs(new, state, value)[0].flatten().tolist() == [-1, 0, 5]
    assert len([node for node in new.order if not node.constant]) == 2  # the input and one convolution


def test_the_folding_of_the_hand_example():
    """w = 2, b = 1, m = 3, v = 4, gamma = 6, beta = -1: w' = 6, b' = -7, so 5 becomes 23."""
    layer, bn = conv(1, 1, 1), nn.BatchNorm2d(1, eps=0.0).double()
    for tensor, number in (
        (layer.weight, 2), (layer.bias, 1), (bn.running_mean, 3), (bn.running_var, 4), (bn.weight, 6), (bn.bias, -1)
    ):  # fmt: skip
        tensor.data.fill_(number)
    value = torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64)
    graph, state = terms(Program(lambda m, v: m.n(m.c(v)), c=layer, n=bn), value)
    (new,) = fires("fold-batch-norm", graph)
    from drivetrain.graph.rewrite.convert import fold

    folded, kept = fold(new, state)
    assert sorted(float(tensor) for tensor in kept.values()) == [-7, 6]
    assert float(outputs(folded, kept, value)[0]) == 23
