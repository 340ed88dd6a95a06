"""The simulated clock: section 5 items 3 and 8, and real training of digits under it."""

import math

import pytest
import torch

from drivetrain.comm.sync import Simulation, digits_mlp, expected_max_mean, exponential, quadratic, simulate, speedup
from drivetrain.comm.sync.problems import noise_generator


@pytest.mark.parametrize(("alpha", "tau"), [(0.9, 4), (4.0, 10), (4.0, 100), (0.5, 4)])
def test_speedup_with_constant_delays_is_the_formula(alpha, tau):
    problem = quadratic(dim=2)
    sync, local = (simulate(f"fixed:{period}", problem, D=alpha, T=1e6, max_steps=400) for period in (1, tau))
    assert sync.steps == local.steps == 400
    assert sync.seconds_per_step / local.seconds_per_step == pytest.approx(speedup(alpha, tau), rel=1e-12)
    assert local.communication_share == pytest.approx(alpha / (tau + alpha))


def test_stragglers_are_averaged_out():
    run = simulate("fixed:10", quadratic(dim=2), Y=exponential(), D=0.0, T=1e9, max_steps=20_000)
    assert run.seconds_per_step == pytest.approx(expected_max_mean(4, 10), rel=0.02)


def test_workers_without_noise_stay_identical():
    problem = quadratic(dim=5, sigma=0.0)
    fast, slow = (simulate(rule, problem, D=0.0, T=1e9, max_steps=60) for rule in ("fixed:1", "fixed:20"))
    assert fast.losses[-1] == pytest.approx(0.5 * 5 * 0.95**120, rel=1e-9)
    assert slow.losses[-1] == pytest.approx(fast.losses[-1], rel=1e-9), "averaging is a no-op"


def test_variance_of_the_workers_is_the_closed_form():
    """Var(x_i - mean) = eta² sigma² (1 - 1/m) (1 - (1 - eta)^(2 tau)) / (1 - (1 - eta)²), 5 % over 1e4 draws."""
    m, tau, eta, sigma = 4, 12, 0.05, 1.3
    problem = quadratic(dim=10_000, sigma=sigma, lr=eta)
    x = torch.ones(m, 10_000, dtype=torch.float64)
    generator = noise_generator(3, "batches")
    for _ in range(tau):
        gradients, _ = problem.step({"x": x}, generator)
        x = x - eta * gradients["x"]
    wanted = eta**2 * sigma**2 * (1 - 1 / m) * (1 - (1 - eta) ** (2 * tau)) / (1 - (1 - eta) ** 2)
    assert float((x - x.mean(0)).square().mean()) == pytest.approx(wanted, rel=0.05)


def test_adacomm_reaches_a_loss_of_digits_in_less_time_than_synchronous_sgd():
    """D / Y = 4; the median of three seeds, for one crossing of a noisy curve tells little."""
    ratios = []
    for seed in range(3):
        sync, ours = (simulate(rule, digits_mlp(), T=1800.0, seed=seed) for rule in ("fixed:1", "adacomm:20,150"))
        ratios.append(sync.seconds_to(0.1) / ours.seconds_to(0.1))
        periods = [tau for _, tau in ours.periods]
        assert sync.losses[0] == ours.losses[0] and periods == sorted(periods, reverse=True) and periods[-1] == 1
    assert sorted(ratios)[1] >= 1.8, ratios


def test_equal_seeds_give_equal_runs():
    first, again, other = (simulate("adacomm-plateau", digits_mlp(), T=120.0, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.losses != other.losses


def test_seconds_to_a_loss_that_stays():
    run = Simulation("x", seconds=[0.0, 1.0, 2.0, 3.0], losses=[2.0, 0.4, 0.6, 0.3])
    assert run.seconds_to(0.5) == 3.0 and run.seconds_to(0.6) == 1.0 and math.isinf(run.seconds_to(0.1))


@pytest.mark.parametrize(("options", "words"), [({"m": 0}, "m=0"), ({"T": 0}, "T=0"), ({"D": -1.0}, "D=-1.0")])
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        simulate("fixed:2", quadratic(), **options)
