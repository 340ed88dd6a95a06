"""What must hold for every rule and any vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.comm.aggregate import MDA, MeaMed, Median, MultiKrum, Phocas, TrimmedMean

from .cases import EVERY, ROBUST, faults, label, spread

FEW = settings(max_examples=12, deadline=None)
# One coordinate is left out: there the sums of plain distances tie for all middle vectors, and rounding decides.
SIZES = st.tuples(st.integers(7, 12), st.integers(2, 70), st.integers(0, 10_000))
NOT_MOVED = ("cge", "arc+krum", "clip+median")  # they look at norms, so the origin matters
RANDOM = ("bucketing+median",)


def close(a, b, scale=1.0):
    torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4 * scale)


@pytest.mark.parametrize("rule", [rule for rule in EVERY if rule.name not in (*RANDOM, "mda")], ids=label)
@given(sizes=SIZES)
@FEW
def test_order_of_workers_changes_nothing(rule, sizes):
    n, d, seed = sizes
    g = spread(n, d, seed)
    f = faults(rule, n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    close(rule(g[order], f), rule(g, f))


@given(sizes=SIZES)
@FEW
def test_order_of_workers_does_not_change_the_least_diameter(sizes):
    """One pair sets a diameter, so several subsets often share the least: MDA takes that of the lowest ranks."""
    n, d, seed = sizes
    g = spread(n, d, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    diameters = []
    for rows in (g, g[order]):
        info: dict = {}
        MDA()(rows, 2, info=info)
        chosen = info["weights"] > 0
        diameters.append(float(info["sqdist"][chosen][:, chosen].max()))
    assert diameters[0] == pytest.approx(diameters[1], rel=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in EVERY if rule.name not in (*NOT_MOVED, *RANDOM)], ids=label)
@given(sizes=SIZES, shift=st.floats(-50, 50))
@FEW
def test_translation(rule, sizes, shift):
    n, d, seed = sizes
    g = spread(n, d, seed, dtype=torch.float64)
    f = faults(rule, n)
    close(rule(g + shift, f), rule(g, f) + shift)


@pytest.mark.parametrize("rule", [rule for rule in EVERY if rule.name not in ("clip+median", *RANDOM)], ids=label)
@given(sizes=SIZES, scale=st.floats(1e-8, 1e8))
@FEW
def test_positive_scaling(rule, sizes, scale):
    n, d, seed = sizes
    g = spread(n, d, seed)
    f = faults(rule, n)
    close(rule(g * scale, f), rule(g, f) * scale, scale)


@pytest.mark.parametrize("rule", EVERY, ids=label)
@given(sizes=SIZES)
@FEW
def test_equal_vectors_give_themselves(rule, sizes):
    n, d, seed = sizes
    one = spread(1, d, seed)
    torch.testing.assert_close(rule(one.repeat(n, 1), faults(rule, n)), one[0], rtol=3e-7, atol=0)


@pytest.mark.parametrize("rule", EVERY, ids=label)
@given(sizes=SIZES)
@FEW
def test_a_full_mask_is_no_mask(rule, sizes):
    n, d, seed = sizes
    g, f = spread(n, d, seed), faults(rule, n)
    if "bucketing" in rule.name:
        rule.before[0]._calls = 0
        expected = rule(g, f)
        rule.before[0]._calls = 0
    else:
        expected = rule(g, f)
    torch.testing.assert_close(rule(g, f, mask=torch.ones_like(g, dtype=torch.bool)), expected, rtol=1e-6, atol=1e-7)


@given(sizes=SIZES)
@FEW
def test_trimming_nothing_is_the_average(sizes):
    n, d, seed = sizes
    g = spread(n, d, seed)
    torch.testing.assert_close(TrimmedMean()(g, 0), g.double().mean(0).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "rule", [Median(), Median("lower"), Median("upper"), TrimmedMean(), MeaMed(), Phocas()], ids=label
)
@given(data=st.data())
@FEW
def test_coordinate_rules_stay_within_the_honest_values(rule, data):
    """Any f values of 2f + 1 may lie anywhere, even at the ends of float32, or be NaN. MeaMed and Phocas average n - f
    values, of which the farthest may be as far from the centre as the honest ones are wide."""
    n, f = data.draw(st.sampled_from([(3, 1), (5, 2), (8, 2), (11, 5)]))
    honest = torch.tensor(data.draw(st.lists(st.floats(-10, 10, width=32), min_size=n - f, max_size=n - f)))
    wild = st.one_of(st.floats(width=32), st.sampled_from([3.4e38, -3.4e38, 11.0]))
    bad = torch.tensor(data.draw(st.lists(wild, min_size=f, max_size=f)))
    order = data.draw(st.permutations(range(n)))
    result = float(rule(torch.cat([honest, bad])[list(order)][:, None], f))
    slack = float(honest.max() - honest.min()) if isinstance(rule, MeaMed | Phocas) else 0.0
    assert float(honest.min()) - slack - 1e-5 <= result <= float(honest.max()) + slack + 1e-5


@pytest.mark.parametrize("rule", [MultiKrum(), MDA()], ids=label)
@given(sizes=SIZES)
@FEW
def test_selecting_rules_average_equally(rule, sizes):
    """The result is in the convex hull: equal positive weights that sum to 1, of the documented number."""
    n, d, seed = sizes
    info: dict = {}
    g = spread(n, d, seed)
    result = rule(g, 2, info=info)
    weights = info["weights"]
    chosen = weights[weights > 0]
    assert len(chosen) == (n - 4 if isinstance(rule, MultiKrum) else n - 2)
    assert torch.allclose(chosen, torch.full_like(chosen, 1 / len(chosen)))
    torch.testing.assert_close(result, (weights @ g.double()).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ROBUST, ids=label)
@given(sizes=SIZES, scale=st.floats(0, 1e15))
@FEW
def test_f_wild_vectors_cannot_carry_the_result_away(rule, sizes, scale):
    n, d, seed = sizes
    f = faults(rule, n)
    honest = spread(n - f, d, seed)
    wild = scale * torch.randn(f, d, generator=torch.Generator().manual_seed(seed + 1))
    result = rule(torch.cat([wild, honest]), f)
    deviation = (result - honest.mean(0)).norm()
    reach = (honest - honest.mean(0)).norm(dim=1).max()
    assert deviation <= 4 * reach + 2 * honest.norm(dim=1).max() * (rule.name == "cge") + 1e-3


# Bucketing draws anew at each call: ranks call objects of their own alike, threads here would share one.
@pytest.mark.parametrize("rule", [rule for rule in EVERY if rule.name not in RANDOM], ids=label)
@given(sizes=SIZES, parts=st.integers(2, 4), broken=st.booleans())
@FEW
def test_shards_give_what_the_whole_gives(rule, sizes, parts, broken):
    """A rank holds some coordinates of all vectors; `reduce` sums small tensors over ranks, which are threads here."""
    n, d, seed = sizes
    g, f = spread(n, d, seed), faults(rule, n)
    if broken and f:
        g[1, 0] = torch.nan  # only the first shard sees it; all must leave rank 1 out
    whole = rule(g, f)
    torch.testing.assert_close(torch.cat(sharded(rule, g, f, parts)), whole, rtol=1e-6, atol=1e-6)


def sharded(rule, g, f, parts):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    barrier, slots = Barrier(parts, timeout=20), [None] * parts

    def work(rank, piece):
        def reduce(partial):
            slots[rank] = partial
            barrier.wait()
            total = sum(slots)
            barrier.wait()
            return total

        return rule(piece, f, reduce=reduce)

    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(work, range(parts), g.tensor_split(parts, dim=1)))
