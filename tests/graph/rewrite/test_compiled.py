"""torch.compile(backend="drivetrain", options={"rewrite": ...}): the same results, fewer operators, or a warning."""

import warnings

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.graph import backend
from drivetrain.graph.ir import op_name


@pytest.fixture(autouse=True)
def registered():
    backend.register()
    torch._dynamo.reset()


def compiled_graphs(model, x, **options):
    """The compiled model's result, and the names of the operators of each graph after the passes."""
    graphs = []

    def watching(module, example_inputs, **_):
        return backend.compile_flat(
            module, example_inputs, {"then": "eager", **options},
            lambda kind, graph: graphs.append([op_name(node) for node in graph.graph.nodes if node.op != "output"]),
        )  # fmt: skip

    with torch.no_grad():
        result = torch.compile(model, backend=watching)(x)
    return result, graphs


INPUTS = {
    "small_cnn": ({}, lambda: torch.randn(2, 3, 32, 32)),
    "resnet20": ({}, lambda: torch.randn(1, 3, 32, 32)),
    "sru_classifier": ({"vocabulary": 50, "hidden": 32}, lambda: torch.randint(0, 50, (2, 6))),
}


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_networks_compute_the_same(name, freeze, tmp_path):
    settings, make = INPUTS[name]
    model, x = nets.build(name, seed=0, **settings).eval(), make()
    options = {"rewrite": True, "freeze": freeze, "budget": 8, "cost_table": str(tmp_path / "costs.json")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)
        got, (graph,) = compiled_graphs(model, x, **options)
        expected = model(x)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert got.stride() == expected.stride()
    norms = [op for op in graph if "batch_norm" in op]
    assert not freeze or not norms
    if name == "sru_classifier":  # R13: one product over time
        assert sum("mm" in op for op in graph) < 6


def test_weights_that_stay_arguments_may_change_and_frozen_ones_may_not(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 9, 9)
    for freeze in (False, True):
        torch._dynamo.reset()
        nn.init.ones_(model[0].bias)
        options = {"then": "eager", "rewrite": "always", "freeze": freeze}
        fast = torch.compile(model, backend="drivetrain", options=options)
        with torch.no_grad():
            before = fast(x)
            assert torch.allclose(before, model(x), atol=1e-5)
            model[0].bias.add_(1.0)
            assert torch.allclose(fast(x), before) is freeze


def test_without_values_only_what_needs_none_is_done_at_once():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    _, (graph,) = compiled_graphs(model, torch.ones(1, 3, 5, 5), rewrite="always")
    assert any("batch_norm" in op for op in graph)  # to fold it at each call is for the search to price
    _, (graph,) = compiled_graphs(model, torch.ones(1, 3, 5, 5), rewrite="always", freeze=True)
    assert sum("convolution" in op for op in graph) == 1 and not any("relu" in op for op in graph)
    assert not any("batch_norm" in op for op in graph)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_results_keep_their_layout(form):
    from drivetrain.graph.capture import capture
    from drivetrain.graph.rewrite.convert import to_fx
    from drivetrain.graph.rewrite.emit import with_layouts_of

    from .programs import Program, conv, fires, outputs, terms, x

    program = Program(lambda m, v: (m.a(v), m.b(v)), a=conv(4, 6, 1), b=conv(4, 2, 1))
    value = x(2, 4, 5, 5).contiguous(memory_format=form)
    graph, state = terms(program, value)
    (merged,) = fires("merge-convs", graph)
    expected = outputs(graph, state, value)
    assert [out.stride() for out in outputs(merged, state, value)] != [out.stride() for out in expected]
    fixed = with_layouts_of(merged, capture(program, (value,)).module.graph)
    with torch.no_grad():
        assert [out.stride() for out in to_fx(fixed, state)(value)] == [out.stride() for out in expected]


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_frozen_images_come_back_as_they_would_have(form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(2, 3, 9, 9).contiguous(memory_format=form)
    got, (graph,) = compiled_graphs(model, x, rewrite="always", freeze=True)
    assert graph.count("mkldnn::_convolution_pointwise") == 2
    with torch.no_grad():
        expected = model(x)
    assert got.stride() == expected.stride() and torch.allclose(got, expected, atol=1e-5)


def test_what_cannot_be_rewritten_is_left_with_one_warning():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with (
        pytest.warns(UserWarning, match="not rewritten: .* is a size that may vary") as caught,
        torch.no_grad(),
    ):
        fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": True}, dynamic=True)
        x = torch.randn(5, 3)
        assert torch.allclose(fast(x), model(x))
    assert sum("not rewritten" in str(entry.message) for entry in caught) == 1


def test_a_wrong_rewrite_is_found_and_not_used(monkeypatch):
    from drivetrain.graph.rewrite import compiled

    from .test_optimize import Wrong

    monkeypatch.setattr(compiled, "RULES", (Wrong(),))
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match="output 0 differs by"):
        result, _ = compiled_graphs(model, x, rewrite="always")
    assert torch.equal(result, model(x))


FROZEN = pytest.mark.xfail(
    strict=True, reason="Inductor's inner compiler takes no real constants: weights stay arguments"
)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, pytest.param(True, marks=FROZEN)])
def test_inductor_takes_what_was_rewritten(freeze):
    model, x = nets.build("small_cnn", seed=0).eval(), torch.randn(2, 3, 32, 32)
    options = {"then": "inductor", "rewrite": "always", "freeze": freeze}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*weights not frozen")
        fast = torch.compile(model, backend="drivetrain", options=options)
        assert torch.allclose(fast(x), model(x), atol=1e-4)


def test_a_wish_that_cannot_be_met_is_told():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match="weights not frozen: freeze=True needs then='eager', not 'auto'"):
        result, _ = compiled_graphs(model, x, rewrite="always", freeze=True, then="auto")
    assert torch.allclose(result, model(x), atol=1e-6)
