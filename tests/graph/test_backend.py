"""torch.compile(backend="drivetrain"): right results, passes in their order, options refused by name."""

import copy

import pytest
import torch
from torch import nn

from drivetrain.base.errors import InvalidValue
from drivetrain.graph import backend, passes
from drivetrain.graph.lowering import find_lowering, has_compiler

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def registered():
    backend.register()
    torch._dynamo.reset()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def test_the_name_is_known_to_torch_compile():
    assert "drivetrain" in torch._dynamo.list_backends()
    backend.register()  # twice does no harm


def test_training_and_inference_equal_eager():
    model = net()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="drivetrain", options={"then": "eager"})
    compiled(X).square().sum().backward()
    twin(X).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6), name
    assert torch.equal(model[1].running_var, twin[1].running_var)
    with torch.no_grad():
        assert torch.allclose(compiled.eval()(X), twin.eval()(X), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["inductor", "auto", "onnxruntime"])
def test_lowerings_compute_the_same(then):
    if then == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = net().eval()
    compiled = torch.compile(model, backend="drivetrain", options={"then": then})
    with torch.no_grad():
        assert torch.allclose(compiled(X), model(X), atol=1e-5)
    if then != "onnxruntime":
        model.train()
        twin = copy.deepcopy(model)
        compiled(X).square().sum().backward()
        twin(X).square().sum().backward()
        assert torch.allclose(model[0].weight.grad, twin[0].weight.grad, atol=1e-4)


SEEN = []


def watching_pass(module, example_inputs, context):
    SEEN.append((context.kind, dict(context.options)))
    return module


def negating_pass(module, example_inputs, context):
    """Exchanges relu for neg: what a pass does is what runs."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.relu.default:
            node.target = torch.ops.aten.neg.default
    module.recompile()
    return module


def test_a_pass_sees_its_kinds_and_its_own_options(monkeypatch):
    kinds = ("joint", "forward", "backward", "inference")
    monkeypatch.setitem(passes.PASSES, "watch", passes.Registered(f"{__name__}:watching_pass", kinds, ("level",)))
    SEEN.clear()
    model = net()
    compiled = torch.compile(model, backend="drivetrain", options={"then": "eager", "level": 3})
    compiled(X).sum().backward()
    assert [(kind, {"level": 3}) for kind in ("joint", "forward", "backward")] == SEEN
    SEEN.clear()
    with torch.no_grad():
        compiled(X)
    assert SEEN == [("inference", {"level": 3})]


def test_what_a_pass_returns_is_what_runs(monkeypatch):
    monkeypatch.setitem(
        passes.PASSES, "negate", passes.Registered(f"{__name__}:negating_pass", ("inference",), ("negate",), "negate")
    )
    for options, expected in (({}, 1.0), ({"negate": False}, 1.0), ({"negate": True}, -1.0)):
        torch._dynamo.reset()
        compiled = torch.compile(torch.relu, backend="drivetrain", options={"then": "eager", **options})
        assert compiled(torch.ones(1)).item() == expected


def test_an_unknown_option_is_refused_with_the_nearest_name():
    graph = torch.fx.symbolic_trace(lambda x: x + 1)
    with pytest.raises(InvalidValue, match="did you mean 'then'"):
        backend.compile_flat(graph, [X], {"thn": "eager"})
    with pytest.raises(InvalidValue, match="did you mean 'inductor'"):
        backend.compile_flat(graph, [X], {"then": "inducter"})
    with pytest.raises(InvalidValue, match="means nothing"):
        backend.drivetrain_backend(graph, [X], mode="max-autotune")
    with pytest.raises(InvalidValue, match="'eager'"):
        find_lowering("eagr")


class Spread(nn.Module):
    """The gradient of the view in front of a convolution comes in the layout that Inductor gave it."""

    def __init__(self):
        super().__init__()
        self.spread, self.conv = nn.Linear(2, 32), nn.Conv2d(2, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(self.spread(x).view(-1, 2, 4, 4)).mean((2, 3))


@pytest.mark.skipif(not has_compiler(), reason="Inductor needs a C++ compiler")
def test_a_view_of_a_gradient_that_inductor_lays_out_anew():
    model, x = Spread(), torch.randn(20, 2)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    compiled = torch.compile(model, backend="drivetrain", options={"then": "inductor"}, dynamic=False)
    found = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
