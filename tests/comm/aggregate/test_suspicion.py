"""The account of ranks, and the decision to leave one out."""

import pytest
import torch

from drivetrain.comm.aggregate import (
    Bulyan,
    Median,
    MultiKrum,
    Quarantine,
    RobustnessError,
    Suspicion,
    distances_by_weights,
    distances_to_result,
    get,
    simulate,
)
from drivetrain.comm.aggregate.suspicion import z_scores

from .cases import spread


def run(rule, attack, rounds=60, n=11, f=2, mask=None):
    account = Suspicion(n)
    for step in range(rounds):
        honest = spread(n - f, 50, seed=step)
        g = torch.cat([honest, attack(honest, f, rule=rule, f=f, rng=torch.Generator().manual_seed(step))])
        info: dict = {}
        result = rule(g, f, info=info)
        account.observe(info, sqdist_to_result=distances_to_result(g, result), lost_share=torch.zeros(n))
    return account


def test_attackers_stand_out_and_are_left_out():
    reports = run(MultiKrum(), simulate("sign-flip")).report()
    for r in reports[-2:]:
        assert r.selected_share == 0 and r.influence == 0 and r.z_distance > 6
    for r in reports[:-2]:
        assert r.selected_share > 0.3 and r.z_distance < 3
    assert sum(r.influence for r in reports) == pytest.approx(11)
    assert sorted(Quarantine().decide(reports, MultiKrum(), 2)) == [9, 10]


def test_rules_that_choose_nobody_are_judged_by_distance():
    reports = run(Median(), simulate("malformed-input")).report()
    assert reports[0].selected_share is None and reports[-1].z_distance == 100
    assert sorted(Quarantine().decide(reports, Median(), 2)) == [9, 10]


def test_broken_ranks_are_counted():
    reports = run(Bulyan(), simulate("nan")).report()
    assert [r.nonfinite for r in reports] == [0] * 9 + [60, 60]
    assert sorted(Quarantine().decide(reports, Bulyan(), 2)) == [9, 10]


def test_honest_ranks_are_left_alone():
    reports = run(MultiKrum(), simulate("mimic")).report()
    assert Quarantine().decide(reports, MultiKrum(), 2) == []
    assert Quarantine(after=61).decide(run(MultiKrum(), simulate("sign-flip")).report(), MultiKrum(), 2) == []


def test_never_more_than_f_are_left_out():
    reports = run(Median(), simulate("sign-flip"), n=11, f=3).report()
    assert len(Quarantine().decide(reports, Median(), 2)) == 2
    assert Quarantine().decide(reports, Median(), 0) == []


def test_lost_share_and_part_of_the_ranks():
    account = Suspicion(4)
    account.observe({"nonfinite": [1]}, ranks=[0, 2, 3], lost_share=torch.tensor([0.0, 0.5, 0.1]))
    reports = account.report()
    assert [r.rounds for r in reports] == [1, 0, 1, 1]
    assert reports[2].lost_share == 0.5 and reports[2].nonfinite == 1  # the second of those who took part


def test_an_account_goes_on_after_a_restart():
    account = run(MultiKrum(), simulate("sign-flip"), rounds=5)
    other = Suspicion(11)
    other.load_state_dict(account.state_dict())
    assert other.report() == account.report()
    with pytest.raises(RobustnessError, match="can't go on with 4"):
        Suspicion(4).load_state_dict(account.state_dict())


def test_ignored_honest_minorities_are_found():
    account = run(MultiKrum(m=1), simulate("sign-flip"))
    assert set(account.ignored(below=0.02)) >= {9, 10}


def test_z_scores_of_equal_distances_are_zero():
    assert z_scores(torch.ones(5, dtype=torch.float64)).tolist() == [0] * 5
    assert z_scores(torch.full((5,), torch.inf, dtype=torch.float64)).tolist() == [0] * 5


def test_bad_options():
    with pytest.raises(RobustnessError, match="wanted after >= 1"):
        Quarantine(after=0)


@pytest.mark.parametrize("rule", ["krum", "multi-krum", "mda"])
def test_distances_to_the_result_follow_from_distances_and_weights(rule):
    g = torch.randn(11, 40, generator=torch.Generator().manual_seed(3))
    g[2] = float("nan")
    g[5] *= 30
    info = {}
    result = get(rule)(g, 2, info=info)
    wanted = distances_to_result(g, result)
    found = distances_by_weights(info["sqdist"], info["weights"])
    assert torch.isinf(found[2]) and torch.isinf(wanted[2])
    finite = torch.isfinite(wanted)
    assert torch.allclose(found[finite], wanted[finite], rtol=1e-5, atol=1e-5)
