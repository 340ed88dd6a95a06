"""The path that never reads a value on the host, which accelerators run: here on the CPU and on the meta device."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from drivetrain.optim import NonFiniteGradient, YellowFin

from .scripted import feed, gradients, parameters, run

SHAPES = [(3, 4), (5,), (2, 8, 3, 3)]
READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


@pytest.fixture
def patient(monkeypatch) -> None:
    """YellowFin believes that its parameters are on a device that it must not wait for."""
    monkeypatch.setattr("drivetrain.optim.work.reads_are_free", lambda device: False)


class NoReads(TorchDispatchMode):
    """Fails on any operation that hands a value to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert name not in READS, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options", [{}, {"staleness": 2}, {"smooth_hyper": True, "weight_decay": 0.1}, {"nesterov": True}]
)
@pytest.mark.parametrize("foreach", [True, False])
def test_the_patient_path_takes_the_same_steps_without_a_read(options, foreach, monkeypatch) -> None:
    script = gradients(40, *SHAPES, dtype=torch.float32)
    script[30] = [g * 50 for g in script[30]]
    script.insert(0, [torch.zeros(s) for s in SHAPES])
    expected, reference = run(SHAPES, script, torch.float32, foreach=foreach, **options)
    monkeypatch.setattr("drivetrain.optim.work.reads_are_free", lambda device: False)
    params = parameters(*SHAPES, dtype=torch.float32)
    optimizer = YellowFin(params, foreach=foreach, **options)
    for grads in script:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        with NoReads():
            optimizer.step()
    for a, b in zip(params, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert optimizer.stats().h_max == pytest.approx(reference.stats().h_max, rel=1e-5)
    assert optimizer.stats().lr == pytest.approx(reference.stats().lr, rel=1e-4)


def test_a_step_on_the_meta_device_runs() -> None:
    """There are no values on it: a read would raise."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = YellowFin(model.parameters(), staleness=1, sample=10)
    for _ in range(5):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_is_skipped_and_reported_at_the_next_step(patient, bad: float) -> None:
    script = gradients(20, *SHAPES, dtype=torch.float32)
    params = parameters(*SHAPES, dtype=torch.float32)
    optimizer = YellowFin(params)
    for grads in script[:10]:
        feed(optimizer, params, grads)
    before = [p.detach().clone() for p in params]
    average = optimizer.state[params[1]]["gradient_average"].clone()
    known = optimizer.statistics.values()
    feed(optimizer, params, [script[10][0], torch.full((5,), bad), script[10][2]])
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert torch.equal(optimizer.state[params[1]]["gradient_average"], average)
    assert all(torch.equal(value, known[name]) for name, value in optimizer.statistics.values().items())
    with pytest.raises(
        NonFiniteGradient, match=r"parameter 1 \(shape \(5,\)\) is not finite at step 11; that step was skipped"
    ):
        feed(optimizer, params, script[11])
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    feed(optimizer, params, script[11])
    assert optimizer.stats().step == 11


def test_found_inf_skips_without_a_report(patient) -> None:
    script = gradients(6, *SHAPES, dtype=torch.float32)
    params = parameters(*SHAPES, dtype=torch.float32)
    optimizer = YellowFin(params)
    feed(optimizer, params, script[0])
    before = [p.detach().clone() for p in params]
    optimizer.found_inf = torch.ones(1)
    feed(optimizer, params, [g * math.inf for g in script[1]])
    del optimizer.found_inf
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    feed(optimizer, params, script[2])
    assert optimizer.stats().step == 2


def test_a_compiled_step_is_the_plain_step() -> None:
    script = gradients(6, *SHAPES, dtype=torch.float32)
    expected, _ = run(SHAPES, script, torch.float32)
    params = parameters(*SHAPES, dtype=torch.float32)
    optimizer = YellowFin(params)

    @torch.compile(backend="eager")
    def step(grads) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad * 1.0
        optimizer.step()

    for grads in script:
        step(grads)
    for a, b in zip(params, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
