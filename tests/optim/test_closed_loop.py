"""Closed loop: the estimator of total momentum on quadratics, and the loop that holds it at the target."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drivetrain.base.errors import InvalidValue
from drivetrain.optim import StaleGradients, YellowFin, measure_total_momentum
from drivetrain.optim.momentum_sensor import MomentumSensor, feed_back

CURVATURES = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)


def heavy_ball(staleness: int, steps: int, rates: list[float], momentum: float) -> list[float]:
    """Total momentum by the sensor after each step of momentum SGD on a quadratic, gradients `staleness` steps old."""
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    v = torch.zeros(3, dtype=torch.float64)
    stale = StaleGradients([x], staleness)
    sensor = MomentumSensor([3], staleness, 65536, torch.device("cpu"))
    measured = []
    for t in range(steps + staleness):
        x.grad = CURVATURES * x.detach()
        if not stale.exchange():
            continue
        rate = torch.tensor(rates[t % len(rates)], dtype=torch.float64)
        sensor.begin([x.detach()])
        v = momentum * v + x.grad
        with torch.no_grad():
            x -= rate * v
        measured.append(sensor.measure([x.detach()], [x.grad], 1.0, [rate]).item())
    return measured


@settings(max_examples=20, deadline=None)
@given(momentum=st.floats(0.05, 0.95), rates=st.lists(st.floats(0.01, 0.1), min_size=1, max_size=5))
def test_without_staleness_the_estimate_is_the_momentum(momentum: float, rates: list[float]) -> None:
    """Also while the rate changes from step to step."""
    measured = heavy_ball(0, 40, rates, momentum)
    assert all(math.isnan(value) for value in measured[:1])
    assert measured[2:20] == pytest.approx([momentum] * 18, abs=1e-9)


@pytest.mark.parametrize(("staleness", "steady"), [(1, 0.5050), (3, 0.5152), (7, 0.5362)])
def test_staleness_adds_the_known_momentum(staleness: int, steady: float) -> None:
    measured = heavy_ball(staleness, 300, [0.01], 0.5)
    assert measured[-1] == pytest.approx(steady, abs=5e-5)


def test_pure_function_agrees_with_the_definition() -> None:
    x_prev, x_s = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([2.0, -0.5, 2.0])
    grad = torch.tensor([4.0, -2.0, 9.0])
    x_new = x_s + 0.7 * (x_s - x_prev) - 0.1 * grad
    assert measure_total_momentum(x_new, x_s, x_prev, grad, 0.1) == pytest.approx(0.7, rel=1e-6)
    assert math.isnan(measure_total_momentum(x_s, x_s, x_s, grad, 0.1))


@pytest.mark.parametrize("staleness", [1, 3, 7])
@pytest.mark.parametrize("target", [0.1, 0.5, 0.8])
def test_the_loop_brings_total_momentum_to_a_steady_target(staleness: int, target: float) -> None:
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    v = torch.zeros(3, dtype=torch.float64)
    stale = StaleGradients([x], staleness)
    sensor = MomentumSensor([3], staleness, 65536, torch.device("cpu"))
    mu, rate, goal = torch.tensor([0.5, 0.01, target], dtype=torch.float64).unbind()
    total = torch.tensor(math.nan)
    for _ in range(1000):
        x.grad = CURVATURES * x.detach()
        if not stale.exchange():
            continue
        sensor.begin([x.detach()])
        v = mu * v + x.grad
        with torch.no_grad():
            x -= rate * v
        total = sensor.measure([x.detach()], [x.grad], 1.0, [rate])
        mu = feed_back(mu, goal, total, 0.01)
    assert total.item() == pytest.approx(target, abs=0.02)
    assert mu < goal, "staleness adds momentum, so the algorithm's own must be below the target"


def test_negative_momentum_undoes_staleness_and_is_bounded() -> None:
    mu, low = torch.tensor(0.0), torch.tensor(-1.0)
    assert feed_back(mu, low, torch.tensor(5.0), 0.1).item() == pytest.approx(-0.6)
    assert feed_back(mu, low, torch.tensor(500.0), 0.1).item() == pytest.approx(-0.99)
    assert feed_back(mu, low, torch.tensor(math.nan), 0.1).item() == 0.0


@pytest.mark.parametrize("staleness", [1, 7])
def test_yellowfin_holds_the_total_on_a_noisy_quadratic(staleness: int) -> None:
    """Over 1,000 steps after the target has settled, the measured total is the target on average."""
    generator = torch.Generator().manual_seed(0)
    curvatures = torch.linspace(0.1, 2.0, 200, dtype=torch.float64)
    x = nn.Parameter(torch.ones(200, dtype=torch.float64))
    optimizer = YellowFin([x], staleness=staleness)
    stale = StaleGradients([x], staleness)
    gaps, lowered = [], []
    for step in range(2200):
        noise = torch.randn(200, generator=generator, dtype=torch.float64)
        x.grad = curvatures * x.detach() + 0.05 * noise
        if stale.exchange():
            optimizer.step()
            if step >= 1200:
                s = optimizer.stats()
                gaps.append(s.total_momentum - s.mu_target)
                lowered.append(s.mu_target - s.mu)
    assert abs(sum(gaps) / len(gaps)) < 0.02
    assert sum(lowered) / len(lowered) > 0


def test_large_models_are_sampled_and_the_sample_is_stable() -> None:
    one = MomentumSensor([100_000, 7, 300_000], 1, 1000, torch.device("cpu"))
    two = MomentumSensor([100_000, 7, 300_000], 1, 1000, torch.device("cpu"))
    count = sum(len(index) for index in one.indices)
    assert 980 <= count <= 1000
    assert all(torch.equal(a, b) for a, b in zip(one.indices, two.indices, strict=True))
    assert all(int(i.max()) < n for i, n in zip(one.indices, (100_000, 7, 300_000), strict=True) if len(i))


def test_stale_gradients_come_back_in_order() -> None:
    p = nn.Parameter(torch.zeros(1))
    stale = StaleGradients([p], 2)
    seen = []
    for t in range(5):
        p.grad = torch.tensor([float(t)])
        if stale.exchange():
            seen.append(p.grad.item())
    assert seen == [0, 1, 2]
    with pytest.raises(InvalidValue, match="staleness"):
        StaleGradients([p], -1)


def test_closed_loop_needs_the_same_parameters_at_every_step() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = YellowFin([a, b], staleness=1)
    a.grad, b.grad = torch.ones(2), torch.ones(3)
    optimizer.step()
    b.grad = None
    with pytest.raises(InvalidValue, match="same 2 parameters"):
        optimizer.step()
