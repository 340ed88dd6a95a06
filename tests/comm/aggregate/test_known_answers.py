"""The specification's computed answers: A (7 vectors, f=2), B (7 scalars, f=1), the strong against the weak rule."""

import math
from itertools import combinations

import pytest
import torch

from drivetrain.comm.aggregate import CGE, MDA, Bulyan, Krum, Median, MultiKrum, explain, get
from drivetrain.comm.aggregate.distances import squared_distances
from drivetrain.comm.aggregate.krum import variance_eta
from drivetrain.comm.aggregate.mda import least_diameter
from drivetrain.comm.aggregate.rule import Round

from .cases import ROWS_A, ROWS_B, spread

A = torch.tensor(ROWS_A, dtype=torch.float64)
B = torch.tensor(ROWS_B, dtype=torch.float64)[:, None]


def near(result, expected, tolerance=1e-5):
    assert result.tolist() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name, expected",
    [
        ("krum", (1.1, 0.1)),
        ("median", (1, 0.1)),
        ("trimmed-mean", (1.03333, 0.1)),
        ("meamed", (1.04, 0.04)),
        ("mda", (1.04, 0.04)),
        ("cge", (1.04, 0.04)),
    ],
)
def test_answers_a(name, expected, dtype):
    near(get(name)(A.to(dtype), 2), expected)


def test_krum_scores_a():
    sqdist, _ = squared_distances(Round(A, 2))
    assert MultiKrum().scores(sqdist, 2).tolist() == pytest.approx([0.08, 0.06, 0.2, 0.14, 0.14, 531.7, 408.06])


def test_multi_krum_a_gives_the_tie_to_the_lowest_rank():
    """Scores 3 and 4 are .14 both; without the tie rule rounding chooses, and (1.1, .0333) is as likely."""
    near(MultiKrum(m=3)(A, 2), (1.03333, 0.1))
    swapped = A[[0, 1, 2, 4, 3, 5, 6]]
    near(MultiKrum(m=3)(swapped, 2), (1.1, 0.03333))


def test_byzfl_preset_a():
    near(MultiKrum.byzfl(7, 2)(A, 2), (1.04, 0.04))
    near(Krum.byzfl(7, 2)(A, 2), (1, 0))


def test_mda_chooses_the_five_near_ones():
    sqdist, _ = squared_distances(Round(A, 2))
    assert torch.nonzero(MDA().select(sqdist, 2)).flatten().tolist() == [0, 1, 2, 3, 4]


def test_geometric_median_reaches_the_least_distance_sum():
    """The point converges slowly, the sum of distances quickly: that is what is minimised."""
    best = torch.tensor([1.05261, 0.09068], dtype=torch.float64)

    def total(point):
        return float((A - point).norm(dim=1).sum())

    assert total(get("geometric-median")(A, 2)) <= total(best) * (1 + 1e-6)
    near(get("geometric-median", iters=500)(A, 2), (1.05261, 0.09068), 1e-4)


def test_krum_scores_b():
    sqdist, _ = squared_distances(Round(B, 1))
    expected = [0.174, 0.2273, 0.2361, 0.3326, 0.8387, 0.4937, 307.1034]
    assert MultiKrum().scores(sqdist, 1).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name, expected",
    [
        ("multi-krum", 1.0875),
        ("bulyan", 1.11),
        ("median", 1.13),
        ("trimmed-mean", 1.174),
        ("meamed", 1.1066667),
        ("phocas", 1.1066667),
    ],
)
def test_answers_b(name, expected, dtype):
    near(get(name)(B.to(dtype), 1), (expected,), 1e-6)


def test_bulyan_takes_shrinking_means():
    """S = [1.0875, 1.1166667, 1.11]: means of 4, 3 and 2 vectors, the best goes after each, and its distances."""
    sqdist, _ = squared_distances(Round(B, 1))
    means = Bulyan().select(sqdist, 1) @ B
    near(means[:, 0], (1.0875, 1.1166667, 1.11), 1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_bulyan_takes_the_counted_distances_of_those_that_left_from_the_scores(seed):
    """Step 2 of the kernel, written out; without the update other vectors come up after the first."""
    n, f = 15, 3
    g = spread(n, 6, seed, dtype=torch.float64)
    distance = (g[:, None] - g[None]).square().sum(2).tolist()
    company = {i: sorted((distance[i][j], j) for j in range(n) if j != i)[: n - f - 2] for i in range(n)}
    score = {i: sum(value for value, _ in near) for i, near in company.items()}
    frozen, means = dict(score), []
    for k in range(n - 2 * f - 2):
        best = sorted(score, key=score.__getitem__)
        means.append(g[best[: n - f - 2 - k]].mean(0))
        gone = best[0]
        del score[gone]
        for i in score:
            score[i] -= sum(value for value, j in company[i] if j == gone)
    expected = torch.stack(means)
    torch.testing.assert_close(Bulyan().select(torch.tensor(distance), f) @ g, expected)
    orders = sorted(frozen, key=frozen.__getitem__)
    stale = torch.stack([g[orders[k : n - f - 2]].mean(0) for k in range(n - 2 * f - 2)])
    assert not torch.allclose(stale, expected)  # the example can tell


def test_bulyan_of_an_even_number_of_means_goes_by_the_upper_middle():
    """theta = 4, beta = 2: element theta // 2 of the sorted means is 3.2; by the lower middle it would give 1.6075."""
    g = torch.tensor([3.7, 0.4, 2.8, 2.2, 3.7, 2.1, 0.5, 1.1], dtype=torch.float64)[:, None]
    sqdist, _ = squared_distances(Round(g, 1))
    near((Bulyan().select(sqdist, 1) @ g)[:, 0].sort().values, (1.475, 1.74, 3.2, 3.7), 1e-12)
    near(Bulyan()(g, 1), (3.45,), 1e-12)


@pytest.mark.parametrize("n, f, eta", [(19, 4, 9.5568), (7, 2, 7.3485)])
def test_variance_bounds(n, f, eta):
    assert variance_eta(n, f) == pytest.approx(eta, abs=1e-4)
    assert explain("krum", n, f, 10).variance_bound == pytest.approx(1 / eta, rel=1e-4)
    assert explain("median", n, f, 10).variance_bound == pytest.approx((n - f) ** -0.5)
    assert explain("mda", n, f, 10).variance_bound == pytest.approx((n - f) / (math.sqrt(8) * f))


def test_bulyan_closes_the_hole_that_multi_krum_leaves():
    """4 of 19 send the honest mean with one huge coordinate of 100,000: all 4 are chosen, and move it from 1 to 1.6."""
    honest = spread(15, 100_000, seed=3, width=0.01)
    sent = honest.mean(0).repeat(4, 1)
    sent[:, 5] = 3.0
    g = torch.cat([honest, sent])
    info: dict = {}
    weak = MultiKrum(m=13)(g, 4, info=info)
    assert torch.all(info["weights"][15:] > 0)
    assert weak[5] == pytest.approx(1.62, abs=0.02)
    low, high = float(honest[:, 5].min()), float(honest[:, 5].max())
    assert low <= float(Bulyan()(g, 4)[5]) <= high
    assert low <= float(Median()(g, 4)[5]) <= high


def test_even_medians():
    """Two middle values, three conventions: replicas that use different ones drift apart."""
    g = torch.tensor([[1.0], [2.0], [4.0], [9.0]])
    assert [float(Median(even=even)(g, 1)) for even in ("lower", "upper", "mean")] == [2.0, 4.0, 3.0]


@pytest.mark.parametrize("seed", range(20))
def test_least_diameter_is_that_of_exhaustive_search(seed):
    generator = torch.Generator().manual_seed(seed)
    n, f = 9, 3
    points = torch.randint(0, 5, (n, 2), generator=generator).double()  # few values, so that many subsets tie
    sqdist = torch.cdist(points, points).square().round()
    best = min(
        combinations(range(n), n - f),
        key=lambda subset: (max(sqdist[i, j] for i, j in combinations(subset, 2)), subset),
    )
    assert least_diameter(sqdist, n - f) == list(best)


def test_cge_keeps_the_smallest_norms():
    g = torch.tensor([[3.0, 0], [0, 1], [1, 0], [0, 2], [90, 0]])
    assert CGE()(g, 2).tolist() == pytest.approx([1 / 3, 1.0])
