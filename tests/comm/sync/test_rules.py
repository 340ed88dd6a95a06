"""The period rules: the spec's traces (2.4), Paddle's formula by hand (2.5), properties, bad input."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.base.errors import DrivetrainError
from drivetrain.comm.sync import QSR, AdaComm, AdaCommPlateau, Controller, Fixed, LocalState, PostLocal, get, names


def trace(rule, losses, first=2.3, lr=1.0):
    """tau after each interval of a run at a constant learning rate."""
    controller = Controller(rule, lr0=lr)
    found = []
    for interval, loss in enumerate(losses):
        t = (interval + 1) * rule.interval_s
        found.append(controller.decide(t=t, step=interval, steps=1, loss=loss, after=first, lr=lr))
    return found


def test_trace_where_saturation_decides_every_step():
    losses = [2.3, 1.2, 1.15, 0.5, 0.49, 0.06, 0.05]
    assert trace(AdaComm(tau0=20), losses) == [10, 5, 3, 2, 1, 1, 1]


def test_trace_without_saturation():
    assert trace(AdaComm(tau0=20), [0.5, 0.1, 0.02]) == [10, 5, 2]


def test_a_rule_without_gamma_keeps_the_period():
    assert trace(AdaComm(tau0=20, gamma=1.0), [2.3, 2.3, 0.5, 2.0]) == [20, 20, 10, 10]


def test_learning_rate_coupling_at_a_decay_by_ten():
    state = LocalState(tau=5, tau0=20, loss=0.1, loss0=2.3, lr=0.1, lr0=1.0, lr_before=1.0)
    assert [AdaComm(tau0=20, lr_coupling=c).candidate(state) for c in ("none", "linear", "cubic")] == [5, 14, 132]
    assert AdaComm(tau0=20).next(state) == 14, "a decay is a new regime: tau may rise"
    assert AdaComm(tau0=20, lr_coupling="none").next(state) == 3
    assert AdaComm(tau0=20, max=8).next(state) == 8
    assert AdaComm(tau0=20, f_inf=0.1).candidate(state) == 1


@pytest.mark.parametrize(
    ("lr", "loss", "expected"),  # ceil(sqrt(lr0 / lr * loss / loss0 * 16)), lr0 = 0.1, loss0 = 2
    [(0.1, 2.0, 4), (0.1, 1.0, 3), (0.1, 0.5, 2), (0.1, 0.1, 1), (0.01, 2.0, 13), (0.01, 0.5, 7), (0.001, 2.0, 16)],
)
def test_paddle_preset_by_hand(lr, loss, expected):
    """k_0 stands inside the root: ratio 1 gives 4, not 16."""
    assert AdaComm.paddle(16).next(LocalState(tau=16, tau0=16, loss=loss, loss0=2.0, lr=lr, lr0=0.1)) == expected


def test_paddle_preset_in_a_run():
    controller = Controller(get("paddle:16"), lr0=0.1)
    steps = [(2.0, 0.1), (1.0, 0.1), (0.5, 0.01), (0.3, 0.01)]
    found = [controller.decide(t=t, step=t, steps=1, loss=loss, after=2.0, lr=lr) for t, (loss, lr) in enumerate(steps)]
    assert found == [4, 3, 7, 5]


def test_qsr_and_post_local():
    state = LocalState(tau=1, tau0=1, lr=0.01)
    assert QSR(0.05).next(state) == 25 and QSR(0.005, tau_min=4).next(state) == 4 and QSR(0.05, max=9).next(state) == 9
    rule = PostLocal(100, 8)
    assert [rule.next(LocalState(tau=1, tau0=1, step=step)) for step in (0, 99, 100)] == [1, 1, 8]


def plateau_state(**more):
    return LocalState(**{"tau": 20, "tau0": 20, "loss": 1.0, "loss_before": 1.0, "y": 1.0, "d": 4.0,
                         "disagreement": 1.0, "progress": 1.0, **more})  # fmt: skip


def test_plateau_rule_halves_only_where_local_steps_hold_the_loss_up():
    rule = AdaCommPlateau(tau0=40)
    assert rule.next(plateau_state(tau=36)) == 18
    assert rule.next(plateau_state(tau=36, loss=0.98)) == 36, "the loss fell"
    assert rule.next(plateau_state(tau=36, disagreement=0.2)) == 36, "the workers agree"
    assert rule.next(plateau_state(tau=36, loss_before=None)) == 36, "one interval shows no plateau"
    assert rule.next(plateau_state()) == 16, "never below alpha / overhead"
    assert rule.next(plateau_state(tau=60)) == 30
    assert rule.next(plateau_state(tau=60, loss=0.5)) == 36, "90 % of the gain is had at 36"


def test_plateau_rule_anneals_to_one():
    rule = AdaCommPlateau(tau0=20)
    found = [
        rule.next(plateau_state(loss=0.5, budget=100.0, t_seconds=t)) for t in (0.0, 90.0, 92.0, 95.0, 99.0, 100.0)
    ]
    assert found == [20, 20, 11, 5, 2, 1]


@given(
    losses=st.lists(st.floats(1e-6, 10), min_size=1, max_size=30),
    tau0=st.integers(1, 200),
    gamma=st.floats(0.05, 1.0),
)
def test_adacomm_only_falls_at_a_constant_rate(losses, tau0, gamma):
    found = [tau0, *trace(AdaComm(tau0=tau0, gamma=gamma), losses)]
    assert all(isinstance(tau, int) and tau >= 1 for tau in found)
    assert found == sorted(found, reverse=True)


def test_a_warm_up_does_not_shorten_the_period():
    controller = Controller(AdaComm(tau0=16, interval_s=0.0), lr0=0.1)
    rates = [0.2, 0.4, 0.8, 0.8]
    found = [controller.decide(t=t, step=t, steps=1, loss=1.0, after=1.0, lr=lr) for t, lr in enumerate(rates)]
    assert found == [16, 16, 16, 8] and controller.lr0 == 0.8


@pytest.mark.parametrize("rule", ["adacomm:tau0=8,interval_s=0", "qsr:0.1", "paddle:8", "marginal", "adacomm-plateau"])
def test_a_learning_rate_of_zero_keeps_tau(rule):
    """A cosine ends at 0, and the last averaging comes after its last step."""
    controller = Controller(get(rule), lr0=0.1)
    before = controller.tau
    assert controller.decide(t=0, step=1, steps=1, loss=1.0, after=1.0, lr=0.0, y=1.0, d=4.0) == before


def test_the_rule_is_asked_once_an_interval_about_all_its_losses():
    controller = Controller(AdaComm(tau0=20, interval_s=10.0, gamma=1.0), lr0=1.0)
    found = [controller.decide(t=t, step=t, steps=s, loss=loss, after=4.0, lr=1.0)
             for t, s, loss in ((3, 3, 2.0), (6, 3, 2.0), (9, 3, 2.0), (12, 1, 12.0))]  # fmt: skip
    assert found == [20, 20, 20, math.ceil(20 * math.sqrt(3 / 4))]


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
def test_a_loss_that_is_no_positive_number_keeps_tau_and_warns(loss):
    controller = Controller(AdaComm(tau0=20, interval_s=0.0), lr0=1.0)
    controller.decide(t=0, step=1, steps=1, loss=1.0, after=2.0, lr=1.0)
    before = controller.tau
    with pytest.warns(UserWarning, match=f"step 7 is .*tau stays {before}"):
        assert controller.decide(t=1, step=7, steps=1, loss=loss, lr=1.0) == before
    assert controller.decide(t=2, step=8, steps=1, loss=0.01, lr=1.0) < before, "it goes on"


def test_names_and_short_forms():
    assert names() == ("adacomm", "adacomm-plateau", "fixed", "marginal", "paddle", "post-local", "qsr")
    assert get("fixed:20") == Fixed(20) and get("AdaComm:tau0=7,gamma=1") == AdaComm(tau0=7, gamma=1)
    assert get("post_local:100,4") == PostLocal(100, 4) and get("adacomm-plateau") == AdaCommPlateau()
    assert get("adacomm", lr_coupling="none", max=None).lr_coupling == "none"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get("adacom"), "did you mean 'adacomm'"),
        (lambda: get("adacomm", tau_0=3), "did you mean 'tau0'"),
        (lambda: get("fixed:0"), "tau=0, wanted a whole number of at least 1"),
        (lambda: get("fixed:2.5"), "tau=2.5"),
        (lambda: get("post-local"), 'write for example "post-local:switch_step=..."'),
        (lambda: get(3), "3 as a rule"),
        (lambda: get(Fixed(3), tau=4), "options tau beside a rule object"),
        (lambda: AdaComm(gamma=0), "gamma=0"),
        (lambda: AdaComm(gamma=1.5), "gamma=1.5"),
        (lambda: AdaComm(interval_s=-1), "interval_s=-1"),
        (lambda: AdaComm(interval_s="60s"), "interval_s='60s'"),
        (lambda: AdaComm(min=5, max=4), "max=4"),
        (lambda: AdaComm(lr_coupling="square"), "lr_coupling='square'"),
        (lambda: AdaCommPlateau(fall=1.0), "fall=1.0"),
        (lambda: QSR(0), "c=0"),
        (lambda: trace(AdaComm(f_inf=3.0), [1.0]), "the first loss is 2.3, f_inf is 3"),
        (lambda: Controller(Fixed(2), lr0=1.0, budget=0), "budget=0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(DrivetrainError) as refusal:
        call()
    assert isinstance(refusal.value, ValueError) and words in str(refusal.value)


@pytest.mark.parametrize("answer", [0, -1, 2.0, True, None, "4"])
def test_a_rule_whose_answer_is_no_period(answer):
    class Wrong:
        tau0, interval_s, name = 2, 0.0, "wrong"

        def next(self, s):
            return answer

    with pytest.raises(ValueError, match="rule 'wrong' answered tau="):
        Controller(Wrong(), lr0=1.0).decide(t=0, step=1, steps=1, loss=1.0, lr=1.0)
