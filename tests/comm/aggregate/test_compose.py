"""Pre-aggregators before rules."""

import pytest
import torch

from drivetrain.comm.aggregate import (
    ARC,
    NNM,
    Bucketing,
    Bulyan,
    Chain,
    Clip,
    Median,
    MultiKrum,
    RobustnessError,
    get,
    simulate,
)

from .cases import spread


def test_a_chain_is_the_parts_in_order():
    g = spread(11, 30, seed=1)
    nearest = torch.cdist(g.double(), g.double()).argsort(dim=1)[:, :9]
    mixed = torch.stack([g[rows].double().mean(0) for rows in nearest]).float()
    torch.testing.assert_close(Chain(NNM(), Median())(g, 2), Median()(mixed, 2))
    assert get("nnm+median").name == "nnm+median"


def test_weights_are_those_of_the_workers():
    """NNM mixes, Multi-Krum chooses among the mixtures: what counts is how much of each worker is in the result."""
    g = spread(11, 30, seed=2)
    info: dict = {}
    result = Chain(NNM(), MultiKrum())(g, 2, info=info)
    assert info["weights"].shape == (11,) and float(info["weights"].sum()) == pytest.approx(1)
    torch.testing.assert_close(result, (info["weights"] @ g.double()).float(), rtol=1e-5, atol=1e-6)


def test_mixing_helps_where_workers_hold_unlike_data():
    """Two kinds of honest data: Krum follows one kind, after mixing it is near the mean of both (arXiv 2302.01772)."""
    g = spread(12, 200, seed=3, width=0.05)
    g[:6] += 1.0
    g[9:] = -5.0
    honest = g[:9].mean(0)
    plain, mixed = get("krum")(g, 3), Chain(NNM(), get("krum"))(g, 3)
    assert (mixed - honest).norm() < (plain - honest).norm()


def test_buckets_are_means_and_drawn_anew_at_each_call():
    g = torch.arange(7.0)[:, None] + 1
    first = Chain(Bucketing(7), Median())
    assert float(first(g, 0)) == 4.0
    chain, again = (Chain(Bucketing(2, seed=5), Median("lower")) for _ in range(2))
    drawn = [float(chain(g, 1)) for _ in range(12)]
    assert drawn == [float(again(g, 1)) for _ in range(12)] and len(set(drawn)) > 1


def test_a_broken_vector_drops_out_of_its_bucket():
    g = spread(11, 8, seed=4)
    g[3] = torch.nan
    for _ in range(5):
        assert (Chain(Bucketing(2), Median())(g, 2) - 1).abs().max() < 0.5


def test_min_n_counts_buckets():
    assert Chain(Bucketing(2), Median()).min_n(2) == 9  # five buckets
    assert Chain(Bucketing(3), Bulyan()).min_n(1) == 19
    assert Chain(NNM(), ARC(), MultiKrum()).min_n(2) == 7
    with pytest.raises(
        RobustnessError, match=r"bucketing\+median tolerates f=2 only with n >= 9 workers, this job has 8"
    ):
        Chain(Bucketing(2), Median())(spread(8, 3, seed=1), 2)


def test_clipping_bounds_what_a_long_vector_does():
    g = spread(9, 20, seed=5)
    g[-1] = simulate("malformed-input")(g[:-1], 1)[0]
    clipped = Chain(Clip(1.0), get("average"))(g, 0)
    assert clipped.norm() <= 1.001
    adaptive = Chain(ARC(), MultiKrum())(g, 1)
    assert (adaptive - 1).abs().max() < 1


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Chain(NNM()), "ends in a rule"),
        (lambda: Chain(Median(), Median()), "only nnm, bucketing, clip, arc can"),
        (lambda: Clip(-1), "radius=-1"),
        (lambda: Bucketing(0), "size=0"),
        (lambda: get("nmn+median"), "did you mean 'nnm'"),
        (lambda: get("clip+median"), "needs a radius"),
        (lambda: get("nnm"), 'write "nnm\\+median"'),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(Exception, match=words) as caught:
        call()
    assert isinstance(caught.value, ValueError)
