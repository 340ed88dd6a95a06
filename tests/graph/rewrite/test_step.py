"""Training graphs that come through torch.compile are rewritten before autograd: gradients are eager's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drivetrain import nets
from drivetrain.graph import backend, choice

from .test_training import Detached, Reversed, Siblings, without_gradients


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    monkeypatch.setenv("DRIVETRAIN_CACHE", str(tmp_path))
    backend.register()
    torch._dynamo.reset()


def kept(name, monkeypatch):
    """Let one form be the fastest; returns the names of all, graph by graph."""
    seen = []

    def fastest(measured, first):
        seen.append(list(measured))
        assert name in measured, measured
        return name

    monkeypatch.setattr(choice, "fastest", fastest)
    return seen


def step(module, *inputs):
    outputs = module(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(out.square().sum() for out in outputs).backward()


def same_gradients(one, other, atol=1e-10):
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=atol), name
    for (name, ours), theirs in zip(one.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=atol), name


def test_a_recurrent_network_is_batched_over_time(monkeypatch):
    forms = kept("rewritten", monkeypatch)
    graphs = []
    real = choice.compile_flat

    def watching(module, inputs, options, **rest):
        return real(module, inputs, options, watch=lambda kind, graph: graphs.append((kind, graph)), **rest)

    monkeypatch.setattr(choice, "compile_flat", watching)
    model = nets.build("sru_classifier", seed=0, vocabulary=50, hidden=16).double().train()
    twin, tokens = copy.deepcopy(model), torch.randint(0, 50, (3, 5))
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": "always"})
    for _ in range(2):  # gradients add up in the original's own parameters
        step(fast, tokens), step(twin, tokens)
    same_gradients(model, twin)
    assert forms == [] and backend.choices()[-1].then == "rewritten"  # "always" compares nothing
    (forward,) = [graph for kind, graph in graphs if kind == "forward"][:1]
    products = [node for node in forward.graph.nodes if ".mm." in str(node.target) or "addmm" in str(node.target)]
    assert len(products) < 5


def test_the_rewritten_step_is_compared_with_the_captured_and_the_original(monkeypatch):
    forms = kept("rewritten", monkeypatch)
    monkeypatch.setattr(choice, "race", lambda forms, *args, **settings: dict.fromkeys(forms))
    model = nets.build("sru_classifier", seed=0, vocabulary=50, hidden=16).double().train()
    twin, tokens = copy.deepcopy(model), torch.randint(0, 50, (3, 5))
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": True})
    step(fast, tokens), step(twin, tokens)
    same_gradients(model, twin)
    assert forms == [["as captured", "rewritten"]]  # with a lowering by name the original is no candidate


@pytest.mark.parametrize("form", ["as captured", "rewritten"])
def test_measuring_leaves_the_model_alone(form, monkeypatch):
    kept(form, monkeypatch)
    monkeypatch.setattr(choice, "_rewritten_step", rewritten_by_force)
    model = Siblings().train()
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": True})
    step(fast, x), step(twin, x)
    same_gradients(model, twin)
    assert model.norm.num_batches_tracked == 1


def rewritten_by_force(module, example_inputs, options, level):
    """Sibling convolutions merged, whatever that costs: the mean by batch norm still moves."""
    from drivetrain.graph._torch_compat import outside_modes, without_tracing_context
    from drivetrain.graph.rewrite.step import rewritten_step

    from .test_training import everywhere

    with outside_modes(), without_tracing_context(), torch.enable_grad():
        made = rewritten_step(module, example_inputs, rules=everywhere("merge-convs", "merge-matmuls", "join-slices"))
    assert made is not None
    return made


def test_evaluation_and_other_batches_get_graphs_of_their_own(monkeypatch):
    monkeypatch.setattr(choice, "_rewritten_step", rewritten_by_force)
    kept("rewritten", monkeypatch)
    model = Siblings().train()
    twin = copy.deepcopy(model)
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": "always"}, dynamic=False)
    ours, theirs = (torch.optim.SGD(m.parameters(), 0.05) for m in (model, twin))
    for size in (4, 4, 3, 4):
        x = torch.randn(size, 3, 6, 6, dtype=torch.float64)
        for m, optimizer in ((fast, ours), (twin, theirs)):
            optimizer.zero_grad()
            step(m, x)
            optimizer.step()
    same_gradients(model, twin)
    fast.eval(), twin.eval()
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(fast(x), twin(x), strict=True))
    assert list(fast._orig_mod.state_dict()) == list(twin.state_dict())


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda y: y.detach() * y, "stops gradients"),
        (without_gradients, "stops gradients"),
        (lambda y: Reversed.apply(y), ""),
    ],
)
def test_code_that_stops_or_bends_gradients_is_compiled_as_it_is(run, why, recwarn):
    model = Detached(run)
    twin, x = copy.deepcopy(model), torch.randn(2, 3)
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": True})
    step(fast, x), step(twin, x)
    same_gradients(model, twin, 1e-6)
    told = [str(entry.message) for entry in recwarn if "not rewritten" in str(entry.message)]
    assert len(told) == 1 and why in told[0]


def test_dropout_draws_anew_and_inputs_get_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": True})
    x = torch.randn(8, 4, requires_grad=True)
    first, second = fast(x), fast(x)
    assert not torch.equal(first, second)
    first.sum().backward()
    assert x.grad is not None and model[2].num_batches_tracked == 2


class Returns(nn.Module):
    """Returns a view of its input and a leaf of its own beside a result."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return F.relu(self.a(x)), self.b(x), x.view(-1), self.a.weight


def test_views_of_inputs_stay_views():
    model = Returns()
    x = torch.randn(2, 3)
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": "always"})
    _, _, view, weight = fast(x)
    view.add_(1.0)
    assert torch.equal(view, x.view(-1)) and weight is model.a.weight
