"""Decide a condition on a test set, in three-valued logic and exact arithmetic (§2.3, §4).

TRUE, FALSE and UNKNOWN are True, False and None. A conjunction is FALSE if any clause is, TRUE if all are, else UNKNOWN
(Kleene). Mode `fp-free` accepts TRUE only; `fn-free` rejects FALSE only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ..base.errors import InvalidValue, unknown_name
from .bounds import clopper_pearson
from .condition import Clause, Condition, exact, parse_condition
from .counts import Observed, observe, slice_rows
from .plan import ClausePlan, Plan, TestSetTooSmall

WORDS = {True: "TRUE", False: "FALSE", None: "UNKNOWN"}
DECIDE = ("tolerance", "certificate")
_SAMPLE_SEED = 0  # of the order in which rows are labelled: fixed, so that commits share their labels


@dataclass(frozen=True)
class ClauseVerdict:
    """One clause on the data: estimate and interval from exact counts; None where it was not looked at."""

    clause: Clause
    estimate: float | None
    low: float | None
    high: float | None
    outcome: bool | None

    def __str__(self) -> str:
        if self.estimate is None:
            return f"{self.clause}: {WORDS[self.outcome]}, not looked at"
        return f"{self.clause}: {WORDS[self.outcome]}, {self.estimate:.5f} in [{self.low:.5f}, {self.high:.5f}]"


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a new model.

    Attributes:
        outcome: True, False, or None for UNKNOWN.
        passed: whether the new model may replace the old one, by outcome and mode.
        clauses: estimate, interval and outcome of each clause.
        labels_used: labels that were looked at.
        needs_labels: int64 row numbers whose labels are missing; while there are any nothing is decided.
        items: rows the labelled clauses were decided on.
        differ: share of rows on which the models differ; None without an old model.
    """

    outcome: bool | None
    passed: bool
    clauses: tuple[ClauseVerdict, ...]
    labels_used: int = 0
    needs_labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    items: int = 0
    differ: float | None = None

    @property
    def decided(self) -> bool:
        """Whether there is a decision: no labels are missing."""
        return not len(self.needs_labels)

    @property
    def text(self) -> str:
        """TRUE, FALSE or UNKNOWN and what follows from it, in one line."""
        if not self.decided:
            return f"undecided: {len(self.needs_labels):,} labels are missing"
        return f"{WORDS[self.outcome]}: {'pass' if self.passed else 'reject'}"

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  {clause}" for clause in self.clauses)])

    def to_dict(self) -> dict[str, Any]:
        """All facts, for JSON."""
        return {
            "outcome": WORDS[self.outcome], "passed": self.passed, "decided": self.decided, "items": self.items,
            "labels_used": self.labels_used, "needs_labels": len(self.needs_labels), "differ": self.differ,
            "clauses": [
                {"clause": str(c.clause), "estimate": c.estimate, "low": c.low, "high": c.high, "bound": c.clause.bound,
                 "op": c.clause.op, "outcome": WORDS[c.outcome]}
                for c in self.clauses
            ],
        }  # fmt: skip


def evaluate(
    condition: str | Condition,
    new: Any,
    old: Any,
    labels: Any,
    *,
    plan: Plan,
    decide: str = "tolerance",
    slices: Mapping[str, Any] | None = None,
    groups: Any = None,
    classes: int | None = None,
    look_at_all: bool = False,
) -> Verdict:
    """Decide whether the condition holds.

    Args:
        condition: text or parsed; must be the plan's.
        new, old: int [N] predicted classes, bool [N] correctness, or float [N] scores (with the plan's
            score_range). old may be None if the condition speaks about n only.
        labels: int [N], -1 = not labelled. Not needed for correctness and scores.
        plan: from `plan()`.
        decide: "tolerance" (estimate ± tolerance) or "certificate" (an exact interval from the counts; any N will
            do, and the tolerance is not used).
        slices: bool mask [N] for each slice the condition names.
        groups: group of each row, if rows of one group are not independent; plan with grouped=True.
        classes: number of classes, to check predictions and labels against.
        look_at_all: evaluate labelled clauses even when an unlabelled one already rejects (so that the time taken
            and the labels asked for tell nothing).

    Returns:
        Verdict. With missing labels: outcome None, passed False, and `needs_labels` tells the rows.

    Raises:
        TestSetTooSmall: fewer items than the plan needs. InvalidValue: arrays that don't fit; names the first bad row.
    """
    parsed = parse_condition(condition)
    if parsed != plan.condition:
        raise InvalidValue(f"ci: the plan is for {plan.condition}, the condition is {parsed}", hint="plan() it anew")
    if decide not in DECIDE:
        raise unknown_name("ci: decide", decide, DECIDE)
    if plan.grouped != (groups is not None):
        raise InvalidValue(
            "ci: a plan with grouped=True goes with groups=, and only that", hint="plan(..., grouped=True)"
        )
    seen = observe(new, old, labels, groups=groups, classes=classes, score_range=plan.score_range)
    if seen.kind == "right" and "d" in parsed.variables:
        raise InvalidValue("ci: d can't be known from correctness: both may be wrong and differ", hint="give classes")
    for name in ("o", "d"):
        if name in parsed.variables:
            seen.values(name, slice(0, 0))  # complains if there is no old model
    return _Evaluation(plan, seen, decide, slices).run(look_at_all)


class _Evaluation:
    """One evaluation: choose rows, decide unlabelled clauses, then labelled ones if they can still matter."""

    def __init__(self, plan: Plan, seen: Observed, decide: str, slices: Mapping[str, Any] | None) -> None:
        self.plan, self.seen, self.decide = plan, seen, decide
        self.parts = {name: slice_rows(slices, name, seen.rows) for name in plan.condition.slices}
        self.order: np.ndarray | None = None
        self.sized = decide == "tolerance"
        if self.sized:
            self.split_pool()
            self.check_promise()
            self.check_sizes()

    def split_pool(self) -> None:
        """With variance_bound="pool": bound d on rows of their own, so the sample size depends on no other row.

        (A size chosen from the very rows that decide would not be covered by the bound for a fixed size.)
        """
        self.reserved = np.empty(0, dtype=np.int64)
        if not self.plan.pool:
            return
        if self.seen.items(slice(None)) < self.plan.pool:
            raise TestSetTooSmall(f"ci: need {self.plan.pool:,} items to bound d, have {self.seen.rows:,}")
        self.reserved = self.sample(self.plan.pool, np.arange(self.seen.rows))
        share = self.seen.mean("d", self.reserved) + exact(self.plan.pool_tolerance)
        self.plan = self.plan.given(min(1.0, math.ceil(share * 1000) / 1000))

    def check_promise(self) -> None:
        """A variance bound the user vouches for must at least agree with the data."""
        bound = self.plan.variance_bound
        if not isinstance(bound, float | int) or self.seen.differs is None:
            return
        if any(priced.p is not None and len(priced.clause.coef) > 1 for priced in self.plan.clauses):
            share = self.seen.mean("d", slice(None))
            if share > exact(bound):
                raise InvalidValue(
                    f"ci: variance_bound promises that at most {bound:g} of the items differ, {float(share):.4f} do",
                    hint='variance_bound="pool" estimates it, a clause d < A tests it',
                )

    def check_sizes(self) -> None:
        for priced in self.plan.clauses:
            rows = self.available(priced.clause)
            if self.seen.items(rows) < priced.n:
                if priced.clause.slice is None:
                    self.plan.require(self.seen.items(slice(None)))
                raise TestSetTooSmall(
                    f"ci: need {priced.n:,} items of slice {priced.clause.slice!r}, have {self.seen.items(rows):,}"
                )

    def available(self, clause: Clause) -> np.ndarray | slice:
        """Rows a clause may be decided on."""
        if clause.slice is not None:
            return self.parts[clause.slice]
        if not self.sized or not len(self.reserved) or not clause.labelled:
            return slice(None)
        keep = np.ones(self.seen.rows, dtype=bool)
        keep[self.reserved] = False
        return np.flatnonzero(keep)

    def sample(self, items: int, rows: np.ndarray) -> np.ndarray:
        """The first `items` items of the rows in a fixed random order, the same at every commit."""
        if self.seen.groups is not None:
            groups = np.unique(self.seen.groups[rows])
            chosen = np.random.default_rng(_SAMPLE_SEED).permutation(groups)[:items]
            return rows[np.isin(self.seen.groups[rows], chosen)]
        if self.order is None:
            self.order = np.argsort(np.random.default_rng(_SAMPLE_SEED).permutation(self.seen.rows))
        return np.sort(rows[np.argsort(self.order[rows], kind="stable")[:items]])

    def missing(self, clause: Clause, rows: np.ndarray | slice) -> np.ndarray:
        """Rows that must be labelled before the clause can be decided."""
        if self.seen.unlabelled is None or not clause.labelled:
            return np.empty(0, dtype=np.int64)
        lacking = self.seen.unlabelled[rows]
        if clause.paired and self.seen.differs is not None:
            lacking = lacking & self.seen.differs[rows]
        found = np.flatnonzero(lacking)
        return found if isinstance(rows, slice) else rows[found]

    def rows_for(self, priced: ClausePlan, n: int) -> np.ndarray | slice:
        """All rows if they are labelled, else the fixed sample of the planned size."""
        rows = self.available(priced.clause)
        # The worst tail of "exact" is computed for its own size; larger ones are proved from the Hoeffding size on.
        only_n = priced.method == "exact" and self.seen.items(rows) < priced.alternatives["hoeffding"]
        if self.sized and (len(self.missing(priced.clause, rows)) or only_n):
            indices = np.arange(self.seen.rows)[rows]
            if self.seen.items(rows) > n:
                return self.sample(n, indices)
        return rows

    def run(self, look_at_all: bool) -> Verdict:
        plan = self.plan
        size = plan.labels_by_slice
        chosen: list[np.ndarray | slice] = []
        for priced in plan.clauses:
            n = size[priced.clause.slice] if priced.clause.labelled else priced.n
            chosen.append(self.rows_for(priced, n))
        done: dict[int, ClauseVerdict] = {}
        for labelled in (False, True):
            stop = not look_at_all and not _accepts(_kleene([v.outcome for v in done.values()]), plan.mode)
            at = [i for i, priced in enumerate(plan.clauses) if priced.clause.labelled == labelled]
            if stop:
                done.update({i: ClauseVerdict(plan.clauses[i].clause, None, None, None, None) for i in at})
                continue
            missing = [self.missing(plan.clauses[i].clause, chosen[i]) for i in at]
            needed = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *missing]))
            if len(needed):
                rest = {i: ClauseVerdict(plan.clauses[i].clause, None, None, None, None) for i in at}
                return self.verdict({**done, **rest}, chosen, needed)
            done.update({i: self.decide_clause(i, chosen[i]) for i in at})
        return self.verdict(done, chosen, np.empty(0, dtype=np.int64))

    def verdict(self, done: dict[int, ClauseVerdict], chosen: list[np.ndarray | slice], needed: np.ndarray) -> Verdict:
        clauses = tuple(done[i] for i in range(len(self.plan.clauses)))
        outcome = None if len(needed) else _kleene([clause.outcome for clause in clauses])
        looked = [rows for clause, rows in zip(clauses, chosen, strict=True) if clause.clause.labelled]
        return Verdict(
            outcome=outcome,
            passed=not len(needed) and _accepts(outcome, self.plan.mode),
            clauses=clauses,
            labels_used=self.labels_used(clauses, chosen),
            needs_labels=needed,
            items=max((self.seen.items(rows) for rows in looked or chosen), default=0),
            differ=None if self.seen.differs is None else np.count_nonzero(self.seen.differs) / self.seen.rows,
        )

    def labels_used(self, clauses: tuple[ClauseVerdict, ...], chosen: list[np.ndarray | slice]) -> int:
        """Rows whose label mattered to some clause that was looked at."""
        if self.seen.kind != "class":
            return 0
        used: np.ndarray | None = None
        for clause, rows in zip(clauses, chosen, strict=True):
            if not clause.clause.labelled or clause.estimate is None:
                continue
            if isinstance(rows, slice) and not clause.clause.paired:
                return self.seen.rows
            used = np.zeros(self.seen.rows, dtype=bool) if used is None else used
            used[rows] |= self.seen.differs[rows] if clause.clause.paired and self.seen.differs is not None else True
        return 0 if used is None else int(np.count_nonzero(used))

    def decide_clause(self, at: int, rows: np.ndarray | slice) -> ClauseVerdict:
        clause = self.plan.clauses[at].clause
        if self.decide == "certificate":
            estimate, low, high = self.certificate(clause, rows)
        else:
            estimate = self.seen.estimate(clause, rows)
            low, high = estimate - exact(clause.tol), estimate + exact(clause.tol)
        bound = exact(clause.bound)
        above, below = low > bound, high < bound
        outcome = (True if above else False if below else None) if clause.op == ">" else (
            True if below else False if above else None
        )  # fmt: skip
        return ClauseVerdict(clause, float(estimate), float(low), float(high), outcome)

    def certificate(self, clause: Clause, rows: np.ndarray | slice) -> tuple[Fraction, Fraction, Fraction]:
        """Estimate and exact interval from counts: Clopper-Pearson, one-sided, δ_t shared among its proportions.

        For a multiple of n - o the proportions are those of the items that only one model has right: no d clause
        needed.
        """
        if self.seen.groups is not None or self.seen.kind == "score":
            raise InvalidValue("ci: a certificate needs counts of items right or wrong, not scores or groups")
        log_inverse = self.plan.log_inverse
        if self.plan.mode == "fn-free":
            log_inverse += math.log(len(self.plan.clauses))  # any clause could reject wrongly
        items = self.seen.items(rows)
        if items == 0:
            raise TestSetTooSmall(f"ci: slice {clause.slice!r} has no items")
        if clause.paired:
            better, worse, items = self.seen.discordant(rows)
            counted = [(clause.coef["n"], better), (clause.coef["o"], worse)]
        else:
            counted = [(coef, int(self.seen.mean(name, rows) * items)) for name, coef in clause.coef.items()]
        estimate = low = high = Fraction(0)
        for coef, count in counted:
            ends = clopper_pearson(count, items, log_inverse + math.log(len(counted)))
            estimate += exact(coef) * Fraction(count, items)
            first, second = sorted(exact(coef) * Fraction(end) for end in ends)
            low, high = low + first, high + second
        return estimate, low, high


def _kleene(outcomes: list[bool | None]) -> bool | None:
    if False in outcomes:
        return False
    return None if None in outcomes else True


def _accepts(outcome: bool | None, mode: str) -> bool:
    return outcome is True or (outcome is None and mode == "fn-free")
