"""The promise itself, tested by its distribution: wrong accepts are at most as frequent as delta allows."""

import numpy as np
import pytest
from scipy import stats

from drivetrain.ci import evaluate, plan

DELTA = 0.1
STEPS = 8
HISTORIES = 2_000


def allowed(histories, delta=DELTA):
    """Largest count of bad histories that does not contradict a rate of delta (one-sided exact binomial, 1e-6)."""
    return int(stats.binom.isf(1e-6, histories, delta))


def greedy_history(rng, price, floor):
    """One developer: every model is a perturbation of the best so far, and all are truly just below the floor.

    Each item is right with probability `floor`, so the true accuracy is known. The developer sees each verdict, and
    keeps most of what a nearly accepted model does and half of what a rejected one does.
    """
    items = price.labels
    right = rng.random(items) < floor
    for _ in range(price.steps):
        verdict = evaluate(price.condition, right, None, None, plan=price)
        if verdict.passed:
            return True
        fresh = rng.random(items) < floor
        keep = rng.random(items) < (0.5 if verdict.outcome is False else 0.9)
        right = np.where(keep, right, fresh)
    return False


@pytest.mark.parametrize("adaptivity", ["full", "first-change"])
def test_adaptive_histories_rarely_accept_a_bad_model(adaptivity):
    """Every model has n = floor exactly, the worst case of `n > floor`: any accept is a wrong one."""
    text = "n > 0.8 +/- 0.1"
    price = plan(text, reliability=1 - DELTA, steps=STEPS, adaptivity=adaptivity)
    rng = np.random.default_rng(8)
    wrong = sum(greedy_history(rng, price, 0.8) for _ in range(HISTORIES))
    assert wrong <= allowed(HISTORIES)


def test_a_gate_without_tolerance_fails_this_test():
    """The same developer against a plain point comparison on as many items: nearly every history goes wrong."""
    rng, wrong = np.random.default_rng(8), 0
    items = plan("n > 0.8 +/- 0.1", reliability=1 - DELTA, steps=STEPS, adaptivity="full").labels
    for _ in range(200):
        right = rng.random(items) < 0.8
        for _ in range(STEPS):
            if right.mean() > 0.8:
                wrong += 1
                break
            right = np.where(rng.random(items) < 0.5, right, rng.random(items) < 0.8)
    assert wrong > allowed(200) * 3


@pytest.mark.parametrize("mode", ["fp-free", "fn-free"])
@pytest.mark.parametrize("differ", [0.1, 1.0])
def test_one_paired_decision_errs_as_often_as_allowed_and_not_more(mode, differ):
    """n - o at its threshold and the share of differing items at its limit: the error is near delta, never above."""
    text = "n - o > 0.02 +/- 0.05"
    bound = differ if differ < 1 else None
    price = plan(text, reliability=1 - DELTA, steps=1, adaptivity="none", mode=mode, variance_bound=bound)
    rng, histories = np.random.default_rng(2), 4_000
    items = price.labels
    up, down = (differ + 0.02) / 2, (differ - 0.02) / 2
    counts = rng.multinomial(items, [up, down, 1 - up - down], size=histories)
    sign = 1 if mode == "fp-free" else -1
    estimates = (counts[:, 0] - counts[:, 1]) / items
    wrong = int(np.sum(sign * (estimates - 0.02) > 0.05 + 1e-12))
    assert 0.4 * DELTA * histories < wrong <= allowed(histories)


def test_conjunction_needs_no_split_in_fp_free():
    """d and n - o both exactly at their thresholds, models worst for both: accepts stay below delta."""
    text = "d < 0.2 +/- 0.05 /\\ n - o > 0.05 +/- 0.05"
    price = plan(text, reliability=1 - DELTA, steps=1, adaptivity="none")
    rng, wrong, histories = np.random.default_rng(3), 0, 1_500
    items = max(price.labels, price.unlabelled)
    for _ in range(histories):
        kind = rng.choice(3, size=items, p=[0.8, 0.125, 0.075])  # agree, only new right, only old right
        labels = np.zeros(items, dtype=np.int64)
        verdict = evaluate(text, np.where(kind == 2, 1, labels), np.where(kind == 1, 1, labels), labels, plan=price)
        wrong += verdict.passed
    assert wrong <= allowed(histories)
