"""What is refused, and in which words; `explain` says the same without raising."""

import pytest
import torch

from drivetrain.base.errors import DrivetrainError
from drivetrain.comm.aggregate import (
    MDA,
    Bulyan,
    CenteredClipping,
    FaultCountError,
    Krum,
    Median,
    MultiKrum,
    RobustnessError,
    VectorError,
    explain,
    get,
    names,
)

from .cases import spread

G = spread(8, 5, seed=1)


def test_the_error_says_what_would_be_right():
    with pytest.raises(RobustnessError) as caught:
        Bulyan()(G, 2)
    assert str(caught.value) == (
        "comm: bulyan tolerates f=2 only with n >= 11 workers, this job has 8\n"
        "largest f here is 1; multi-krum would tolerate f=2 from n >= 7"
    )


@pytest.mark.parametrize(
    "name, f, words",
    [
        ("multi-krum", 3, "largest f here is 2; median would tolerate f=3 from n >= 7"),
        ("median", 4, "no rule tolerates f=4 with fewer than n = 9"),
        ("average", 1, "average tolerates no faulty worker, f=1 was asked for"),
    ],
)
def test_other_conditions(name, f, words):
    with pytest.raises(RobustnessError) as caught:
        get(name)(G, f)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name, least",
    [
        ("krum", 2),
        ("multi-krum", 2),
        ("bulyan", 4),
        ("mda", 2),
        ("median", 2),
        ("phocas", 2),
        ("cge", 2),
        ("geometric-median", 2),
    ],
)
def test_min_n(name, least):
    rule = get(name)
    extra = {"krum": 3, "multi-krum": 3, "bulyan": 3}.get(name, 1)
    for f in range(6):
        n = least * f + extra
        assert rule.min_n(f) == n and rule.max_f(n) == f
        rule(spread(n, 3, seed=f), f)
        if n > 1:
            with pytest.raises(RobustnessError):
                rule(spread(n - 1, 3, seed=f), f)


@pytest.mark.parametrize("f", [-1, 1.0, "1", True, None])
def test_f_is_a_count(f):
    with pytest.raises(FaultCountError, match="whole number") as caught:
        Median()(G, f)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "g, words",
    [
        ([torch.ones(3), torch.ones(3), torch.ones(4)], r"rank 2 sent a vector of shape \[4\], rank 0 one of \[3\]"),
        ([torch.ones(3), torch.ones(3).double()], "rank 1 sent float64, rank 0 float32"),
        (torch.ones(3, 2, 2), r"shape \[3, 2, 2\]"),
        (torch.ones(3, 2, dtype=torch.int64), "these are int64"),
        ([], "no vectors"),
    ],
)
def test_vectors_that_do_not_fit(g, words):
    with pytest.raises(VectorError, match=words):
        Median()(g, 0)


def test_masks_that_do_not_fit():
    with pytest.raises(VectorError, match=r"the mask is float32 \[8, 5\], wanted bool \[8, 5\]"):
        Median()(G, 1, mask=torch.ones(8, 5))
    with pytest.raises(VectorError, match=r"bool \[8, 4\], wanted bool \[8, 5\]"):
        Median()(G, 1, mask=torch.ones(8, 4, dtype=torch.bool))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: get("bulian"), "did you mean 'bulyan'"),
        (lambda: get("krum", neighbors=3), "did you mean 'neighbours'"),
        (lambda: get("phocas", m=3), "it takes none"),
        (lambda: get("median", even="middle"), "allowed: lower, mean, upper"),
        (lambda: get("multi-krum", m=0), "m=0, wanted a whole number of at least 1"),
        (lambda: MultiKrum(m=5)(G, 2), "m=5 of n=8 workers with f=2, wanted 1 to 4"),
        (lambda: Krum(neighbours=6)(G, 2), "neighbours=6 of n=8 workers with f=2, wanted at most 5"),
        (lambda: Bulyan(theta=7)(G, 1), "theta=7 of n=8 workers with f=1, wanted 3 to 6"),
        (lambda: Bulyan(m=6)(G, 1), "m=6 of n=8"),
        (lambda: MDA()(spread(30, 2, seed=1), 8), r"C\(30, 8\) = 5,852,925 subsets, the limit is 2,000,000"),
        (lambda: get("geometric-median", eps=2), "eps=2"),
        (lambda: get("centered-clipping", radius=0), "radius=0"),
        (lambda: CenteredClipping(previous=torch.zeros(4))(G, 1), r"previous has shape \[4\], the vectors \[5\]"),
        (lambda: get(Median(), even="lower"), "beside a rule object"),
        (lambda: get(3), "3 as a rule"),
        (lambda: explain("krum", 0, 1, 5), "n=0"),
    ],
)
def test_bad_options(call, words):
    with pytest.raises(DrivetrainError, match=words):
        call()


def test_mda_searches_when_forced():
    assert torch.isfinite(MDA(limit=None)(spread(30, 20, seed=1), 8)).all()


def test_there_are_thirteen_rules():
    assert len(names()) == 13
    assert get("Trimmed_Mean").name == "trimmed-mean" and get("brute").name == "mda"


def test_types_are_kept():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for name in ("median", "krum", "bulyan", "geometric-median"):
            assert get(name)(G.to(dtype), 1).dtype == dtype
    assert torch.equal(Median()(list(G), 1), Median()(G, 1))


@pytest.mark.parametrize("name", names())
def test_the_users_defaults_change_nothing(name):
    """A kernel that writes float32 through a pointer must not meet a float64 result, or one on another device."""
    f = 0 if name.startswith("average") else 1
    expected = get(name)(G, f)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        result = get(name)(G, f)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(result, expected)


def test_the_input_is_not_changed():
    for name in names():
        g = G.clone()
        get(name)(g, 0 if name.startswith("average") else 1)
        assert torch.equal(g, G)


def test_explain():
    good = explain("bulyan", 19, 4, 1_000_000)
    assert good.ok and good.min_n == 19 and good.max_f == 4 and good.resilience == "strong"
    assert good.variance_bound == pytest.approx(1 / 9.5568, rel=1e-4)
    assert good.bytes_per_rank == round(2 * 18 / 19 * 4e6) + 8 * 19**2
    assert explain("median", 19, 4, 1_000_000).bytes_per_rank == round(2 * 18 / 19 * 4e6)
    bad = explain("bulyan", 8, 2, 10)
    assert not bad.ok and "multi-krum would tolerate f=2" in bad.reason and bad.variance_bound is None
    assert explain("average", 8, 1, 10).min_n is None
    assert "5,852,925 subsets" in explain("mda", 30, 8, 10).reason
    assert bad.to_dict()["max_f"] == 1


def test_an_empty_shard_gives_an_empty_result():
    for name in names():
        assert get(name)(torch.empty(8, 0), 0 if name.startswith("average") else 1).shape == (0,)
