"""Lost coordinates: fewer values per coordinate, distances over what two vectors have in common."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.comm.aggregate import (
    MDA,
    Bulyan,
    MeaMed,
    Median,
    MultiKrum,
    RobustnessError,
    TooManyMissing,
    TrimmedMean,
    get,
    kernel,
)
from drivetrain.comm.aggregate.distances import squared_distances
from drivetrain.comm.aggregate.rule import Round

from .cases import EVERY, faults, label, spread


def lossy(n, d, seed, share=0.2):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed)) >= share


@pytest.mark.parametrize("use_kernel", [True, False])
def test_each_coordinate_has_its_own_n_and_f(use_kernel, monkeypatch):
    if not use_kernel:
        monkeypatch.setattr(kernel, "load", lambda: None)
    g = torch.tensor([[1.0, 1, 5, 7], [2, 2, 6, 8], [3, 3, 1, 1], [4, 4, 1, 1], [90, 90, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    info: dict = {}
    # n_eff = 5, 4, 2, 0 and f_eff = min(2, (n_eff - 1) // 2) = 2, 1, 0
    assert TrimmedMean()(g, 2, mask=mask, info=info).tolist() == [3.0, 2.5, 5.5, 0.0]
    assert info["empty"] == 1
    assert Median()(g, 2, mask=mask).tolist() == [3.0, 2.5, 5.5, 0.0]
    assert MeaMed()(g, 2, mask=mask).tolist() == pytest.approx([3.0, 2.0, 5.5, 0.0])


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_distances_are_over_common_coordinates_and_scaled(seed):
    g, mask = spread(6, 500, seed), lossy(6, 500, seed)
    sqdist, _ = squared_distances(Round(g, 1, mask))
    for i in range(6):
        for j in range(i):
            both = mask[i] & mask[j]
            expected = (g[i].double() - g[j].double())[both].square().sum() * 500 / both.sum()
            assert float(sqdist[i, j]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("rule", EVERY, ids=label)
def test_values_that_never_arrived_do_not_matter(rule):
    """Whatever stands in a masked place, even NaN, the result is the same."""
    n = 11
    f = faults(rule, n)
    g, mask = spread(n, 300, seed=1), lossy(n, 300, seed=2)
    results = []
    for filler in (0.0, 1e30, torch.nan):
        if "bucketing" in rule.name:
            rule.before[0]._calls = 0
        results.append(rule(torch.where(mask, g, filler), f, mask=mask))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert (results[0] - 1).abs().max() < 1


def test_a_coordinate_that_no_chosen_worker_sent_gets_the_median_of_those_who_did():
    g = spread(9, 10, seed=5)
    weights = torch.nonzero(MultiKrum(m=1).select(squared_distances(Round(g, 2))[0], 2)).flatten()
    mask = torch.ones(9, 10, dtype=torch.bool)
    mask[weights, 3] = False
    info: dict = {}
    result = get("krum")(g, 2, mask=mask, info=info)
    (chosen,) = torch.nonzero(info["weights"]).flatten().tolist()
    assert chosen == int(weights) and info["empty"] == 0
    others = g[[i for i in range(9) if i != chosen], 3]
    assert float(result[3]) == pytest.approx(float(others.double().quantile(0.5)), rel=1e-6)
    assert torch.equal(result[4:], g[chosen, 4:])


def test_two_rows_without_a_common_coordinate_are_infinitely_far():
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    sqdist, bad = squared_distances(Round(torch.ones(3, 2), 0, mask))
    assert sqdist[0, 1] == torch.inf and sqdist[0, 2] == 0 and not bad.any()


@pytest.mark.parametrize("rule", EVERY, ids=label)
def test_a_vector_that_never_arrived_counts_as_a_faulty_one(rule):
    n = 12
    f = faults(rule, n)
    g, mask = spread(n, 40, seed=6), torch.ones(n, 40, dtype=torch.bool)
    mask[:f] = False
    g[:f] = 1e9  # must not matter
    info: dict = {}
    assert (rule(g, f, mask=mask, info=info) - 1).abs().max() < 1
    assert info["lost_share"].tolist() == [1.0] * f + [0.0] * (n - f)
    if rule.name == "average-nan":
        return
    mask[f] = False
    with pytest.raises(TooManyMissing, match="sent nothing: more than the f=") as caught:
        rule(g, f, mask=mask)
    assert caught.value.ranks == tuple(range(f + 1))
    if f:
        mask[f], g[f] = True, torch.nan
        with pytest.raises(TooManyMissing, match=f"rank {f} NaN or infinity: more than"):
            rule(g, f, mask=mask)


@pytest.mark.parametrize("rule", [MultiKrum(), Bulyan(), MDA()], ids=label)
def test_distances_that_losses_leave_undefined_are_refused(rule):
    """Each of 11 vectors has a coordinate of its own: no two can be compared, and nobody may be chosen by chance."""
    with pytest.raises(RobustnessError, match="finite distances"):
        rule(torch.ones(11, 11), 2, mask=torch.eye(11, dtype=torch.bool))
