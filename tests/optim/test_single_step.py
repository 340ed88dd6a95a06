"""SingleStep: the table of known answers, the root, and the limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.base.errors import InvalidValue
from drivetrain.optim import single_step
from drivetrain.optim.single_step import noise_root

KNOWN = [  # D, C, h_min, p, x, mu
    (1, 1, 1, 0.5, 0.410245487699, 0.168301360177),
    (2, 1, 1, 2, 0.229083002941, 0.052479022236),
    (1, 4, 0.5, 0.03125, 0.717956525410, 0.515461572378),
    (0.1, 10, 0.1, 5e-6, 0.982997706730, 0.966284491436),
]
positive = st.floats(1e-6, 1e6)


@pytest.mark.parametrize(("distance", "variance", "h_min", "p", "x", "mu"), KNOWN)
def test_known_answers(distance, variance, h_min, p, x, mu) -> None:
    assert distance**2 * h_min**2 / (2 * variance) == pytest.approx(p)
    assert noise_root(torch.tensor(p, dtype=torch.float64)).item() == pytest.approx(x, abs=1e-12)
    found, rate = single_step(distance, variance, h_min, h_min)
    assert found == pytest.approx(mu, abs=1e-11)
    assert rate == pytest.approx((1 - x) ** 2 / h_min, rel=1e-9)


@given(st.floats(-25, 25))
def test_root_solves_the_cubic_over_fifty_orders_of_magnitude(exponent: float) -> None:
    p = 10**exponent
    x = noise_root(torch.tensor(p, dtype=torch.float64)).item()
    assert 0 < x < 1
    assert abs(p * x - (1 - x) ** 3) < 1e-12


def test_large_p_keeps_its_digits() -> None:
    """The closed form alone gives 1.99988002e-5 here."""
    assert noise_root(torch.tensor(5e4, dtype=torch.float64)).item() == pytest.approx(1.99988001e-5, rel=1e-8)


@given(distance=positive, variance=positive, h_min=positive, ratio=st.floats(1, 1e6))
def test_momentum_and_rate_cover_the_robust_region(distance, variance, h_min, ratio) -> None:
    """Both ends of the curvature range lie where the momentum operator contracts by sqrt(mu)."""
    h_max = h_min * ratio
    mu, rate = single_step(distance, variance, h_min, h_max)
    assert 0 <= mu < 1
    root = math.sqrt(mu)
    assert rate == pytest.approx((1 - root) ** 2 / h_min, rel=1e-9)
    assert rate * h_max <= (1 + root) ** 2 * (1 + 1e-9)


@given(distance=positive, h_min=positive, ratio=st.floats(1, 1e6))
def test_without_noise_the_curvature_range_alone_rules(distance, h_min, ratio) -> None:
    root = math.sqrt(ratio)
    mu, _ = single_step(distance, 0.0, h_min, h_min * ratio)
    assert mu == pytest.approx(((root - 1) / (root + 1)) ** 2, rel=1e-6, abs=1e-20)


def test_tensors_give_tensors_and_the_same_numbers() -> None:
    values = (0.3, 2.0, 0.7, 5.0)
    tensors = [torch.tensor(value, dtype=torch.float64) for value in values]
    mu, rate = single_step(*tensors)
    assert mu.dtype == rate.dtype == torch.float64
    assert (mu.item(), rate.item()) == single_step(*values)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((-1.0, 1.0, 1.0, 1.0), "distance"),
        ((1.0, math.nan, 1.0, 1.0), "variance"),
        ((1.0, 1.0, 0.0, 1.0), "h_min"),
        ((1.0, 1.0, 2.0, 1.0), "h_max"),
    ],
)
def test_bad_statistics_are_named(arguments, word) -> None:
    with pytest.raises(InvalidValue, match=word):
        single_step(*arguments)
