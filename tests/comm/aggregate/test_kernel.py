"""The kernel gives what the torch version gives, bit for bit where both add in the same order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.comm.aggregate import kernel
from drivetrain.comm.aggregate.coordinate import CENTERS, Statistic, coordinate_statistic, torch_statistic
from drivetrain.comm.aggregate.distances import _gram_distances, _partial_distances, _torch_combine
from drivetrain.comm.aggregate.network import network, sorting_network

from .cases import spread

needs_kernel = pytest.mark.skipif(kernel.load() is None, reason="no C++ compiler here")
UPPER = torch.triu_indices(9, 9, 1).unbind()


def vectors(n, d, seed, broken, lossy):
    generator = torch.Generator().manual_seed(seed)
    g = spread(n, d, seed, center=0, width=3).round(decimals=1)  # rounded, so that values tie
    if broken:
        g[0, torch.randint(0, d, (1 + d // 9,), generator=generator)] = torch.nan
        g[-1, torch.randint(0, d, (1 + d // 7,), generator=generator)] = torch.inf
    return g, torch.rand(n, d, generator=generator) > 0.3 if lossy else None


@needs_kernel
@pytest.mark.parametrize("center", CENTERS)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 1500),
    seed=st.integers(0, 999),
    broken=st.booleans(),
    lossy=st.booleans(),
    nearest=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_coordinate_statistics_are_identical(center, n, d, seed, broken, lossy, nearest):
    g, mask = vectors(n, d, seed, broken, lossy)
    f = (n - 1) // 2
    what = Statistic(center, f, drop=f if nearest else 0)
    ours, reference = coordinate_statistic(g, mask, what), torch_statistic(g, mask, what)
    assert torch.equal(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1]) and ours[2] == reference[2]


@needs_kernel
@pytest.mark.parametrize("n, drop", [(9, 8), (3, 2), (5, 3), (7, 2)])
def test_windows_narrower_than_half_are_identical(n, drop):
    """Bulyan keeps beta of theta means, often one: the window then moves over rows it has left before."""
    g = spread(n, 3000, seed=n)
    what = Statistic("upper", 1, drop=drop)
    assert torch.equal(coordinate_statistic(g, None, what)[0], torch_statistic(g, None, what)[0])
    middle = g.sort(dim=0).values[n // 2]
    nearest = (g - middle).abs().topk(n - drop, dim=0, largest=False).indices
    expected = g.double().gather(0, nearest).mean(0).float()
    torch.testing.assert_close(coordinate_statistic(g, None, what)[0], expected, rtol=1e-6, atol=1e-7)


@needs_kernel
@given(seed=st.integers(0, 999), broken=st.booleans(), lossy=st.booleans(), outputs=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_weighted_sums_are_identical(seed, broken, lossy, outputs):
    g, mask = vectors(9, 700, seed, broken, lossy)
    weights = torch.rand(outputs, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights[:, [0, -1]] = 0
    weights[:, 1:3] *= weights[:, 1:3] > 0.5
    (ours, few), (reference, same) = kernel.combine(g, mask, weights), _torch_combine(g, mask, weights)
    assert few == same
    assert torch.equal(ours.nan_to_num(7.5), reference.nan_to_num(7.5))


@needs_kernel
@given(seed=st.integers(0, 999), broken=st.booleans(), lossy=st.booleans())
@settings(max_examples=20, deadline=None)
def test_distances_agree_with_the_gram_matrix(seed, broken, lossy):
    g, mask = vectors(9, 700, seed, broken, lossy)
    ours, reference = _partial_distances(g, mask), _gram_distances(g, mask)
    assert torch.equal(ours[2], reference[2])
    whole = ~ours[2]
    rows = [pair for pair in zip(*UPPER, strict=True) if whole[pair[0]] and whole[pair[1]]]
    for i, j in rows:
        assert float(ours[0][i, j]) == pytest.approx(float(reference[0][i, j]), rel=2e-5)
        assert ours[1][i, j] == reference[1][i, j]


@needs_kernel
def test_threads_change_nothing():
    g = spread(7, 300_000, seed=1)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                (kernel.distances(g, None, exact=False)[0], coordinate_statistic(g, None, Statistic("trimmed", 2))[0])
            )
    finally:
        torch.set_num_threads(before)
    for sqdist, mean in results[1:]:
        assert torch.equal(sqdist, results[0][0]) and torch.equal(mean, results[0][1])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 10])
def test_networks_sort_every_zero_one_row(n):
    """A network that sorts all rows of zeros and ones sorts everything (Knuth's 0-1 principle)."""
    rows = torch.tensor([[code >> i & 1 for code in range(1 << n)] for i in range(n)])
    for wanted in (range(n), [n // 2], [0], [n - 1]):
        x = list(rows)
        for i, j in network(n, wanted):
            x[i], x[j] = torch.minimum(x[i], x[j]), torch.maximum(x[i], x[j])
        expected = rows.sort(dim=0).values
        assert all(torch.equal(x[k], expected[k]) for k in wanted)


def test_pruning_saves_a_fifth():
    assert len(sorting_network(19)) == 98 and len(network(19, [9])) == 79
