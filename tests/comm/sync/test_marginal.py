"""The default rule: tau = sqrt(kappa D / Y), kappa from what averagings win; and how those are measured."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.base.errors import DrivetrainError
from drivetrain.comm.sync import AdaComm, Controller, LocalState, Marginal, Problem, simulate
from drivetrain.comm.sync.decision import OUT_OF_STEP, Chair, Decision, Note
from drivetrain.comm.sync.measure import Ewma, Losses


def state(**more):
    return LocalState(**{"tau": 20, "tau0": 10, "y": 1.0, "d": 4.0, "gain": 0.5, "gain_steps": 20.0, **more})


def test_the_first_period_stands_until_both_times_are_known():
    assert Marginal().next(state(tau=10, y=0.0)) == 10 and Marginal().next(state(tau=10, d=0.0)) == 10


def test_known_answers():
    rule = Marginal(kappa0=30.0, scale=1.5)
    assert rule.next(state(gain_steps=0.0)) == 11, "sqrt(30 * 4)"
    assert rule.next(state(gain_steps=0.0, d=64.0)) == 44, "sqrt(30 * 64), at once"
    assert rule.next(state()) == 15, "kappa = 1.5 * 20 / 0.5 = 60: sqrt(60 * 4)"
    assert rule.next(state(gain=2.0)) == 10, "never to less than half at once: sqrt(15 * 4) = 8"
    assert rule.next(state(gain=0.01)) == 31, "never by more than half and one: sqrt(300 * 4) = 35"
    assert rule.next(state(tau=30, gain=-0.3)) == 35, "a loss that rose is noise: J counts for 0.1 at least"
    assert Marginal(max=12).next(state()) == 12 and Marginal(min=17).next(state()) == 17


@given(gain=st.floats(-1, 100), steps=st.floats(0, 1000), alpha=st.floats(0, 1e4), tau=st.integers(1, 10_000))
def test_every_answer_is_a_period(gain, steps, alpha, tau):
    answer = Marginal().next(state(tau=tau, gain=gain, gain_steps=steps, d=alpha))
    assert isinstance(answer, int) and answer >= 1


def test_a_dearer_averaging_means_a_longer_period_and_a_larger_gain_a_shorter_one():
    periods = [Marginal().next(state(d=d)) for d in (1.0, 4.0, 9.0)]
    assert periods == sorted(periods) and periods[0] < periods[-1]
    periods = [Marginal().next(state(gain=gain)) for gain in (0.3, 0.6, 1.2)]
    assert periods == sorted(periods, reverse=True) and periods[0] > periods[-1]


def test_each_gain_counts_with_the_period_that_led_to_it():
    seen = []

    class Spy:
        tau0, interval_s, name = 4, 0.0, "spy"

        def next(self, s):
            seen.append((s.gain, s.gain_steps))
            return 8

    controller = Controller(Spy(), lr0=1.0)
    for steps, before, after in ((4, None, 2.0), (8, 1.5, 1.0), (16, 1.2, 1.0)):
        controller.decide(t=0, step=0, steps=steps, loss=1.0, before=before, after=after, lr=1.0)
    assert controller.loss0 == 2.0, "F_0 is the first loss of the run"
    assert seen[0] == (0.0, 0.0)
    assert seen[1] == (pytest.approx(0.5), 4), "the averaging before, after 4 steps"
    assert seen[2] == (pytest.approx((0.8 * 1.5 + 1.2) / 1.8 - 1), pytest.approx((0.8 * 4 + 8) / 1.8))


def test_losses_before_and_after_an_averaging():
    losses = Losses()
    losses.add(3.0)
    losses.add(torch.tensor([2.0, 4.0]))
    assert losses.take() == (3.0, None, 3.0), "at first: no averaging yet, and the first loss of the run"
    losses.averaged()
    assert losses.take() == (None, 3.0, None)
    losses.add(1.0)
    saved = losses.state_dict()
    losses.add(0.5)
    assert losses.take() == (0.75, 3.0, 1.0)
    again = Losses()
    again.load_state_dict(saved)
    again.add(0.5)
    assert again.take() == (0.75, 3.0, 1.0)


def test_the_mean_of_times_has_no_bias_of_its_start():
    mean = Ewma(0.9, guess=7.0)
    assert mean.value == 7.0
    for value in (1.0, 3.0):
        mean.add(value)
    assert mean.value == pytest.approx((0.9 * 1 + 3) / 1.9)


def notes(**columns):
    rows = [Note(**{name: values[rank] for name, values in columns.items()}) for rank in range(3)]
    return torch.stack([row.tensor() for row in rows])


def decide(chair, table):
    answer = chair.decide(table, t=0.0, step=8, lr=1.0, spread=(0.0, 0.0))
    return Decision(*answer.tolist())


def test_the_slowest_step_and_the_shortest_averaging_count():
    chair = Chair(Controller(Marginal(), lr0=1.0))
    found = decide(chair, notes(loss=(1.0, 2.0, 3.0), y=(1.0, 2.0, 1.0), d=(9.0, 8.0, 9.0), steps=(5, 5, 5)))
    assert (found.loss, found.y, found.d) == (2.0, 2.0, 8.0)


def test_a_hostile_rank_steers_no_decision():
    """One of three ranks lies about everything; with f = 1 the answer is as if it had said what the others say."""
    lies = notes(loss=(1.0, 1.0, 1e30), y=(2.0, 2.0, 1e9), d=(8.0, 8.0, 0.0), syncs=(3, 3, 77), steps=(5, 5, 5))
    found = decide(Chair(Controller(AdaComm(interval_s=0.0), lr0=1.0), f=1), lies)
    assert found.verdict == 0 and (found.loss, found.y, found.d) == (1.0, 2.0, 8.0)
    assert decide(Chair(Controller(AdaComm(interval_s=0.0), lr0=1.0)), lies).verdict == OUT_OF_STEP


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tau0": 0}, "tau0=0"),
        ({"scale": 0}, "scale=0"),
        ({"kappa0": -1.0}, "kappa0=-1.0"),
        ({"least_gain": 0.0}, "least_gain=0.0"),
        ({"interval_s": -1}, "interval_s=-1"),
        ({"min": 4, "max": 2}, "max=2"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(DrivetrainError) as refusal:
        Marginal(**options)
    assert words in str(refusal.value)


@pytest.mark.parametrize(("strayed", "least", "most"), [(1.0, 58, 61), (10.0, 1, 4)])
def test_what_averaging_wins_sets_the_period(strayed, least, most):
    """Local steps have a loss of 1 right after an averaging and of `strayed` later: J is 0, or 9."""

    def step(params, generator):
        averaged = bool(torch.all(params["x"] == params["x"][0]))
        move = torch.randn(params["x"].shape, generator=generator, dtype=torch.float64)
        return {"x": move}, torch.full((len(params["x"]),), 1.0 if averaged else strayed, dtype=torch.float64)

    problem = Problem("known", lambda seed: {"x": torch.zeros(1, dtype=torch.float64)}, step, lambda params: 1.0, 0.01)
    run = simulate("marginal", problem, D=4.0, T=float("inf"), max_steps=3000)
    assert least <= run.periods[-2][1] <= most, "J = 0: scale / least_gain * D / Y = 60"
