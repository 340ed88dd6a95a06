"""State is created in the first call, and only there."""

import pytest
import torch
from torch import nn

from drivetrain.graph.errors import StateCreationError
from drivetrain.graph.staging import function, init_scope


class Counter:
    def __init__(self):
        self.n, self.bodies = None, 0

    @function(backend="eager", effects="ignore")
    def step(self, x):
        self.bodies += 1
        if self.n is None:
            self.n = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.n.add_(1)
        return x * self.n


def test_the_counter_runs_its_body_twice_and_counts_by_one():
    counter = Counter()
    x = torch.ones(1)
    assert [counter.step(x).item() for _ in range(3)] == [1, 2, 3]
    assert counter.bodies == 2 and counter.n.item() == 3
    assert counter.step.traces[0].mutates == ["self.n"]


def test_two_counters_are_two():
    one, two = Counter(), Counter()
    x = torch.ones(1)
    one.step(x), one.step(x)
    assert two.step(x).item() == 1 and one.step(x).item() == 3


def test_unguarded_creation_is_refused_and_undone():
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.log = {}

        @function(backend="eager", effects="ignore")
        def forward(self, x):
            self.seen.add_(1)
            self.w = nn.Parameter(torch.ones(2))  # unguarded
            return x * self.w

    bad = Bad()
    for _ in range(2):
        with pytest.raises(StateCreationError, match="a Parameter in another call than its first") as caught:
            bad(torch.ones(2))
        assert "unguarded" in str(caught.value) and "test_state.py" in str(caught.value)
        assert "w" not in dict(bad.named_parameters()) and bad.seen.item() == 0
        assert bad.forward.trace_count == 0


def test_a_guarded_module_is_created_once():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = None

        @function(backend="eager")
        def forward(self, x):
            if self.inner is None:
                self.inner = nn.Linear(x.shape[1], 2)
            return self.inner(x)

    lazy = Lazy()
    x = torch.ones(3, 4)
    first = lazy(x)
    assert torch.equal(lazy(x), first)
    lazy(x).sum().backward()
    assert lazy.inner.weight.grad.sum() == 24


def test_a_tensor_of_the_trace_may_not_stay_behind():
    class Leaky:
        def __init__(self):
            self.h = torch.zeros(2)

        @function(backend="eager", effects="ignore")
        def step(self, x):
            self.h = self.h + x  # rebinds
            return self.h * 1

    leaky = Leaky()
    with pytest.raises(StateCreationError, match=r"self\.h was bound to a tensor of the trace") as caught:
        leaky.step(torch.ones(2))
    assert "rebinds" in str(caught.value) and leaky.h.tolist() == [0, 0]


def test_init_scope_computes_for_real():
    made = []

    @function(backend="eager", effects="ignore")
    def f(x):
        if not made:
            with init_scope():
                made.append(torch.ones(2) * 3)
        return x + made[0]

    assert f.concrete(torch.ones(2))(torch.ones(2)).tolist() == [4, 4]
    assert type(made[0]) is torch.Tensor and f(torch.ones(2)).tolist() == [4, 4]


def test_batch_norm_updates_once_a_call_and_modes_are_kinds():
    model, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    f = function(model, backend="eager")
    x = torch.randn(4, 3)
    for _ in range(3):
        assert torch.equal(f(x), twin(x))
    assert torch.equal(model.running_var, twin.running_var) and int(model.num_batches_tracked) == 3
    model.eval(), twin.eval()
    assert "not in training mode" in f.explain(x)
    assert torch.equal(f(x), twin(x)) and f.trace_count == 2


def test_an_error_while_tracing_leaves_the_cache_as_it_was():
    @function(backend="eager")
    def f(x, branch):
        return x * 2 if not branch or x.sum() > 0 else x

    x = torch.ones(2)
    f(x, False)
    with pytest.raises(ValueError, match="branch"):
        f(x, True)
    assert f.trace_count == 1 and f(x, False).tolist() == [2, 2]
