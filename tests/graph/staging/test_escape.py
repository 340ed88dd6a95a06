"""py_call: Python at run time, once a call, in order, with gradients."""

import numpy as np
import pytest
import torch

from drivetrain.graph.errors import NotSerializableError, SpecError
from drivetrain.graph.staging import Spec, function, is_tracing, py_call

BACKENDS = [{"backend": "eager"}, {"options": {"then": "eager"}}]


@pytest.mark.parametrize("settings", BACKENDS)
def test_numpy_with_a_rule(settings):
    calls = []

    def sine(x):
        calls.append(1)
        return np.sin(x.detach().numpy())

    @function(**settings, effects="ignore")
    def f(x):
        return py_call(sine, (x,), Spec((3,)), lambda args, g: g * torch.cos(args[0])) + 1

    x = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    for n in range(1, 4):
        y = f(x)
        assert len(calls) == n  # once a call, also in the first
        assert torch.allclose(y, torch.sin(x) + 1)
        assert torch.allclose(torch.autograd.grad(y.sum(), x)[0], torch.cos(x))


@pytest.mark.parametrize("settings", BACKENDS)
def test_torch_under_a_tape_also_inside_and_twice(settings):
    def body(x):
        return py_call(torch.sin, (x,), x) * x

    f = function(body, **settings)
    for _ in range(2):
        x = torch.tensor([0.5], requires_grad=True)
        (first,) = torch.autograd.grad(f(x), x, create_graph=True)
        assert torch.allclose(first, x.sin() + x * x.cos())
        (second,) = torch.autograd.grad(first, x)
        assert torch.allclose(second, 2 * x.cos() - x * x.sin())
    inside = function(lambda x: torch.autograd.grad(body(x).sum(), x)[0], **settings)
    for _ in range(2):
        assert torch.allclose(inside(x), x.sin() + x * x.cos())


def test_calls_keep_their_order_and_stay_if_unused():
    log = []

    @function(backend="eager", effects="ignore")
    def f(x):
        py_call(lambda v: log.append(("first", float(v))) or v, (x,), x)
        x.add_(1)
        py_call(lambda v: log.append(("second", float(v))) or v, (x,), x)
        return x * 2

    for _ in range(2):
        log.clear()
        f(torch.tensor(1.0))
        assert log == [("first", 1.0), ("second", 2.0)]


def test_a_result_that_does_not_fit():
    @function(backend="eager")
    def f(x):
        return py_call(lambda v: v[:1], (x,), Spec((2,)))

    with pytest.raises(SpecError, match=r"returned float32\[1\] where `out` says float32\[2\]"):
        f(torch.ones(2))
    with pytest.raises(SpecError, match="needs the shape of each result"):
        py_call(torch.sin, (torch.ones(2),), Spec((None,)))


def test_gradients_through_numpy_without_a_rule_are_refused():
    f = function(lambda x: py_call(lambda v: np.sin(v.detach().numpy()), (x,), x), backend="eager")
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="does not compute with torch"):
        f(x).sum().backward()
    quiet = function(lambda x: py_call(lambda v: v * 2, (x,), x, differentiable=False) * x, backend="eager")
    for _ in range(2):
        assert torch.autograd.grad(quiet(x).sum(), x)[0].tolist() == [2, 2]


def test_no_file_holds_python(tmp_path):
    f = function(lambda x: py_call(torch.sin, (x,), x), backend="eager")
    f(torch.ones(2))
    with pytest.raises(NotSerializableError, match="calls Python") as caught:
        f.traces[0].exported(tmp_path / "f.pt2")
    assert "test_escape.py" in str(caught.value) and not (tmp_path / "f.pt2").exists()


def test_is_tracing():
    seen = []
    f = function(lambda x: seen.append(is_tracing()) or x * 2, backend="eager", effects="ignore")
    f(torch.ones(1)), f(torch.ones(1))
    assert seen == [False, True] and not is_tracing()


def test_a_branch_and_a_loop_by_a_tensors_value():
    w = torch.tensor(3.0, requires_grad=True)

    @function(backend="eager")
    def f(x):
        return torch.cond(x.sum() > 0, lambda v: v.sin() * w, lambda v: v.cos(), (x,))

    for _ in range(2):
        for sign in (1.0, -1.0):
            x = torch.tensor([sign], requires_grad=True)
            y = f(x)
            assert torch.allclose(y, x.sin() * w if sign > 0 else x.cos())
            (g,) = torch.autograd.grad(y.sum(), x)
            assert torch.allclose(g, x.cos() * w if sign > 0 else -x.sin())
    assert f.trace_count == 1

    @function(backend="eager")
    def collatz(n):
        def step(n, k):
            return torch.where(n % 2 == 0, n // 2, 3 * n + 1), k + 1

        return torch.while_loop(lambda n, k: n != 1, step, (n, torch.tensor(0)))[1]

    assert [collatz(torch.tensor(n)).item() for n in (6, 1, 27)] == [8, 0, 111]
    assert collatz.trace_count == 1
