"""Attacks: known answers, and that adaptive ones harm the real rule more than fixed ones."""

import pytest
import torch

from drivetrain.base.errors import InvalidValue
from drivetrain.comm.aggregate import Median, MultiKrum, attack_names, flip_labels, get, simulate
from drivetrain.comm.aggregate.attacks import alie_z

from .cases import spread

HONEST = torch.tensor([[1.0, 2], [3, 2], [2, 4], [2, 0]])


@pytest.mark.parametrize(
    "attack, expected",
    [
        (simulate("alie", z=1.5), (3.2247449, 4.4494898)),
        (simulate("ipm", eps=0.5), (-1, -1)),
        (simulate("sign-flip"), (-2, -2)),
        (simulate("sign_flip", scale=100), (-200, -200)),
        (simulate("partial-drop"), (0, 0)),
        (simulate("mimic", rank=2), (2, 4)),
        (simulate("big-coordinate", k=1, value=9.0), (2, 9)),
        (simulate("malformed-input"), (1e12, 1e12)),
    ],
)
def test_known_answers(attack, expected):
    sent = attack(HONEST, 2)
    assert sent.shape == (2, 2)
    assert sent.tolist() == [pytest.approx(expected)] * 2


@pytest.mark.parametrize("n, f, z", [(10, 2, 0.0), (19, 4, 0.2533), (20, 4, 0.1573), (50, 12, 0.3360)])
def test_alie_z(n, f, z):
    assert alie_z(n, f) == pytest.approx(z, abs=1e-4)


def test_alie_goes_below_the_mean_by_default():
    sent = simulate("alie")(spread(15, 3, seed=1, dtype=torch.float64), 4)
    honest = spread(15, 3, seed=1, dtype=torch.float64)
    assert torch.allclose(sent[0], honest.mean(0) - 0.2533471 * honest.std(0))


@pytest.mark.parametrize("name", attack_names())
def test_every_attack_sends_vectors_of_the_right_shape(name):
    honest = spread(8, 20, seed=2)
    rng = torch.Generator().manual_seed(1)
    sent = simulate(name)(honest, 3, rule=get("median"), f=3, rng=rng)
    assert sent.shape == (3, 20) and sent.dtype == honest.dtype
    again = simulate(name)(honest, 3, rule=get("median"), f=3, rng=torch.Generator().manual_seed(1))
    assert torch.equal(sent.nan_to_num(5), again.nan_to_num(5))


def damage(attack, rule, honest, f):
    sent = attack(honest, f, rule=rule, f=f)
    return float((rule(torch.cat([honest, sent]), f) - honest.mean(0)).norm())


@pytest.mark.parametrize("rule", [Median(), MultiKrum(), get("trimmed-mean"), get("bulyan")], ids=repr)
@pytest.mark.parametrize("adaptive, fixed", [("opt-alie", ["alie"]), ("opt-ipm", ["ipm", "sign-flip"])])
def test_a_line_search_harms_more_than_a_fixed_factor(rule, adaptive, fixed):
    honest = spread(15, 200, seed=3, center=0.02, width=0.1)
    best = damage(simulate(adaptive, evals=30), rule, honest, 4)
    for name in fixed:
        assert best >= 0.98 * damage(simulate(name), rule, honest, 4)


def test_a_line_search_calls_the_rule_as_often_as_it_may():
    calls = []

    class Counting(Median):
        def aggregate(self, r):
            calls.append(r.n)
            return super().aggregate(r)

    simulate("opt-alie", evals=16)(spread(8, 5, seed=4), 2, rule=Counting(), f=2)
    assert len(calls) <= 16


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: simulate("ali"), "did you mean 'alie'"),
        (lambda: simulate("ipm", epz=1), "did you mean 'eps'"),
        (lambda: simulate("opt-alie")(HONEST, 1), "give rule="),
        (lambda: simulate("random")(HONEST, 1), "give rng"),
        (lambda: simulate("mimic", rank=4)(HONEST, 1), "wanted 0 to 3"),
        (lambda: simulate("big-coordinate", k=2)(HONEST, 1), "wanted 0 to 1"),
        (lambda: simulate("partial-drop", p=1.5), "probability"),
        (lambda: flip_labels(torch.tensor([0, 11]), 10), "wanted 0 to 9"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(InvalidValue, match=words):
        call()


def test_flipped_labels():
    assert flip_labels(torch.tensor([0, 3, 9]), 10).tolist() == [9, 6, 0]
