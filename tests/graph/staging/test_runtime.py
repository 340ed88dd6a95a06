"""Threads, lifetimes, pickles, side effects and shadow mode."""

import gc
import pickle
import random
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from drivetrain.graph.errors import SideEffectError, StaleTraceError
from drivetrain.graph.staging import function
from drivetrain.graph.staging.execute import _BOUND, binding

X = torch.ones(2)


@function(backend="eager")
def doubled(x):
    return x * 2


def test_concurrent_first_calls_trace_once():
    bodies = []

    @function(backend="eager", effects="ignore")
    def f(x):
        bodies.append(threading.get_ident())
        time.sleep(0.05)
        return x * 2

    results = []
    threads = [threading.Thread(target=lambda: results.append(f(X))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert f.trace_count == 1 and len(bodies) == 2 and len(results) == 6
    assert all(torch.equal(result, X * 2) for result in results)


def test_a_trace_keeps_nothing_alive_but_captures():
    class Tracked(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

        @function(backend="eager")
        def forward(self, x):
            return (x * self.w).exp()

    model = Tracked()
    x = torch.ones(2)
    y = model(x)
    y = model(x)
    refs = [weakref.ref(value) for value in (x, y, model, model.w)]
    del x, y
    gc.collect()
    assert refs[0]() is None and refs[1]() is None and refs[3]() is not None
    del model
    gc.collect()
    assert refs[2]() is None and refs[3]() is None
    assert Tracked.__dict__["forward"]._bound == {}


def test_an_object_that_counts_by_identity_is_not_kept():
    class Options:
        k = 2

    @function(backend="eager")
    def f(x, options):
        return x * options.k

    one, two = Options(), Options()
    f(X, one), f(X, two), f(X, one)
    assert f.trace_count == 2
    ref = weakref.ref(one)
    del one
    gc.collect()
    assert ref() is None and f.trace_count == 1


def test_a_pickled_function_traces_anew():
    doubled(X)
    assert pickle.loads(pickle.dumps(doubled)) is doubled  # by name, as functions are
    code = f"import pickle; f = pickle.loads({pickle.dumps(function(torch.sin, backend='eager'))!r}); import torch; "
    code += "print(f(torch.zeros(1)).item(), f.trace_count)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["0.0", "1"], done.stderr


def test_side_effects_are_told_with_their_lines(capsys):
    log, table, state = [], {}, {"calls": 0}

    class Owner:
        count = 0

        @function(backend="eager")
        def step(self, x):
            log.append(1)  # the log
            table["k"] = 2  # the table
            self.count = self.count + 1  # the count
            print("hello")  # the print
            noise = random.random() + np.random.rand()  # the noise
            state["calls"] += 1  # the calls
            return x * noise + time.time()  # the time

    owner = Owner()
    owner.step(X)
    effects = owner.step.traces[0].side_effects
    by_line = {effect.line.code.split("# ")[-1]: effect.kind for effect in effects}
    assert by_line["the print"] == "print" and by_line["the time"] == "time" and by_line["the noise"] == "random"
    assert {by_line[name] for name in ("the log", "the count", "the calls")} == {"write"}
    assert "print prints while tracing only" in capsys.readouterr().err


def test_side_effects_may_be_errors():
    log = []

    @function(backend="eager", effects="error")
    def f(x):
        log.append(1)
        return x

    with pytest.raises(SideEffectError, match="log is written while tracing only"):
        f(X)
    assert f.trace_count == 0
    quiet = function(lambda x: x * 2, backend="eager", effects="error")
    assert quiet(X).tolist() == [2, 2] and quiet.traces[0].side_effects == []


def test_the_trace_draws_no_random_numbers():
    f = function(lambda x: x + torch.rand(2) + float(np.random.rand()) * 0, backend="eager", effects="ignore")
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    f(X)
    after = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    torch.rand(2), np.random.rand()
    assert torch.equal(after[0], torch.rand(1)) and after[1:] == (np.random.rand(), random.random())


def test_shadow_mode_finds_a_python_value_that_changed():
    scale = {"k": 2.0}
    steps = torch.zeros(())

    @function(backend="eager", shadow=3, effects="ignore")
    def f(x):
        steps.add_(1)
        return x * scale["k"] + torch.rand(2) * 0

    for _ in range(6):
        assert f(X).tolist() == [2, 2]
    assert steps.item() == 6  # the shadow of a call leaves no trace of itself
    scale["k"] = 3.0
    with pytest.raises(StaleTraceError, match=r"differ in output .*by up to 1"):
        for _ in range(3):
            f(X)
    f.clear()
    assert f(X).tolist() == [3, 3]


def test_traces_are_reported(tmp_path):
    script = "import torch; from drivetrain.graph import function\n"
    script += "f = function(lambda x: x + 1, backend='eager', name='inc')\n"
    script += "f(torch.ones(2)); f(torch.ones(2).double())\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**__import__("os").environ, "DRIVETRAIN_TRACES": "t.json"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import json

    traces = json.loads((tmp_path / "t.json").read_text())["traces"]
    assert [item["number"] for item in traces] == [1, 2] and traces[0]["function"] == "inc" and traces[0]["seconds"] > 0


def test_quick_bindings_exist_for_what_is_listed():
    """A name in the list that torch does not bind would be called by the slow way without a word."""
    found = {name for name in _BOUND if binding_of(name) is not None}
    assert _BOUND - found == set()
    assert binding(torch.ops.aten.add.Tensor) is torch.add
    assert binding(torch.ops.aten.slice.Tensor) is torch.ops.aten.slice.Tensor


def binding_of(name):
    for home in (torch._C._VariableFunctions, torch._C._nn, torch._C.TensorBase):
        if hasattr(home, name):
            return getattr(home, name)
    return None


@pytest.mark.slow
def test_inductor_computes_the_same_and_learns():
    f = function(lambda x, w: (torch.sin(x * w) ** 2).sum(), backend="inductor")
    x, w = torch.randn(8), torch.randn(8, requires_grad=True)
    f(x, w)
    y = f(x, w)
    (first,) = torch.autograd.grad(y, w, create_graph=True)
    assert torch.allclose(first, x * torch.sin(2 * x * w), atol=1e-5)
    (second,) = torch.autograd.grad(first.sum(), w)
    assert torch.allclose(second, 2 * x * x * torch.cos(2 * x * w), atol=1e-4)
