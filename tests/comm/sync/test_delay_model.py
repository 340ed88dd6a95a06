"""Every number of the spec's sections 2.2 and 2.3."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.comm.sync import (
    averaging_seconds,
    bound,
    bound_holds,
    expected_max_exponential,
    expected_max_mean,
    propose_tau0,
    seconds_per_step,
    speedup,
    tau_star,
)

UNIT = {"eta": 0.08, "L": 1.0, "sigma2": 1.0, "gap": 1.0, "D": 1.0}


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.9, (1.551, 1.743, 1.883)), (4.0, (2.5, 3.571, 4.808)), (0.5, (1.333, 1.429, 1.493))],
)
def test_speedup(alpha, expected):
    assert [speedup(alpha, tau) for tau in (4, 10, 100)] == pytest.approx(expected, abs=1e-3)
    assert speedup(alpha, 1) == 1
    assert speedup(alpha, 1e9) == pytest.approx(1 + alpha)


def test_the_largest_of_exponential_times():
    assert expected_max_exponential(4) == pytest.approx(2.0833, abs=1e-4)
    assert expected_max_exponential(16) == pytest.approx(3.3807, abs=1e-4)
    assert expected_max_mean(4, 1) == pytest.approx(expected_max_exponential(4), rel=1e-5)
    assert expected_max_mean(4, 10) == pytest.approx(1.340, abs=1e-3)
    assert expected_max_mean(1, 7, y=3.0) == pytest.approx(3.0, rel=1e-5)


def test_the_integral_agrees_with_a_draw():
    draws = torch.empty(100_000, 4, 10).exponential_(generator=torch.Generator().manual_seed(0))
    assert float(draws.mean(2).max(1).values.mean()) == pytest.approx(expected_max_mean(4, 10), rel=0.02)


def test_seconds_of_a_step():
    assert seconds_per_step(10, 1.0, 4.0) == pytest.approx(1.4)
    assert seconds_per_step(10, 1.0, 4.0, m=4, compute="exponential") == pytest.approx(1.74, abs=1e-3)
    assert averaging_seconds(1.0, 8, "tree") == 6 and averaging_seconds(1.0, 4, "ring") == 1.5


@pytest.mark.parametrize(
    ("seconds", "best", "values"),
    [
        (100, 6.25, {1: 0.5050, 2: 0.3864, 5: 0.3306, 10: 0.3376, 20: 0.3891}),
        (1000, 1.976, {1: 0.0550 + 0.0, 2: 0.0489, 5: 0.0606, 10: 0.0901, 20: 0.1529}),
        (4000, 0.988, {1: 0.0175}),
    ],
)
def test_bound_and_its_minimum(seconds, best, values):
    assert tau_star(seconds, **UNIT) == pytest.approx(best, abs=1e-3)
    for tau, expected in values.items():
        assert bound(seconds, tau, m=16, Y=1.0, **UNIT) == pytest.approx(expected, abs=1e-4)


@given(seconds=st.floats(10, 1e4), eta=st.floats(0.01, 0.2), sigma2=st.floats(0.1, 10), d=st.floats(0.1, 10))
def test_the_best_whole_tau_is_beside_tau_star(seconds, eta, sigma2, d):
    terms = {"eta": eta, "L": 1.0, "sigma2": sigma2, "gap": 1.0, "D": d}
    best = tau_star(seconds, **terms)
    around = range(1, int(best) + 3)
    found = min(around, key=lambda tau: bound(seconds, tau, m=4, Y=1.0, **terms))
    assert found in (max(1, int(best)), int(best) + 1)


def test_where_the_bound_is_proven():
    assert bound_holds(10, eta=0.08, L=1.0) and not bound_holds(20, eta=0.08, L=1.0)


@given(alpha=st.floats(0, 1000))
def test_proposed_period_is_the_smallest_that_reaches_the_share(alpha):
    tau = propose_tau0(alpha)
    assert speedup(alpha, tau) >= 0.9 * (1 + alpha) * (1 - 1e-9)
    assert tau == 1 or speedup(alpha, tau - 1) < 0.9 * (1 + alpha)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: speedup(-1, 4), "alpha=-1"),
        (lambda: speedup(1, 0), "tau=0"),
        (lambda: propose_tau0(1, share=1.0), "share=1.0"),
        (lambda: seconds_per_step(1, 1, 1, compute="gamma"), "compute='gamma'"),
        (lambda: averaging_seconds(1, 2, "star"), "shape='star'"),
        (lambda: tau_star(0, **UNIT), "T=0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
