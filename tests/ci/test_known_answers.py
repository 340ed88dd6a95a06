"""Every number of the spec's tables (sections 1, 2.4, 2.5, 2.6, 5)."""

import math

import pytest

from drivetrain.ci import plan
from drivetrain.ci.bounds import bennett, bennett_exponent, hoeffding, split_tolerance
from drivetrain.ci.exact import binomial_tail, worst_binomial, worst_binomial_tail
from drivetrain.ci.reliability import feedback_nodes, log_inverse_delta

BOTH = "d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01"
LINEAR = "n - 1.1*o > 0.01 +/- 0.01 /\\ d < 0.1 +/- 0.01"

GRID = {  # reliability, tolerance -> one variable none, full; difference none, full (section 2.5)
    (0.99, 0.1): (404, 1_340, 1_753, 5_496),
    (0.99, 0.05): (1_615, 5_358, 7_012, 21_984),
    (0.99, 0.025): (6_457, 21_429, 28_045, 87_933),
    (0.99, 0.01): (40_355, 133_930, 175_282, 549_581),
    (0.999, 0.1): (519, 1_455, 2_214, 5_957),
    (0.999, 0.05): (2_075, 5_818, 8_854, 23_826),
    (0.999, 0.025): (8_299, 23_271, 35_414, 95_302),
    (0.999, 0.01): (51_868, 145_443, 221_333, 595_633),
    (0.9999, 0.1): (634, 1_570, 2_674, 6_417),
    (0.9999, 0.05): (2_536, 6_279, 10_696, 25_668),
    (0.9999, 0.025): (10_141, 25_113, 42_782, 102_670),
    (0.9999, 0.01): (63_381, 156_956, 267_385, 641_684),
    (0.99999, 0.1): (749, 1_685, 3_135, 6_878),
    (0.99999, 0.05): (2_996, 6_739, 12_538, 27_510),
    (0.99999, 0.025): (11_983, 26_955, 50_150, 110_038),
    (0.99999, 0.01): (74_894, 168_469, 313_437, 687_736),
}


@pytest.mark.parametrize(("cell", "expected"), GRID.items(), ids=str)
def test_table_of_section_2_5(cell, expected):
    reliability, tol = cell
    found = []
    for text, field in ((f"n > 0.5 +/- {tol}", "labels"), (f"n - o > 0.02 +/- {tol}", "labels")):
        for adaptivity in ("none", "full"):
            price = plan(text, reliability=reliability, adaptivity=adaptivity, estimator="hoeffding")
            found.append(getattr(price, field))
    assert tuple(found) == expected
    free = plan(f"d < 0.3 +/- {tol}", reliability=reliability, adaptivity="none", estimator="hoeffding")
    assert (free.labels, free.unlabelled) == (0, expected[0])


@pytest.mark.parametrize(("cell", "expected"), GRID.items(), ids=str)
def test_auto_never_asks_for_more_than_the_paper(cell, expected):
    reliability, tol = cell
    for text, none, full in (
        (f"n > 0.5 +/- {tol}", expected[0], expected[1]),
        (f"n - o > 0.02 +/- {tol}", expected[2], expected[3]),
    ):
        for adaptivity, paper in (("none", none), ("full", full)):
            for mode in ("fp-free", "fn-free"):
                assert plan(text, reliability=reliability, adaptivity=adaptivity, mode=mode).labels <= paper


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"condition": "n > 0.9 +/- 0.01", "reliability": 0.9999, "steps": 1, "adaptivity": "none"}, 46_052),
        ({"condition": "n > 0.9 +/- 0.01", "reliability": 0.9999, "adaptivity": "none"}, 63_381),
        ({"condition": "n > 0.9 +/- 0.01", "reliability": 0.9999, "adaptivity": "full"}, 156_956),
        ({"condition": "n - o > 0.02 +/- 0.02", "reliability": 0.998, "steps": 7, "adaptivity": "none"}, 44_269),
        ({"condition": "n - o > 0.02 +/- 0.02", "reliability": 0.998, "steps": 7, "adaptivity": "full"}, 58_799),
        ({"condition": "n - o > 0.1 +/- 0.1", "reliability": 0.99, "adaptivity": "full"}, 5_496),
        ({"condition": LINEAR, "reliability": 0.9999, "adaptivity": "none"}, 310_076),
        ({"condition": LINEAR, "reliability": 0.9999, "adaptivity": "full"}, 722_741),
    ],
    ids=str,
)
def test_hoeffding(arguments, expected):
    assert plan(**arguments, estimator="hoeffding").labels == expected


@pytest.mark.parametrize(
    ("steps", "adaptivity", "labels", "pool", "asked"),
    [(1, "none", 21_889, 49_518, 2_189), (32, "none", 29_048, 66_847, 2_905), (32, "full", 67_706, 160_421, 6_771)],
)
def test_bennett_with_hierarchical_testing(steps, adaptivity, labels, pool, asked):
    price = plan(BOTH, reliability=0.9999, steps=steps, adaptivity=adaptivity, estimator="bennett")
    assert (price.labels, price.unlabelled, price.labels_per_commit) == (labels, pool, asked)


@pytest.mark.parametrize(
    ("condition", "adaptivity", "expected"),
    [("n - o > 0.02 +/- 0.02", "none", 4_713), ("n - o > 0.018 +/- 0.022", "full", 5_204)],
)
def test_emotion_history_with_a_promised_bound(condition, adaptivity, expected):
    price = plan(condition, reliability=0.998, steps=7, adaptivity=adaptivity, estimator="bennett", variance_bound=0.1)
    assert price.labels == expected


def test_linear_condition_splits_the_tolerance_in_the_best_way():
    assert split_tolerance([1, -1.1], 0.01) == pytest.approx([0.0047619, 0.0052381], abs=1e-7)
    price = plan(LINEAR, reliability=0.9999, adaptivity="none", estimator="hoeffding")
    assert [clause.n for clause in price.clauses] == [310_076, 66_847]
    log = log_inverse_delta(0.9999, 32, "none") + math.log(4)
    assert hoeffding(log, 0.005, 1.1) == 340_310  # an equal split
    assert hoeffding(log - math.log(2), 0.01, 2.1) == 294_792  # the paired view saves the ln k
    full = plan(LINEAR, reliability=0.9999, adaptivity="full", estimator="hoeffding")
    assert [clause.n for clause in full.clauses] == [722_741, 160_421]


def test_feedback_trees():
    assert [feedback_nodes(32, k) for k in (1, 2, 3, 4)] == [32, 528, 5_488, 41_448]
    assert feedback_nodes(32, 32) == 2**32 - 1
    labels = [
        plan("n > 0.9 +/- 0.01", reliability=0.9999, adaptivity=f"passes:{k}", estimator="hoeffding").labels
        for k in (1, 2, 3, 4)
    ]
    assert labels == [63_381, 77_398, 89_104, 99_213]


def test_error_of_one_step():
    assert log_inverse_delta(0.9999, 32, "none") == pytest.approx(12.6761, abs=5e-5)
    assert log_inverse_delta(0.9999, 32, "full") == pytest.approx(31.3911, abs=5e-5)
    assert math.exp(-log_inverse_delta(0.99, 3, "open")) == pytest.approx(6 * 0.01 / (math.pi**2 * 9))


def test_bennett_exponent_and_sizes():
    assert bennett_exponent(0.1) == pytest.approx(0.00484120, abs=5e-9)
    assert bennett_exponent(0.2) == pytest.approx(0.01878587, abs=5e-9)
    assert bennett_exponent(1) == pytest.approx(0.38629436, abs=5e-9)
    log = math.log(64 / 1e-4)
    assert bennett(log, 0.01, 1.0) == 268_275
    assert hoeffding(math.log(32 / 1e-4), 0.01, 2.0) == 253_522
    assert bennett(log, 0.01, 0.1) == 27_616
    floors = [
        plan(
            f"n > {floor} +/- 0.01", reliability=0.9999, adaptivity="none", estimator="bennett",
            variance_bound=round(1 - floor, 2),
        ).labels
        for floor in (0.9, 0.95, 0.98)
    ]  # fmt: skip
    assert floors == [27_616, 14_234, 6_179]


def test_implicit_variance_bound_costs_unlabelled_items():
    price = plan(
        "n - o > 0.02 +/- 0.01", reliability=0.9999, adaptivity="none", estimator="bennett", variance_bound="pool"
    )
    assert price.unlabelled == 2_674
    assert price.given(0.1).labels == bennett(math.log(4 * 32 / 1e-4), 0.01, 0.1) == 29_048


@pytest.mark.parametrize(
    ("tol", "delta", "plain", "tight"),
    [
        (0.1, 0.01, 231, 145),
        (0.1, 0.01 / 32, 404, 302),
        (0.05, 0.01 / 32, 1_615, 1_190),
        (0.05, 0.001 / 32, 2_075, 1_622),
        (0.025, 0.0001 / 32, 10_141, 8_203),
        (0.02, 0.002 / 7, 10_201, 7_466),
    ],
)
def test_exact_numerical_bound(tol, delta, plain, tight):
    log = -math.log(delta)
    assert hoeffding(log, tol) == plain
    assert worst_binomial(log, tol) == tight


def test_exact_bound_against_scipy_for_every_size():
    """N = 301 is the largest of 200..420 that fails."""
    from scipy.stats import binom

    delta, failing = 0.01 / 32, []
    assert binom.sf(242, 404, 0.5) == pytest.approx(2.6413e-5, rel=1e-4)
    for items in range(200, 421):
        k = [k for k in range(1, items + 1) if k / items > 0.1]
        worst = max(binom.sf([c - 1 for c in k], items, [c / items - 0.1 for c in k]))
        assert worst_binomial_tail(items, 0.1) == pytest.approx(worst, rel=1e-9)
        if worst > delta:
            failing.append(items)
    assert failing == list(range(200, 302))
    # The spec's 3.05e-4 is the largest value on a grid of q in steps of 0.001; between its points it is higher.
    grid = max(binom.sf(math.floor(302 * (q / 1000 + 0.1) + 1e-12), 302, q / 1000) for q in range(1, 900))
    assert grid == pytest.approx(3.05e-4, abs=1e-6)
    assert worst_binomial_tail(302, 0.1) == pytest.approx(3.1077e-4, abs=1e-8)


def test_binomial_tail_against_scipy():
    from scipy.stats import binom

    for items, k, q in ((404, 243, 0.5), (1000, 1, 0.001), (10, 0, 0.3), (10, 11, 0.3), (50_000, 5_400, 0.1)):
        assert float(binomial_tail(items, k, q)) == pytest.approx(float(binom.sf(k - 1, items, q)), rel=1e-9)


def test_what_a_small_test_set_affords():
    price = plan(BOTH, reliability=0.9999, adaptivity="none", estimator="bennett")
    assert price.affordable(5_509) == 0.0235
    with pytest.raises(ValueError, match=r"need 29,048 items .* have 5,509\n.*\n.*\+/- 0.0235 you would need 5,478"):
        price.require(5_509)
