"""YellowFin's statistics on scripted gradients against tables, the authors' own test, and a second implementation."""

import math

import pytest
import torch

from drivetrain.optim import YellowFin

from .scripted import UNCLIPPED, feed, parameters

TABLE = {  # t: h_min, h_max, C, D, mu, rate before slow start, rate used
    1: (1, 2.000694, 0.250000, 0.799860, 0.081398, 0.510791, 0.00510791),
    2: (1, 3.304348, 0.666666, 0.675939, 0.211476, 0.291746, 0.00437619),
    3: (1, 4.904575, 1.249999, 0.590131, 0.325072, 0.184770, 0.00369540),
    4: (1, 6.797549, 1.999997, 0.526500, 0.416140, 0.125962, 0.00314904),
}


@pytest.mark.parametrize("foreach", [None, True, False])
def test_gradients_one_to_five(foreach) -> None:
    params = parameters((1,))
    optimizer = YellowFin(params, foreach=foreach, **UNCLIPPED)
    for t in range(5):
        feed(optimizer, params, [torch.tensor([t + 1.0], dtype=torch.float64)])
        if t in TABLE:
            s = optimizer.stats()
            full = optimizer.statistics.full_lr.item()
            measured = (s.h_min, s.h_max, s.variance, s.distance, s.mu, full, s.lr)
            assert measured == pytest.approx(TABLE[t], rel=1e-5)


def test_first_step_uses_the_constructors_rate_and_momentum() -> None:
    params = parameters((3,))
    before = params[0].detach().clone()
    optimizer = YellowFin(params, lr=0.25, momentum=0.5)
    feed(optimizer, params, [torch.ones(3)])
    torch.testing.assert_close(params[0].detach(), before - 0.25)
    assert (optimizer.stats().lr, optimizer.stats().mu) == (0.25, 0.5)


@pytest.mark.parametrize("zero_debias", [True, False])
def test_the_authors_measurement_test(zero_debias: bool) -> None:
    """Gradient t + 1 on n + 1 coordinates; with linear smoothing every statistic has a closed form."""
    n, beta = 10_000, 0.999
    params = parameters((n, 1), (1,))
    optimizer = YellowFin(params, log_smooth=False, zero_debias=zero_debias, **UNCLIPPED)
    h_max = h_min = norm2 = norm = mean = distance = 0.0
    for t in range(50):
        value = t + 1.0
        feed(optimizer, params, [torch.full((n, 1), value), torch.full((1,), value)])
        h_max = beta * h_max + (1 - beta) * value**2 * (n + 1)
        h_min = beta * h_min + (1 - beta) * max(1, t + 2 - 20) ** 2 * (n + 1)
        norm2 = beta * norm2 + (1 - beta) * value**2 * (n + 1)
        norm = beta * norm + (1 - beta) * value * math.sqrt(n + 1)
        mean = beta * mean + (1 - beta) * value
        distance = beta * distance + (1 - beta) * norm / norm2
        if t == 0:
            continue
        d = 1 - beta ** (t + 1) if zero_debias else 1.0
        s = optimizer.stats()
        measured = (s.h_max, s.h_min, s.variance, s.distance)
        expected = (h_max / d, h_min / d, norm2 / d - mean**2 * (n + 1) / d**2, distance / d)
        assert measured == pytest.approx(expected, rel=1e-3)


def test_momentum_step_is_heavy_ball_with_the_reported_numbers() -> None:
    """x and v follow from stats() alone: v = mu v + g, x = x - lr v."""
    params = parameters((7,))
    optimizer = YellowFin(params, **UNCLIPPED)
    generator = torch.Generator().manual_seed(5)
    v, x = torch.zeros(7, dtype=torch.float64), params[0].detach().clone()
    for _ in range(30):
        g = torch.randn(7, generator=generator, dtype=torch.float64)
        feed(optimizer, params, [g])
        s = optimizer.stats()
        v = s.mu * v + g
        x = x - s.lr * v
    torch.testing.assert_close(params[0].detach(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_nesterov_looks_ahead(foreach) -> None:
    params = parameters((7,), dtype=torch.float32)
    optimizer = YellowFin(params, nesterov=True, foreach=foreach, **UNCLIPPED)
    generator = torch.Generator().manual_seed(5)
    v, x = torch.zeros(7), params[0].detach().clone()
    for _ in range(30):
        g = torch.randn(7, generator=generator)
        feed(optimizer, params, [g])
        s = optimizer.stats()
        v = s.mu * v + g
        x = x - s.lr * (g + s.mu * v)
    torch.testing.assert_close(params[0].detach(), x)


def test_slow_start_is_a_straight_ramp_and_can_be_left_out() -> None:
    script = [torch.tensor([1.0 + t % 3]) for t in range(12)]
    ramped, steep = parameters((1,)), parameters((1,))
    slow, fast = YellowFin(ramped, window=1, **UNCLIPPED), YellowFin(steep, window=1, slow_start=0, **UNCLIPPED)
    for t, g in enumerate(script):
        feed(slow, ramped, [g])
        feed(fast, steep, [g])
        if t > 0:
            assert slow.stats().lr == pytest.approx(fast.stats().lr * min(1, (t + 1) / 10), rel=1e-12)


def test_smooth_hyper_averages_what_is_used() -> None:
    plain, smooth = parameters((1,)), parameters((1,))
    one = YellowFin(plain, **UNCLIPPED)
    two = YellowFin(smooth, smooth_hyper=True, **UNCLIPPED)
    mu = 0.0
    for t in range(20):
        g = torch.tensor([1.0 + t % 4])
        feed(one, plain, [g])
        feed(two, smooth, [g])
        if t > 0:
            mu = 0.999 * mu + 0.001 * one.stats().mu
    assert two.stats().mu == pytest.approx(mu, rel=1e-9)


def test_hyper_debias_is_the_mean_of_what_was_tuned() -> None:
    """With beta near 1 the debiased averages are plain means: of the momentum, and geometric of the rate."""
    options = {**UNCLIPPED, "beta": 0.99999, "slow_start": 0}
    plain, smooth = parameters((1,)), parameters((1,))
    one = YellowFin(plain, **options)
    two = YellowFin(smooth, smooth_hyper=True, hyper_debias=True, **options)
    momenta, logs = [], []
    for t in range(20):
        g = torch.tensor([1.0 + t % 4])
        feed(one, plain, [g])
        feed(two, smooth, [g])
        if t > 0:
            momenta.append(one.stats().mu)
            logs.append(math.log(one.stats().lr))
    assert two.stats().mu == pytest.approx(sum(momenta) / 19, rel=1e-3)
    assert two.stats().lr == pytest.approx(math.exp(sum(logs) / 19), rel=1e-3)
