"""Distances between distributions: the specification's numbers, metric properties, bins that outliers can't stretch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivetrain.data import analyze, jensen_shannon, kolmogorov_smirnov, l_infinity, noise_floor, wasserstein_1
from drivetrain.data.compare import measure
from drivetrain.data.distances import js_noise_floor, normalized_abs_difference, pooled_bins, standard_bins
from drivetrain.data.quantiles import QuantileSketch

masses = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any)


def test_known_values():
    assert l_infinity((0.6, 0.3, 0.1), (0.5, 0.3, 0.2))[0] == pytest.approx(0.1, abs=1e-15)
    assert jensen_shannon((0.6, 0.3, 0.1), (0.5, 0.3, 0.2)) == pytest.approx(0.015539008579500468, abs=1e-15)
    assert jensen_shannon((0.5, 0.5), (0.9, 0.1)) == pytest.approx(0.1467931024360521, abs=1e-15)
    assert jensen_shannon({"a": 3}, {"b": 5}) == 1.0
    assert normalized_abs_difference({"a": 30, "b": 10}, {"a": 10, "b": 10}) == (20 / 60, "a")
    assert noise_floor(10_000, 5_002, 7) == pytest.approx(0.033, abs=5e-5)


def test_the_value_that_moved_most_is_named():
    assert l_infinity({"a": 6, "b": 3, "c": 1}, {"a": 5, "b": 3, "c": 2})[1] in ("a", "c")
    assert l_infinity({"a": 1, "b": 9}, {"b": 6, "c": 4}) == (pytest.approx(0.4), "c")


def test_standard_histograms_are_aligned_as_tfdv_does():
    a, b = standard_bins([(0, 1, 50), (1, 2, 50)], [(0, 2, 50), (2, 4, 50)])
    assert [a.get(k, 0.0) for k in b] == [50, 50, 0] and list(b.values()) == [25, 25, 50]
    assert jensen_shannon(a, b) == pytest.approx(0.31127812445913283, abs=1e-15)
    a, b = standard_bins([(2, 2, 10)], [(0, 4, 10)])  # a point has a bin of its own
    assert jensen_shannon(a, b) == 1.0


@given(masses, masses, masses)
def test_js_is_symmetric_and_its_root_a_metric(p, q, r):
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert 0.0 <= jensen_shannon(p, q) <= 1.0 and jensen_shannon(p, p) == pytest.approx(0.0, abs=1e-12)
    left, right, across = (math.sqrt(jensen_shannon(*pair)) for pair in ((p, q), (q, r), (p, r)))
    assert across <= left + right + 1e-6


@given(masses, masses)
def test_l_infinity_is_symmetric_and_at_most_total_variation(p, q):
    distance = l_infinity(p, q)[0]
    assert distance == pytest.approx(l_infinity(q, p)[0])
    total = np.abs(np.array(p) / sum(p) - np.array(q) / sum(q)).sum() / 2
    assert distance <= total + 1e-12


def test_empty_sides():
    assert l_infinity({}, {}) == (0.0, None) and jensen_shannon({}, {}) == 0.0
    assert l_infinity({"a": 1}, {})[0] == 1.0 and jensen_shannon({}, {"a": 1}) == 1.0


def test_numeric_distances_agree_with_numpy_and_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=900), rng.normal(0.3, 1.2, size=700)
    ours = QuantileSketch.of(a), QuantileSketch.of(b)
    assert kolmogorov_smirnov(*ours) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)
    assert wasserstein_1(*ours) == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)


def test_an_outlier_stretches_equal_width_bins_but_not_ours():
    """One value far out puts all others into one equal-width bin: a large JS for one distribution (spec 17 §2.6)."""
    rng = np.random.default_rng(1)
    a = np.concatenate([rng.exponential(3.0, 5000), [1710.0]])
    b = rng.exponential(3.0, 5000)
    first, second = (analyze({"x": x.tolist()}).features["x"] for x in (a, b))
    from drivetrain.data import Comparator

    assert measure(first, second, comparator=Comparator(source="standard")).distances["js"] > 0.3
    assert measure(first, second).distances["js"] < 0.01


def test_a_frequent_value_has_a_bin_of_its_own():
    p, q = pooled_bins(QuantileSketch.of([0.0] * 50 + [1.0, 2.0, 3.0]), QuantileSketch.of([0.0] * 10 + [5.0] * 3), 10)
    assert p["0"] == 50 and q["0"] == 10 and p.keys() == q.keys()
    assert sum(p.values()) == 53 and sum(q.values()) == 13


def test_nan_and_infinities_are_values_too():
    a = analyze({"x": [1.0, 2.0, 3.0, 4.0]}).features["x"]
    b = analyze({"x": [1.0, 2.0, math.nan, math.inf]}).features["x"]
    assert measure(a, b).distances["linf"] >= 0.25


def test_the_noise_floor_holds_for_samples_of_one_distribution():
    """At most alpha of the pairs pass the floor. Binomial with 400 pairs and alpha = 0.01: P(more than 12) < 1e-3."""
    rng = np.random.default_rng(2)
    shares, n, m = [0.5, 0.3, 0.15, 0.05], 400, 300
    linf = js = 0
    for _ in range(400):
        p, q = rng.multinomial(n, shares).tolist(), rng.multinomial(m, shares).tolist()
        linf += l_infinity(p, q)[0] > noise_floor(n, m, 4)
        js += jensen_shannon(p, q) > js_noise_floor(n, m, 4)
    assert linf <= 12 and js <= 12


def test_a_threshold_below_the_noise_is_told():
    from drivetrain.data import Comparator

    a, b = (analyze({"x": ["a", "b"] * n}).features["x"] for n in (50, 60))
    notes = measure(a, b, comparator=Comparator(linf=0.001)).notes
    assert len(notes) == 1 and "below sampling noise" in notes[0] and "n=100, m=120, K=2" in notes[0]
    assert measure(a, b, comparator=Comparator(linf=0.5)).notes == ()
