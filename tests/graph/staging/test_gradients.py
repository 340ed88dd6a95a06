"""Gradients of any order in any mix of eager and staged; captures by reference."""

import itertools

import pytest
import torch

from drivetrain.graph.staging import function


def staged(python):
    return function(python, backend="eager")


def derivative(f):
    def df(x):
        with torch.enable_grad():
            y = f(x)
            return torch.autograd.grad(y, x, create_graph=True)[0]

    return df


@pytest.mark.parametrize("mix", list(itertools.product((False, True), repeat=3)))
def test_the_polynomial_in_eight_mixes(mix):
    """f = x^3 at 2: 8, 12, 12, 6, with the function and each derivative eager or staged."""

    def f(x):
        return x * x * x

    f = staged(f) if mix[0] else f
    f1 = staged(derivative(f)) if mix[1] else derivative(f)
    f2 = staged(derivative(f1)) if mix[2] else derivative(f1)
    f3 = derivative(f2)
    for _ in range(2):
        x = torch.tensor(2.0, requires_grad=True)
        assert [g(x).item() for g in (f, f1, f2, f3)] == [8.0, 12.0, 12.0, 6.0]


def test_all_staged_and_nested_has_call_nodes():
    f = staged(lambda x: x * x * x)
    f1 = staged(derivative(f))
    x = torch.tensor(2.0, requires_grad=True)
    assert f1(x).item() == 12
    targets = [node.op for node in f1.traces[0].graph.graph.nodes]
    assert targets.count("call_module") == 2  # the call, and its backward


def test_first_order_inside_stays_first_order():
    """create_graph=False inside a staged function cuts the graph there, as it does eagerly."""

    def inner(x):
        y = (x**3).sum()
        (g,) = torch.autograd.grad(y, x)
        return (x * g).sum()  # eager: d/dx = g alone, the derivative of g is not seen

    results = []
    for f in (inner, staged(inner), staged(inner)):
        x = torch.tensor([2.0], requires_grad=True)
        for _ in range(2):
            value = f(x)
        results.append(torch.autograd.grad(value, x)[0].item())
    assert results == [12.0, 12.0, 12.0]


def test_a_captured_tensor_is_by_reference():
    w = torch.tensor([1.0, 2.0], requires_grad=True)

    @function(backend="eager")
    def g(x):
        return torch.sin(x * w).sum()

    x = torch.tensor([0.5, 0.25])
    for _ in range(2):
        w.grad = None
        g(x).backward()
        assert torch.allclose(w.grad, x * torch.cos(x * w))
    with torch.no_grad():
        w.mul_(3)
    assert torch.equal(g(x), torch.sin(x * w).sum()) and g.trace_count == 1
    (capture,) = g.traces[0].captures
    assert capture.tensor is w and capture.name == "w"


def test_a_rebound_closure_variable_is_traced_again():
    w = torch.tensor(2.0)

    @function(backend="eager")
    def g(x):
        return x * w

    x = torch.tensor(3.0)
    assert g(x) == 6 and g(x) == 6
    w = torch.tensor(5.0)
    assert "w is another tensor than the trace holds" in g.explain(x)
    assert g(x) == 15 and g.trace_count == 2


def test_captures_of_a_called_function_are_captures_of_the_caller():
    w = torch.tensor(2.0, requires_grad=True)
    inner = staged(lambda x: x * w)
    outer = staged(lambda x: inner(x) + 1)
    x = torch.tensor(3.0)
    assert outer(x) == 7 and outer(x) == 7
    assert [capture.tensor is w for capture in outer.traces[0].captures] == [True]
    (grad,) = torch.autograd.grad(outer(x), w)
    assert grad == 3


class Tenfold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x * scale

    @staticmethod
    def backward(ctx, g):
        return g * 10 * ctx.scale, None


def test_a_custom_gradient_is_respected_outside_and_inside():
    f = staged(lambda x: Tenfold.apply(x, 2) + 1)
    for _ in range(2):
        x = torch.tensor(3.0, requires_grad=True)
        y = f(x)
        assert y == 7 and torch.autograd.grad(y, x)[0] == 20
    inside = staged(derivative(lambda x: Tenfold.apply(x, 2)))
    x = torch.tensor(3.0, requires_grad=True)
    assert inside(x) == 20 and inside(x) == 20


def test_no_grad_regions_stay_without_gradients():
    def f(x):
        with torch.no_grad():
            y = x * 2
        return x * y

    g = staged(f)
    for _ in range(2):
        x = torch.tensor(3.0, requires_grad=True)
        assert torch.autograd.grad(g(x), x)[0] == torch.autograd.grad(f(x), x)[0] == 6


def test_an_error_in_a_no_grad_region_leaves_grad_mode_as_it_was():
    @function(backend="eager", dynamic=True)
    def f(x, index):
        with torch.no_grad():
            return x.index_select(0, index)

    x = torch.ones(3)
    f(x, torch.tensor([0, 1])), f(x, torch.tensor([1, 1]))
    with pytest.raises(IndexError):
        f(x, torch.tensor([0, 9]))
    assert torch.is_grad_enabled()


def test_forward_and_backward_graphs_can_be_looked_at():
    f = staged(lambda x: torch.sin(x).exp())
    f(torch.ones(2, requires_grad=True))
    made = f.traces[0]
    names = {str(node.target) for node in made.backward.graph.nodes}
    assert "aten.cos.default" in names and made.forward is not made.backward
    assert made.source_map and "lambda" in str(next(iter(made.source_map.values())))


def test_functional_transforms_inside():
    w = torch.tensor([1.0, 2.0])

    def f(x):
        return torch.func.vmap(lambda row: (row * w).sum())(x), torch.func.grad(lambda a: (a * w).sin().sum())(x[0])

    g = staged(f)
    x = torch.randn(3, 2)
    for _ in range(2):
        for ours, theirs in zip(g(x), f(x), strict=True):
            assert torch.allclose(ours, theirs)
    assert g.trace_count == 1


def test_compiled_gradients_of_first_and_second_order():
    """Through aot_autograd, whose own answer to a second order is an error."""

    def f(x, w):
        return (torch.sin(x * w) ** 2).sum()

    g = function(f, options={"then": "eager"})
    results = []
    for h in (f, g, g):
        x = torch.tensor([0.3, 0.7], requires_grad=True)
        w = torch.tensor([1.5, -2.0], requires_grad=True)
        gx, gw = torch.autograd.grad(h(x, w), (x, w), create_graph=True)
        second = torch.autograd.grad(gx.sum() + gw.prod(), (x, w))
        results.append([gx, gw, *second])
    for ours in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, results[0], strict=True))
    assert g.trace_count == 1


def test_compiled_first_order_frees_and_keeps():
    g = function(lambda x: (x * x).sum(), options={"then": "eager"})
    x = torch.tensor([2.0], requires_grad=True)
    g(x)
    y = g(x)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_compiled_dropout_draws_anew_and_its_second_order_sees_the_same_mask():
    g = function(lambda x: (torch.nn.functional.dropout(x**3, 0.5)).sum(), options={"then": "eager"})
    x = torch.full((64,), 2.0, requires_grad=True)
    g(x)
    y = g(x)
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    mask = first.detach() / (2 * 12)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert y.item() == 8 * 2 * mask.sum()  # the mask of the call itself, not another one
    assert 0 < mask.sum() < 64 and torch.allclose(second, mask * 2 * 12)
    assert g(x).item() != g(x).item() or g(x).item() != g(x).item()


def test_first_order_only_is_asked_for():
    """grad="first" hands out aot_autograd's own node: less work a call, and its own refusal of a second order."""
    g = function(lambda x: (x**3).sum(), grad="first", options={"then": "eager"})
    x = torch.tensor([2.0], requires_grad=True)
    g(x)
    (first,) = torch.autograd.grad(g(x), x, create_graph=True)
    assert first.item() == 12
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first, x)
