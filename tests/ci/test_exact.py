"""The tightenings beyond the paper, each held against brute force or another library."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from drivetrain.ci import plan
from drivetrain.ci.bounds import clopper_pearson, trinomial_rate
from drivetrain.ci.decision import discrete_rate, mistake_of
from drivetrain.ci.exact import at_threshold, bounded, bounded_tail, paired, paired_tail, threshold_count
from drivetrain.ci.plan import parse_condition


def law_of_sum(items, up, down):
    """Exact law of a sum of N values in {-1, 0, 1}, by convolution; index 0 is -N."""
    law = np.array([1.0])
    step = np.array([down, 1 - up - down, up])
    for _ in range(items):
        law = np.convolve(law, step)
    return law


def tail(items, count, up, down):
    return law_of_sum(items, up, down)[max(0, items + count) :].sum()


@given(st.integers(20, 80), st.integers(1, 20), st.floats(-0.1, 0.3), st.floats(0.02, 0.2))
@settings(deadline=None, max_examples=60)
def test_paired_tail_is_the_convolution(items, count, mean, extra):
    differ = min(abs(mean) + extra, 0.5)
    exact = tail(items, count, (differ + mean) / 2, (differ - mean) / 2)
    found = paired_tail(items, count, mean, differ, 1e-6)
    assert exact - 1e-12 <= found <= exact + 1e-12


@pytest.mark.parametrize(("mean", "differ"), [(0.0, 0.5), (0.02, 0.2), (0.1, 0.45), (-0.05, 0.3)])
def test_worst_law_has_the_largest_mean_and_the_largest_difference(mean, differ):
    """Brute force over laws with mean <= `mean` and P(+-1) <= `differ`: none has a larger tail."""
    for items, tol in ((120, 0.15), (200, 0.1)):
        count = threshold_count(items, mean + tol)
        worst = paired_tail(items, count, mean, differ, 1e-6)
        for d in np.linspace(abs(mean) + 1e-6, differ, 25):
            for m in np.linspace(-d, mean, 6):
                assert tail(items, count, (d + m) / 2, (d - m) / 2) <= worst + 1e-12


@pytest.mark.parametrize("mean", [0.0, 0.05, 0.3])
def test_any_difference_is_safe_for_every_law_and_every_larger_size(mean):
    """paired(differ=1): the true tail stays below delta for all d, at the size found and at sizes above it."""
    log = math.log(1 / 0.01)
    size = paired(log, 0.2, mean)
    assert size is not None and size < 2 * log / 0.2**2
    for items in range(size, size + 40):
        count = threshold_count(items, mean + 0.2)
        for d in np.linspace(max(mean, 1e-3), 1.0, 60):
            assert tail(items, count, (d + mean) / 2, (d - mean) / 2) <= 0.01


def test_paired_size_is_safe_and_nearly_the_smallest():
    log = math.log(1 / 0.005)
    size = paired(log, 0.05, 0.02, 0.1)
    errors = [paired_tail(n, threshold_count(n, 0.07), 0.02, 0.1, 0.005) for n in range(size - 40, size + 400)]
    assert max(errors[40:]) <= 0.005 < max(errors[:40])


@given(st.floats(0.02, 0.9), st.floats(0.02, 0.2), st.floats(2, 12))
@settings(deadline=None, max_examples=40)
def test_threshold_size_is_safe_for_every_larger_size(q, tol, log):
    if q + tol >= 0.99:
        return
    size = at_threshold(log, tol, q)
    sizes = np.arange(size, size + 300)
    counts = np.array([threshold_count(n, q + tol) for n in sizes])
    assert stats.binom.sf(counts - 1, sizes, q).max() <= math.exp(-log)


@given(st.floats(0.05, 0.9), st.floats(0.02, 0.3), st.integers(5, 200), st.sampled_from(["two", "uniform", "three"]))
@settings(deadline=None, max_examples=60)
def test_bounded_tail_dominates_the_binomial_and_other_laws(q, tol, items, kind):
    if q + tol >= 1:
        return
    total = items * (q + tol)
    bound = bounded_tail(items, total, q)
    if kind == "two":
        assert stats.binom.sf(math.ceil(total - 1e-9) - 1, items, q) <= bound + 1e-12
    elif kind == "three":  # values 0, 1/2, 1 with the same mean
        half = min(q, 1 - q)
        up = q - half / 2
        law = np.array([1.0])
        for _ in range(items):
            law = np.convolve(law, [1 - half - up, half, up])
        assert law[math.ceil(2 * total - 1e-9) :].sum() <= bound + 1e-12
    else:
        assert bound <= math.exp(-items * _kl(q + tol, q)) * (1 + 1e-9)  # never worse than Chernoff


def _kl(a, q):
    return a * math.log(a / q) + (1 - a) * math.log((1 - a) / (1 - q))


def test_bounded_size_lies_between_threshold_and_hoeffding():
    log = math.log(32 / 1e-4)
    assert at_threshold(log, 0.05, 0.5) < bounded(log, 0.05, 0.5) < log / (2 * 0.05**2)


def test_chernoff_rate_of_a_difference_by_brute_force():
    tilts = np.linspace(0.001, 3, 30_000)
    up, down = 0.06, 0.04
    exponents = tilts * 0.07 - np.log(1 - up - down + up * np.exp(tilts) + down * np.exp(-tilts))
    assert trinomial_rate(0.02, 0.05, 0.1) == pytest.approx(exponents.max(), rel=1e-6)


def test_corner_bound_agrees_with_the_trinomial_and_covers_other_conditions():
    """n - o priced by the corners of its polytope gives the trinomial exponent; n - 1.1 o is not far from it."""
    clause = parse_condition("n - 1.0000001*o > 0.02 +/- 0.05").clauses[0]
    form = mistake_of(clause, "fp-free")
    assert discrete_rate(form, 0.1) == pytest.approx(trinomial_rate(0.02, 0.05, 0.1), rel=1e-4)
    price = plan("n - 1.1*o > 0.01 +/- 0.01 /\\ d < 0.1 +/- 0.01", reliability=0.9999, adaptivity="none")
    assert price.labels < 294_792 / 5


def test_clopper_pearson_against_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for successes, items, delta in ((300, 5_509, 1e-4), (0, 50, 0.01), (50, 50, 0.01), (7, 20, 0.05)):
        low, high = proportion.proportion_confint(successes, items, alpha=2 * delta, method="beta")
        found = clopper_pearson(successes, items, -math.log(delta))
        assert found == pytest.approx((np.nan_to_num(low), 1.0 if np.isnan(high) else high), abs=1e-9)


@given(
    st.sampled_from(["n > 0.8", "n - o > 0.02", "d < 0.2", "n - 1.1*o > 0.01"]),
    st.sampled_from(["hoeffding", "auto"]),
    st.sampled_from(["fp-free", "fn-free"]),
)
@settings(deadline=None, max_examples=16)
def test_sizes_move_the_right_way(text, estimator, mode):
    def items(tol=0.05, reliability=0.999, steps=16, adaptivity="none"):
        return plan(
            f"{text} +/- {tol}",
            reliability=reliability,
            steps=steps,
            adaptivity=adaptivity,
            estimator=estimator,
            mode=mode,
        ).items

    assert items(tol=0.04) > items() > items(tol=0.06)
    assert items(reliability=0.9999) > items() > items(reliability=0.99)
    assert items(steps=32) > items() > items(steps=8)
    assert items(adaptivity="full") >= items(adaptivity="passes:3") >= items(adaptivity="first-change") == items()


def test_more_difference_needs_more_labels():
    for estimator in ("bennett", "auto"):
        sizes = [
            plan("n - o > 0.02 +/- 0.02", estimator=estimator, variance_bound=p).labels
            for p in (0.05, 0.1, 0.2, 0.4, 0.9)
        ]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_very_small_errors_fall_back_to_closed_forms():
    price = plan("n - o > 0.02 +/- 0.05", steps=2_000, adaptivity="full")
    assert price.clauses[0].method in ("chernoff", "hoeffding")
    assert price.labels <= plan("n - o > 0.02 +/- 0.05", steps=2_000, adaptivity="full", estimator="hoeffding").labels


@pytest.mark.parametrize(
    ("text", "mode", "q", "upper"),
    [
        ("n > 0.9 +/- 0.03", "fp-free", 0.9, True),
        ("n > 0.9 +/- 0.03", "fn-free", 0.9, False),
        ("d < 0.1 +/- 0.03", "fp-free", 0.1, False),
        ("d < 0.1 +/- 0.03", "fn-free", 0.1, True),
        ("-2*n < -1.8 +/- 0.06", "fp-free", 0.9, True),
    ],
)
def test_the_tail_that_matters_is_the_one_that_is_priced(text, mode, q, upper):
    """The side of the mistake, by scipy: the estimate beyond the threshold by more than the tolerance."""
    price = plan(text, reliability=0.99, steps=1, adaptivity="none", mode=mode)
    assert price.clauses[0].method == "threshold"

    def error(items):
        if upper:
            return stats.binom.sf(math.floor(items * (q + 0.03) + 1e-9), items, q)
        return stats.binom.cdf(math.ceil(items * (q - 0.03) - 1e-9) - 1, items, q)

    assert (
        error(price.items) <= 0.01 * (1 + 1e-9) and max(error(n) for n in range(price.items - 15, price.items)) > 0.01
    )
