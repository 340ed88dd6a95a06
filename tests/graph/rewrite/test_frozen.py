"""torch.compile(backend="drivetrain", options={"freeze": True}): every lowering, and what can't be frozen."""

import warnings

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.graph import backend, optimize
from drivetrain.graph.rewrite import candidates, frozen

INPUTS = {
    "small_cnn": ({}, lambda: torch.randn(2, 3, 32, 32)),
    "resnet20": ({}, lambda: torch.randn(1, 3, 32, 32)),
    "sru_classifier": ({"vocabulary": 50, "hidden": 32}, lambda: torch.randint(0, 50, (2, 6))),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    monkeypatch.setenv("DRIVETRAIN_CACHE", str(tmp_path))
    backend.register()
    torch._dynamo.reset()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


def compiled(model, **options):
    return torch.compile(model, backend="drivetrain", options={"freeze": True, **options})


def lost_to(name, monkeypatch):
    """Let one form be the fastest."""
    from drivetrain.base.timing import Timing

    def race(forms, values, **settings):
        assert name in forms, forms
        return {form: Timing((1.0 if form == name else 2.0,)) for form in forms}

    monkeypatch.setattr(frozen, "race", race)
    times = {"original": Timing((2.0,))}
    monkeypatch.setattr(
        candidates, "interleave", lambda forms, **rest: {form: times.get(form, Timing((1.0,))) for form in forms}
    )


@pytest.mark.parametrize("then", ["onednn", "onnxruntime", "eager"])
@pytest.mark.parametrize("name", INPUTS)
def test_networks_compute_the_same(name, then, monkeypatch):
    if then == "onnxruntime":
        pytest.importorskip("onnxscript")
    settings, make = INPUTS[name]
    model, x = nets.build(name, seed=0, **settings).eval(), make()
    seen = []
    monkeypatch.setattr(frozen, "fastest", lambda measured, first: seen.append(list(measured)) or list(measured)[-1])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)
        got, expected = compiled(model, then=then, budget=8)(x), model(x)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert got.stride() == expected.stride() and seen[0][0] == "original" and len(seen[0]) <= 2


def test_a_later_change_of_a_weight_is_not_seen(monkeypatch):
    lost_to("onednn", monkeypatch)
    model, x = net(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        fast = compiled(model, then="onednn")
        before = fast(x)
        assert torch.allclose(before, model(x), atol=1e-5)
        for weight in (*model.parameters(), model[1].running_mean):  # folded, packed, or as it was
            weight.add_(1.0)
        assert torch.equal(fast(x), before) and not torch.allclose(before, model(x), atol=1e-2)
        torch._dynamo.reset()
        assert torch.allclose(compiled(model, then="onednn")(x), model(x), atol=1e-5)
    assert backend.choices()[-1].then == "onednn"


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_images_come_back_as_they_would_have(form, monkeypatch):
    lost_to("onednn", monkeypatch)
    model, x = net(), torch.randn(2, 3, 9, 9).contiguous(memory_format=form)
    with torch.no_grad():
        got, expected = compiled(model, then="onednn")(x), model(x)
    assert got.stride() == expected.stride() and torch.allclose(got, expected, atol=1e-5)


def test_a_weight_that_no_rule_touches_is_a_constant_too(monkeypatch):
    lost_to("eager", monkeypatch)
    settings, make = INPUTS["sru_classifier"]
    model, x = nets.build("sru_classifier", seed=0, **settings).eval(), make()
    with torch.no_grad():
        fast = compiled(model, then="eager", rewrite=False)
        before = fast(x)
        model.embedding.weight.fill_(0.0)
        assert torch.equal(fast(x), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_inductor_takes_constants(name, monkeypatch):
    """Inductor's inner compiler takes none: its freezing does, on a graph that holds its weights."""
    lost_to("inductor", monkeypatch)
    settings, make = INPUTS[name]
    model, x = nets.build(name, seed=0, **settings).eval(), make()
    with torch.no_grad():
        fast = compiled(model, then="inductor", budget=8)
        got, expected = fast(x), model(x)
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
        next(model.parameters()).fill_(0.0)
        assert torch.equal(fast(x), got)
    assert backend.choices()[-1].then == "inductor"


@pytest.mark.slow
def test_everything_is_measured_against_the_form_that_is_not_frozen():
    pytest.importorskip("onnxscript")
    model, x = net(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.allclose(compiled(model)(x), model(x), atol=1e-5)
    found = backend.choices()[-1]
    assert {"original", "inductor", "not frozen"} <= set(found.measured) and len(found.measured) <= 4
    assert not found.refused and found.then in found.measured


def test_a_form_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(frozen, "fastest", lambda measured, first: list(measured)[-1])
    real = optimize

    def wrong(target, *args, **settings):
        result = real(target, *args, **settings)
        module, result.then = result.module, "onednn"
        result.module = lambda *inputs: tuple(value + 1 for value in module(*inputs))
        return result

    monkeypatch.setattr(frozen, "optimize", wrong)
    model, x = net(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(compiled(model, then="onednn")(x), model(x))
    found = backend.choices()[-1]
    assert found.then == "original" and "differs by" in found.refused["onednn"]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


def test_what_cannot_be_frozen_is_told_and_runs():
    x = torch.randn(2, 3)
    model = Counting()
    with torch.no_grad(), pytest.warns(UserWarning, match="weights not frozen: the program writes") as caught:
        fast = compiled(model, then="eager")
        assert torch.equal(fast(x), model.linear(x) * 1) and torch.equal(fast(x), model.linear(x) * 2)
    assert sum("frozen" in str(entry.message) for entry in caught) == 1 and model.calls == 2


def test_wanted_gradients_and_varying_sizes_keep_weights_as_arguments():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.randn(5, 3)
    with pytest.warns(UserWarning, match=r"gradients are wanted; call the model under torch.no_grad\(\)"):
        compiled(model, then="eager")(x).sum().backward()
    assert model[0].weight.grad is not None
    torch._dynamo.reset()
    with torch.no_grad(), pytest.warns(UserWarning, match="weights not frozen: sizes that may vary .*dynamic=False"):
        fast = torch.compile(
            model, backend="drivetrain", options={"freeze": True, "then": "eager"}, dynamic=True
        )  # fmt: skip
        assert torch.allclose(fast(x), model(x))
