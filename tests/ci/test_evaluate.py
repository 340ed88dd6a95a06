"""Deciding: three values, exact counts, labels only where they matter, and clear complaints."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivetrain.ci import ConditionError, TestSetTooSmall, evaluate, plan
from drivetrain.ci.evaluate import _kleene

EASY = {"reliability": 0.9, "steps": 1, "adaptivity": "none"}
BOTH = "d < 0.2 +/- 0.05 /\\ n - o > 0.02 +/- 0.05"


def models(items, new_right, old_right, both_right=None):
    """Labels 0 everywhere; new and old are wrong where they say 1."""
    labels = np.zeros(items, dtype=np.int64)
    new, old = np.ones(items, dtype=np.int64), np.ones(items, dtype=np.int64)
    new[:new_right] = 0
    start = 0 if both_right is None else new_right - both_right
    old[start : start + old_right] = 0
    return new, old, labels


@pytest.mark.parametrize(
    ("new_right", "outcome", "fp_free", "fn_free"),
    [(8_400, True, True, True), (8_250, None, False, True), (8_050, False, False, False)],
)
def test_three_outcomes_and_two_modes(new_right, outcome, fp_free, fn_free):
    """Section 5: accuracy 0.84, 0.825, 0.805 against 0.80 under n - o > 0.02 +/- 0.01."""
    text = "n - o > 0.02 +/- 0.01"
    for mode, passed in (("fp-free", fp_free), ("fn-free", fn_free)):
        price = plan(text, mode=mode, estimator="auto", variance_bound=0.06, **EASY)
        verdict = evaluate(text, *models(10_000, new_right, 8_000), plan=price)
        assert (verdict.outcome, verdict.passed) == (outcome, passed)


def test_interval_is_estimate_and_tolerance():
    text = "n - o > 0.02 +/- 0.01"
    price = plan(text, variance_bound=0.06, **EASY)
    (clause,) = evaluate(text, *models(10_000, 8_250, 8_000), plan=price).clauses
    assert (clause.estimate, clause.low, clause.high) == (0.025, 0.015, 0.035)


@pytest.mark.parametrize(
    ("right", "outcome"), [(3_000, None), (3_001, True), (2_999, None), (2_800, None), (2_799, False)]
)
def test_the_boundary_counts_as_unknown(right, outcome):
    text = "n > 0.29 +/- 0.01"
    price = plan(text, **EASY)
    assert evaluate(text, *models(10_000, right, 0), plan=price).outcome is outcome


def test_equality_that_floats_get_wrong():
    assert 0.9 - 0.7 - 0.1 > 0.1  # what plain floats would compare
    text = "n - o > 0.1 +/- 0.1"
    price = plan(text, **EASY)
    assert evaluate(text, *models(10_000, 9_000, 7_000), plan=price).outcome is None
    assert evaluate(text, *models(10_000, 9_001, 7_000), plan=price).outcome is True


@pytest.mark.parametrize("a", [True, False, None])
@pytest.mark.parametrize("b", [True, False, None])
def test_kleene(a, b):
    expected = False if False in (a, b) else None if None in (a, b) else True
    assert _kleene([a, b]) is expected


def random_models(seed, items=3_000, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, items)
    new = np.where(rng.random(items) < 0.85, labels, rng.integers(0, classes, items))
    old = np.where(rng.random(items) < 0.9, new, rng.integers(0, classes, items))
    return new, old, labels


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_active_labelling_gives_the_same_estimate_bit_for_bit(seed):
    new, old, labels = random_models(seed)
    text = "n - o > 0.02 +/- 0.1"
    price = plan(text, **EASY)
    everything = evaluate(text, new, old, labels, plan=price)
    only_differing = np.where(new != old, labels, -1)
    active = evaluate(text, new, old, only_differing, plan=price)
    assert active.clauses == everything.clauses
    assert active.labels_used == np.count_nonzero(new != old)
    assert active.clauses[0].estimate == (np.sum(new == labels) - np.sum(old == labels)) / len(labels)


def test_missing_labels_are_asked_for_in_the_planned_sample_only():
    new, old, labels = random_models(1, items=20_000)
    price = plan(BOTH, **EASY)
    known = np.full(len(labels), -1)
    first = evaluate(BOTH, new, old, known, plan=price)
    assert not first.decided and not first.passed and first.outcome is None
    assert 0 < len(first.needs_labels) <= price.labels
    assert (new != old)[first.needs_labels].all()
    known[first.needs_labels] = labels[first.needs_labels]
    second = evaluate(BOTH, new, old, known, plan=price)
    assert second.decided and second.labels_used == len(first.needs_labels) and second.items == price.labels


def test_labels_are_reused_by_the_next_commit():
    new, old, labels = random_models(1, items=20_000)
    price = plan(BOTH, **EASY)
    known = np.full(len(labels), -1)
    asked = evaluate(BOTH, new, old, known, plan=price).needs_labels
    known[asked] = labels[asked]
    nearly = new.copy()
    nearly[:300] = old[:300]
    again = evaluate(BOTH, nearly, old, known, plan=price)
    assert again.decided  # a subset of the same rows differs


def test_a_failed_unlabelled_clause_spends_no_label():
    new, old, labels = random_models(2)
    text = "d < 0.01 +/- 0.005 /\\ n - o > 0 +/- 0.05"
    price = plan(text, **EASY)
    verdict = evaluate(text, new, old, np.full(len(new), -1), plan=price)
    assert (verdict.outcome, verdict.passed, verdict.labels_used, verdict.decided) == (False, False, 0, True)
    assert verdict.clauses[1].estimate is None
    looked = evaluate(text, new, old, labels, plan=price, look_at_all=True)
    assert looked.clauses[1].estimate is not None and looked.labels_used > 0


def test_variance_bound_from_a_pool_uses_rows_of_its_own():
    new, old, labels = random_models(3, items=30_000)
    text = "n - o > 0.02 +/- 0.03"
    price = plan(text, variance_bound="pool", **EASY)
    verdict = evaluate(text, new, old, np.full(len(new), -1), plan=price)
    share = np.mean(new != old)
    assert len(verdict.needs_labels) < 1.3 * share * price.given(share + 0.06).labels
    assert len(verdict.needs_labels) < 0.5 * share * price.labels
    known = np.full(len(new), -1)
    known[verdict.needs_labels] = labels[verdict.needs_labels]
    assert evaluate(text, new, old, known, plan=price).decided
    assert evaluate(text, new, old, labels, plan=price).items == len(new) - price.pool
    assert price.given(0.2).clauses[0].log_inverse == pytest.approx(price.log_inverse - math.log(0.95))


def test_certificate_of_the_spec():
    text = "n - o > 0.02 +/- 0.02"
    price = plan(text, reliability=0.998, steps=7, adaptivity="none")
    for b, c, estimate, low, high, outcome in (
        (300, 150, 0.02723, 0.00793, 0.04643, None),
        (330, 110, 0.03993, 0.02122, 0.05851, True),
    ):
        labels = np.zeros(5_509, dtype=np.int64)
        new, old = labels.copy(), labels.copy()
        old[:b] = 1
        new[b : b + c] = 1
        verdict = evaluate(text, new, old, labels, plan=price, decide="certificate")
        (clause,) = verdict.clauses
        assert (clause.estimate, clause.low, clause.high) == pytest.approx((estimate, low, high), abs=5e-6)
        assert verdict.outcome is outcome


def test_certificate_sign_agrees_with_mcnemar():
    """A certificate that n > o at level delta implies a small exact McNemar p-value: it is the stricter test."""
    mcnemar = pytest.importorskip("statsmodels.stats.contingency_tables").mcnemar
    text = "n - o > 0 +/- 0.01"
    price = plan(text, reliability=0.99, steps=1, adaptivity="none")
    found = set()
    for b, c in ((60, 20), (40, 30), (90, 10), (31, 30)):
        labels = np.zeros(1_000, dtype=np.int64)
        new, old = labels.copy(), labels.copy()
        old[:b], new[b : b + c] = 1, 1
        verdict = evaluate(text, new, old, labels, plan=price, decide="certificate")
        p = mcnemar([[1_000 - b - c, b], [c, 0]], exact=True).pvalue
        found.add(verdict.outcome)
        if verdict.outcome:
            assert p / 2 < 0.01
    assert found == {True, None}


def test_slices_and_scores():
    new, _old, labels = random_models(4)
    text = "n > 0.5 +/- 0.05 /\\ n[night] > 0.5 +/- 0.1"
    price = plan(text, **EASY)
    night = np.arange(len(new)) % 3 == 0
    verdict = evaluate(text, new, None, labels, plan=price, slices={"night": night})
    assert verdict.clauses[1].estimate == np.mean((new == labels)[night])
    assert price.labels == sum(clause.n for clause in price.clauses)
    with pytest.raises(ValueError, match="slice 'night' is unknown\ndid you mean 'Night'"):
        evaluate(text, new, None, labels, plan=price, slices={"Night": night})

    rng = np.random.default_rng(0)
    score = rng.uniform(20, 90, 2_000)
    text = "n - o > 1 +/- 5"
    scored = plan(text, score_range=(0, 100), **EASY)
    verdict = evaluate(text, score + 8, score, None, plan=scored)
    assert verdict.clauses[0].estimate == pytest.approx(8) and verdict.passed
    with pytest.raises(ValueError, match=r"new\[7\] is 101, outside score_range \(0, 100\)"):
        evaluate(text, np.where(np.arange(2_000) == 7, 101.0, score), score, None, plan=scored)


def test_groups_count_as_items():
    new, _old, labels = random_models(5)
    groups = np.arange(len(new)) // 3
    text = "n > 0.5 +/- 0.1"
    price = plan(text, grouped=True, **EASY)
    verdict = evaluate(text, new, None, labels, plan=price, groups=groups)
    assert verdict.items == 1_000
    assert verdict.clauses[0].estimate == pytest.approx(np.mean((new == labels).reshape(-1, 3).mean(1)))
    assert price.labels > plan(text, **EASY).labels  # averages may take any value, so the exact law does not apply
    small = plan("n > 0.5 +/- 0.02", grouped=True, **EASY)
    with pytest.raises(TestSetTooSmall, match="have 1,000"):
        evaluate("n > 0.5 +/- 0.02", new, None, labels, plan=small, groups=groups)


def test_correctness_and_a_first_model():
    new, old, labels = random_models(6)
    text = "n > 0.5 +/- 0.05"
    price = plan(text, **EASY)
    by_class = evaluate(text, new, None, labels, plan=price)
    by_right = evaluate(text, new == labels, None, None, plan=price)
    assert by_class.clauses == by_right.clauses and by_class.passed
    with pytest.raises(ValueError, match="'o', but there is no old model\n.*n > 0.9"):
        evaluate("n - o > 0 +/- 0.1", new, None, labels, plan=plan("n - o > 0 +/- 0.1", **EASY))
    with pytest.raises(ValueError, match="d can't be known from correctness"):
        text = "d < 0.2 +/- 0.1"
        evaluate(text, new == labels, old == labels, None, plan=plan(text, **EASY))


NEW, OLD, LABELS = random_models(7)


@pytest.mark.parametrize(
    ("new", "old", "labels", "message"),
    [
        (NEW[:-1], OLD, LABELS, r"old has 3,000 rows, the test set has 2,999"),
        (NEW, OLD[:-1], LABELS, r"old has 2,999 rows, the test set has 3,000"),
        (np.where(np.arange(3_000) == 9, np.nan, NEW), OLD, LABELS, r"new\[9\] is nan"),
        (NEW + 0.5, OLD, LABELS, r"new\[0\] is .*, not a class"),
        (NEW, OLD, np.where(np.arange(3_000) == 5, -2, LABELS), r"labels\[5\] is -2"),
        (NEW, OLD, np.where(np.arange(3_000) == 5, 7, LABELS), r"labels\[5\] is 7, there are 4 classes"),
        (np.where(np.arange(3_000) == 3, -1, NEW), OLD, LABELS, r"new\[3\] is -1"),
        (NEW.reshape(2, -1), OLD, LABELS, r"new has shape \(2, 1500\)"),
        (NEW.astype(str), OLD, LABELS, r"new holds <U"),
        (NEW, OLD, None, r"predicted classes need labels"),
        (NEW[:0], OLD[:0], LABELS[:0], r"no items"),
        (NEW, OLD == LABELS, LABELS, r"new holds classes and old correctness"),
    ],
)
def test_bad_arrays_name_the_thing(new, old, labels, message):
    price = plan(BOTH, **EASY)
    with pytest.raises(ValueError, match=message):
        evaluate(BOTH, new, old, labels, plan=price, classes=4)


def test_bad_arguments_name_the_thing():
    price = plan(BOTH, **EASY)
    for change, message in (
        ({"condition": "n > 0.5 +/- 0.1"}, "the plan is for"),
        ({"decide": "tolerence"}, "did you mean 'tolerance'"),
        ({"groups": np.zeros(3_000)}, "grouped=True"),
    ):
        arguments = {"condition": BOTH, "plan": price, **change}
        with pytest.raises(ValueError, match=message):
            evaluate(arguments.pop("condition"), NEW, OLD, LABELS, **arguments)
    for change, message in (
        ({"reliability": 1.0}, "reliability is 1.0"),
        ({"reliability": 0}, "reliability is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"adaptivity": "ful"}, "did you mean 'full'"),
        ({"adaptivity": "passes:x"}, "passes"),
        ({"mode": "fpfree"}, "did you mean 'fp-free'"),
        ({"estimator": "hoefding"}, "did you mean 'hoeffding'"),
        ({"variance_bound": 0.0}, "variance_bound is 0.0"),
        ({"label_fraction": 2}, "label_fraction is 2"),
        ({"score_range": (1, 0)}, "score_range"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(BOTH, **{**EASY, **change})
    with pytest.raises(ConditionError):
        plan("n > 0.9 +/- 0")


def test_a_promise_the_data_break_is_an_error():
    text = "n - o > 0.02 +/- 0.1"
    price = plan(text, variance_bound=0.02, **EASY)
    with pytest.raises(ValueError, match="promises that at most 0.02 of the items differ"):
        evaluate(text, NEW, OLD, LABELS, plan=price)


def test_out_of_reach_is_a_warning():
    assert plan("n > 0.95 +/- 0.1").warnings
    assert not plan("n > 0.8 +/- 0.1").warnings
    assert "warning" in plan("n > 0.95 +/- 0.1").explain()


def test_explain_prices_every_knob():
    text = plan("n - o > 0.02 +/- 0.02", reliability=0.9999, adaptivity="full").explain()
    for change in (
        "full -> first-change",
        "full -> passes:3",
        "0.02 -> 0.03",
        "0.9999 -> 0.999",
        "32 -> 16",
        "d < 0.1",
    ):
        assert change in text
    assert math.isclose(plan("n > 0.9 +/- 0.01", steps=4).delta_step, 0.001 / 4)
