"""NaN and infinity: with at most f broken vectors every rule gives a finite result, with more it names the ranks."""

import pickle

import pytest
import torch

from drivetrain.comm.aggregate import AverageNan, TooManyNonFinite, get, kernel

from .cases import CHAINED, EVERY, ROBUST, faults, label, spread


@pytest.fixture(params=["kernel", "torch"])
def version(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(kernel, "load", lambda: None)
    return request.param


def broken(n, d, f, how):
    g = spread(n, d, seed=n * d)
    for k in range(f):
        value = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}.get(how, torch.nan)
        if how == "one":
            g[2 * k, (7 * k) % d] = value
        else:
            g[2 * k] = value
    return g


@pytest.mark.parametrize("how", ["nan", "inf", "-inf", "one"])
@pytest.mark.parametrize("rule", [*ROBUST, *CHAINED], ids=label)
def test_f_broken_vectors_leave_a_finite_result(rule, how, version):
    for n, d in ((11, 1), (12, 33), (11, 600)):
        f = faults(rule, n)
        info: dict = {}
        result = rule(broken(n, d, f, how), f, info=info)
        assert torch.isfinite(result).all()
        assert (result - 1).abs().max() < 1
        assert info["nonfinite"] == [2 * k for k in range(f)]


@pytest.mark.parametrize("rule", [rule for rule in EVERY if rule.name != "average-nan"], ids=label)
def test_more_than_f_are_named(rule, version):
    f = faults(rule, 11)
    with pytest.raises(TooManyNonFinite) as caught:
        rule(broken(11, 40, f + 1, "one"), f)
    error = caught.value
    assert error.ranks == tuple(2 * k for k in range(f + 1)) and error.f == f
    assert "rank" in str(error) and f"f={f}" in str(error)
    later = error.at_step(17)
    assert "at step 17" in str(later)
    assert pickle.loads(pickle.dumps(later)).ranks == error.ranks


@pytest.mark.parametrize("name", ["krum", "multi-krum", "bulyan", "mda", "cge", "geometric-median"])
def test_one_nan_costs_a_vector_all_its_weight(name, version):
    info: dict = {}
    get(name)(broken(11, 40, 2, "one"), 2, info=info)
    weights = info["weights"].reshape(-1, 11)
    assert torch.all(weights[:, [0, 2]] == 0) and torch.all(weights.sum(1) > 0.99)


def test_average_nan_skips_and_counts(version):
    g = torch.tensor([[1.0, torch.nan, torch.inf], [3.0, 4.0, torch.nan]])
    info: dict = {}
    assert AverageNan()(g, 0, info=info).tolist() == [2.0, 4.0, 0.0]
    assert info["empty"] == 1


@pytest.mark.parametrize("name", ["krum", "median", "meamed", "geometric-median"])
def test_where_byzfl_returns_nan(name, version):
    """ByzFL 0.0.11 gives NaN for these four with n=7, f=2 and one worker that sends NaN alone."""
    assert torch.isfinite(get(name)(broken(7, 20, 1, "nan"), 2)).all()


@pytest.mark.parametrize("rule", ROBUST, ids=label)
def test_huge_finite_values_do_not_overflow(rule, version):
    n = 11
    f = faults(rule, n)
    g = spread(n, 50, seed=4)
    g[:f] = 3e38
    g[0] *= -1
    assert (rule(g, f) - 1).abs().max() < 1
