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


def by_launches(monkeypatch):
    """Let the search count operators: their times on a noisy machine decide nothing then."""
    from drivetrain.graph.rewrite import compiled
    from drivetrain.graph.rewrite.price import Objective

    monkeypatch.setattr(compiled, "Objective", lambda metric: Objective("launches"))


INPUTS = {
    "small_cnn": ({}, lambda: torch.randn(2, 3, 32, 32)),
    "resnet20": ({}, lambda: torch.randn(1, 3, 32, 32)),
    "sru_classifier": ({"vocabulary": 50, "hidden": 32}, lambda: torch.randint(0, 50, (2, 6))),
}


@pytest.mark.parametrize("name", INPUTS)
def test_networks_compute_the_same(name, tmp_path, monkeypatch):
    by_launches(monkeypatch)
    settings, make = INPUTS[name]
    model, x = nets.build(name, seed=0, **settings).eval(), make()
    options = {"rewrite": True, "budget": 8, "cost_table": str(tmp_path / "costs.json")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)
        got, (graph,) = compiled_graphs(model, x, **options)
        expected = model(x)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert got.stride() == expected.stride()
    if name == "sru_classifier":  # R13: one product over time
        assert sum("mm" in op for op in graph) < 6


def test_weights_may_change():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 9, 9)
    fast = torch.compile(model, backend="drivetrain", options={"then": "eager", "rewrite": "always"})
    with torch.no_grad():
        before = fast(x)
        assert torch.allclose(before, model(x), atol=1e-5)
        model[0].bias.add_(1.0)
        assert torch.allclose(fast(x), model(x), atol=1e-5) and not torch.allclose(before, model(x), atol=1e-2)


@pytest.mark.parametrize(("wanted", "taken"), [(0.0, True), (0.999, False)])
def test_auto_takes_what_is_predicted_to_gain_clearly(wanted, taken, monkeypatch, tmp_path):
    from drivetrain.graph.rewrite import compiled

    by_launches(monkeypatch)
    monkeypatch.setattr(compiled, "GAIN", wanted)
    settings, make = INPUTS["sru_classifier"]
    model, x = nets.build("sru_classifier", seed=0, **settings).eval(), make()
    result, (graph,) = compiled_graphs(model, x, rewrite="auto", budget=8, cost_table=str(tmp_path / "costs.json"))
    assert (sum("mm" in op for op in graph) < 6) is taken
    with torch.no_grad():
        assert torch.allclose(result, model(x), atol=1e-5)


def test_auto_is_silent_where_nothing_can_be_rewritten():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.randn(5, 3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)
        fast = torch.compile(model, backend="drivetrain", options={"then": "eager"}, dynamic=True)
        assert torch.allclose(fast(x), model(x)) and torch.allclose(fast(x[:2]), model(x[:2]))


def test_without_values_only_what_needs_none_is_done_at_once():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    _, (graph,) = compiled_graphs(model, torch.ones(1, 3, 5, 5), rewrite="always")
    assert any("batch_norm" in op for op in graph)  # to fold it at each call is for the search to price


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


@pytest.mark.slow
def test_inductor_takes_what_was_rewritten():
    model, x = nets.build("small_cnn", seed=0).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        fast = torch.compile(model, backend="drivetrain", options={"then": "inductor", "rewrite": "always"})
        assert torch.allclose(fast(x), model(x), atol=1e-4)


def test_captures_of_a_function_are_not_frozen():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match="weights not frozen: freeze is an option of torch.compile"):
        result, _ = compiled_graphs(model, x, freeze=True)
    assert torch.allclose(result, model(x), atol=1e-6)


def test_a_failure_that_nobody_asked_for_is_a_warning(monkeypatch):
    from drivetrain.graph.rewrite import compiled

    def broken(*args):
        raise RuntimeError("no price")

    monkeypatch.setattr(compiled, "_search", broken)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match="not rewritten: RuntimeError: no price"):
        result, _ = compiled_graphs(model, x, rewrite="auto")
    assert torch.equal(result, model(x))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="no price"):
        compiled_graphs(model, x, rewrite=True)
