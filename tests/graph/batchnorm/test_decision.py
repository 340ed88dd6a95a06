"""Nobody loses: forms are raced, the model itself is kept unless another is faster, and the plan says so."""

import copy
import io

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.graph.batchnorm import BNPlan, choose, decision, patch_, restructure
from drivetrain.graph.batchnorm.patch import Form, is_patched

X = torch.randn(2, 3, 16, 16)


def small():
    torch.manual_seed(0)
    return nets.CifarResNet(8)


@pytest.fixture
def race(monkeypatch):
    """Seconds as the test says, instead of measured ones; every edge pays unless named."""

    def set_to(seconds, poor=()):
        monkeypatch.setattr(decision, "race", lambda steps: {n: seconds.get(n, 9.0) for n in steps if steps[n]() > 0})
        monkeypatch.setattr(choose.Chooser, "edge_pays", lambda self, found, *rest: found.edge.bn not in poor)
        monkeypatch.setattr(choose, "default_path", lambda: None)

    return set_to


def test_a_model_that_gains_nothing_runs_as_it_is(race):
    race({"as it is": 1.0, "restructured": 0.99, "restructured, channels_last": 2.0, "as it is, channels_last": 1.5})
    model, twin = small(), small()
    plan = patch_(model, example=X)
    assert not any(edge.applied for edge in plan) and plan.level == "off" and plan.layout == "given"
    assert plan[0].reason == "measured: as it is is faster (restructured 1.01x)"
    assert torch.equal(model(X), twin(X))


@pytest.mark.parametrize(
    ("fastest", "level", "layout"),
    [
        ("restructured", "bnff", "given"),
        ("restructured, channels_last", "bnff", "channels_last"),
        ("as it is, channels_last", "off", "channels_last"),
    ],
)
def test_the_fastest_form_is_taken(race, fastest, level, layout):
    race({"as it is": 1.0, fastest: 0.5})
    model, twin = small(), small()
    plan = patch_(model, example=X)
    assert (plan.level, plan.layout) == (level, layout)
    assert all(edge.applied == (level == "bnff") for edge in plan) and plan.seconds[fastest] == 0.5
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    y, wanted = model(X), twin(X)
    assert y.is_contiguous()
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    fused = sum(edge.conv is not None for edge in plan)
    assert sum(edge.sweeps_before - edge.sweeps_after for edge in plan) == (11 * fused if level == "bnff" else 0)
    assert plan[0].feature_bytes == 2 * 16 * 16 * 16 * 4


def test_edges_that_do_not_pay_are_left_out_if_the_whole_gains(race):
    poor = small()
    names = [edge.bn for edge in restructure(poor)[1]]
    race({"as it is": 1.0, "restructured": 0.97, "edge by edge": 0.9}, poor=names[2:4])
    plan = patch_(poor, example=X)
    assert [edge.bn for edge in plan if not edge.applied] == names[2:4]
    assert plan[2].reason == "measured: the fused form is no faster here" and "ms a step" in plan.report()


@pytest.mark.parametrize(("whole", "single"), [(0.94, 0.5), (0.97, 0.965)])
def test_edges_are_not_singled_out_for_little(race, whole, single):
    """Where the whole gains clearly they are not asked; a hundredth is left for what the whole does not keep."""
    model = small()
    names = [edge.bn for edge in restructure(model)[1]]
    race({"as it is": 1.0, "restructured": whole, "edge by edge": single}, poor=names[2:4])
    assert all(edge.applied for edge in patch_(model, example=X))


def test_without_an_example_the_first_training_step_decides(race):
    race({"as it is": 1.0, "restructured": 0.5})
    model = small()
    before = copy.deepcopy(model.state_dict())
    plan = patch_(model)
    assert not plan.decided and "first training step decides" in plan.report()
    model.eval()(X)
    with torch.no_grad():
        model.train()
    assert not plan.decided
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    for key, value in before.items():
        assert torch.equal(value, model.state_dict()[key])
    model(X).sum().backward()
    assert plan.decided and all(edge.applied for edge in plan) and isinstance(plan, BNPlan)
    # Measuring ran on copies: one step's running statistics, no random numbers taken, no gradients of its own.
    assert torch.equal(torch.rand(3), wanted) and int(next(b for k, b in model.named_buffers() if "tracked" in k)) == 1
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for made in (twin, torch.load(file, weights_only=False)):
        assert is_patched(made) and made.__dict__["forward"].form == Form("bnff")


def test_measured_for_real():
    """No clock is asserted: the forms that were timed are there, and the choice is the fastest or the model's own."""
    model = small()
    plan = patch_(model, example=X)
    assert {"as it is", "restructured", "as it is, channels_last", "restructured, channels_last"} <= set(plan.seconds)
    assert min(plan.seconds.values()) > 0 and plan.decided
    best = min(plan.seconds.values())
    applied = any(edge.applied for edge in plan)
    assert not applied or best <= decision.LEAST * plan.seconds["as it is"]
    model(X).sum().backward()


def test_fewer_images_keep_the_kernels():
    assert [len(decision.fewer_images((torch.zeros(n, 1, 2, 2),))[0]) for n in (1, 8, 15, 16, 64)] == [1, 8, 8, 16, 16]


def test_a_hopeless_form_is_run_twice_only():
    calls = {"good": 0, "bad": 0}

    def run(name, seconds):
        calls[name] += 1
        return seconds

    decision.race({"good": lambda: run("good", 1.0), "bad": lambda: run("bad", 2.0)})
    assert calls == {"good": 4, "bad": 2}


def test_bad_level():
    with pytest.raises(InvalidValue, match="bnff"):
        patch_(small(), level="bnf")
