"""How many labels a condition costs: from condition, reliability, commits and feedback to a sample size (§2.4-2.6).

`estimator="hoeffding"` and `"bennett"` are the paper's. `"auto"` takes the fewest labels among all valid methods, and
shares the error better. In `fp-free` a wrong accept needs every clause TRUE, in particular one that is really
violated; so each clause may use the whole δ_t (an intersection-union test) where the paper gives each of m clauses
δ_t/m. The same argument serves hierarchical testing: if the true d is above the bound, only the d clause can stop
the accept; if it is below, the bound is a fact for the others. In `fn-free` any clause can wrongly reject:
unlabelled clauses get δ_t/20 together and labelled ones share the rest so that they need equally many items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..base.errors import InvalidValue, unknown_name
from . import bounds
from .condition import Clause, Condition, parse_condition
from .decision import check_mode, check_range, mistake_of
from .estimators import WHY, Setting, cheapest, methods, paper_bennett, paper_hoeffding
from .reliability import Adaptivity, log_inverse_delta

ESTIMATORS = ("auto", "hoeffding", "bennett", "exact")
UNLABELLED_SHARE = 1 / 20  # of δ_t, where labelled and unlabelled clauses must share it: unlabelled items are cheap
POOL_TOLERANCE = 0.05


class TestSetTooSmall(InvalidValue):
    """The test set has fewer items than the plan needs; the hint says what tolerance it affords."""

    __test__ = False  # not a test class, whatever pytest thinks of the name
    exit_code = 3


@dataclass(frozen=True)
class ClausePlan:
    """One clause's price.

    Attributes:
        clause: the clause.
        method: name of the bound used.
        n: items it needs.
        tol: its tolerance.
        p: upper limit on the share of differing items that the bound uses; None where it uses none.
        log_inverse: ln(1/δ') of its share of the error.
        alternatives: items by each valid method.
    """

    clause: Clause
    method: str
    n: int
    tol: float
    p: float | None
    log_inverse: float
    alternatives: dict[str, int] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """One line: the method, and what the next best would have cost."""
        others = {name: n for name, n in self.alternatives.items() if name != self.method}
        text = WHY[self.method] + (f", p = {self.p:g}" if self.p is not None else "")
        return text + (f"; next {min(others, key=others.__getitem__)} {min(others.values()):,}" if others else "")


@dataclass(frozen=True)
class Plan:
    """The price of a condition, and all that `evaluate` needs to decide it.

    Attributes:
        labels: labelled items needed; with slices, for the whole and each slice added up.
        unlabelled: items needed for clauses over d alone, and for estimating a variance bound.
        labels_per_commit: labels to ask for at one commit if only items on which the models differ are labelled.
        delta_step: error allowed at one decision (0.0 where it is below the smallest double; see log_inverse).
        log_inverse: ln(1/delta_step).
        clauses: each clause's price.
        warnings: what is odd about the condition.
    """

    condition: Condition
    reliability: float
    steps: int
    adaptivity: str
    mode: str
    estimator: str
    variance_bound: float | str | None
    label_fraction: float | None
    grouped: bool
    score_range: tuple[float, float] | None
    pool_tolerance: float
    log_inverse: float
    clauses: tuple[ClausePlan, ...]
    pool: int = 0

    @property
    def delta_step(self) -> float:
        return math.exp(-self.log_inverse)

    @property
    def labels_by_slice(self) -> dict[str | None, int]:
        """Labelled items needed in the whole set (None) and in each slice."""
        needed: dict[str | None, int] = {}
        for priced in self.clauses:
            if priced.clause.labelled:
                part = priced.clause.slice
                needed[part] = max(needed.get(part, 0), priced.n)
        return needed

    @property
    def labels(self) -> int:
        return sum(self.labels_by_slice.values())

    @property
    def unlabelled(self) -> int:
        return max([self.pool, *(priced.n for priced in self.clauses if not priced.clause.labelled)])

    @property
    def items(self) -> int:
        """Rows the test set must have in all (a variance bound from the pool is estimated on rows of its own)."""
        largest = max(priced.n for priced in self.clauses)
        return max(largest, self.pool + max([0, *self.labels_by_slice.values()])) if self.pool else largest

    @property
    def only_differing(self) -> bool:
        """Whether labels are needed only where the two models differ (active labelling, §2.6.2)."""
        return all(priced.clause.paired for priced in self.clauses if priced.clause.labelled)

    @property
    def differ(self) -> float:
        """Share of differing items that labels_per_commit assumes."""
        if self.label_fraction is not None:
            return self.label_fraction
        return min([1.0, *(priced.p for priced in self.clauses if priced.p is not None)])

    @property
    def labels_per_commit(self) -> int:
        return bounds.whole(self.labels * self.differ) if self.only_differing and self.labels else self.labels

    @property
    def warnings(self) -> tuple[str, ...]:
        """Clauses whose outcome cannot depend on the model."""
        found = []
        for priced in self.clauses:
            form = mistake_of(priced.clause, self.mode, scores=self.score_range, grouped=self.grouped)
            if not form.reachable:
                wanted = "TRUE" if self.mode == "fp-free" else "FALSE"
                found.append(
                    f"{priced.clause} can never be {wanted}, or never fail to be: its threshold is out of reach"
                )
        return tuple(found)

    def given(self, differ: float) -> Plan:
        """The plan once at most this share of items is known to differ (with variance_bound="pool", §2.6.3)."""
        if self.variance_bound != "pool":
            return self
        return replace(self, clauses=_price(self, differ))

    def affordable(self, n_items: int) -> float:
        """The tolerance that `n_items` items afford: the largest any labelled clause needs, three digits, rounded up.

        Raises:
            InvalidValue: no tolerance below the range of the values would do.
        """
        wider = self.widened(n_items)
        return max(priced.tol for priced in [c for c in wider if c.clause.labelled] or wider)

    def widened(self, n_items: int) -> list[ClausePlan]:
        """Each clause with the smallest tolerance that `n_items` items afford; unchanged where they are enough."""
        return [self._widen(at, n_items) for at in range(len(self.clauses))]

    def _widen(self, at: int, n_items: int) -> ClausePlan:
        priced = self.clauses[at]
        budget = n_items - (self.pool if priced.clause.labelled else 0)
        if priced.n <= budget:
            return priced
        scale = (self.score_range[1] - self.score_range[0]) if self.score_range else 1.0
        ladder = [float(f"{scale * m / 10**power:.12g}") for power in (5, 4, 3) for m in range(100, 1000)]
        ladder = [tol for tol in ladder if tol > priced.tol]
        low, high = 0, len(ladder)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._repriced(at, ladder[middle]).n <= budget else (middle + 1, high)
        if low == len(ladder):
            raise InvalidValue(f"ci: no tolerance below {scale:g} makes {n_items:,} items enough for {priced.clause}")
        return self._repriced(at, ladder[low])

    def _repriced(self, at: int, tol: float) -> ClausePlan:
        clauses = list(self.condition.clauses)
        clauses[at] = clauses[at].widened(tol)
        wider = replace(self, condition=Condition(tuple(clauses)))
        return _price(wider, _known_differ(wider))[at]

    def require(self, n_items: int) -> None:
        """Raise `TestSetTooSmall` unless `n_items` items are enough for every clause; the hint is what they afford."""
        if n_items >= self.items:
            return
        needed = max([0, *self.labels_by_slice.values()]) + self.pool or self.items
        also = f" (and {self.unlabelled:,} in all, labelled or not)" if self.unlabelled > needed else ""
        try:
            short = [(old, new) for old, new in zip(self.clauses, self.widened(n_items), strict=True) if new is not old]
            parts = [f"with +/- {new.tol:g} you would need {new.n:,}  [{old.clause}]" for old, new in short]
        except InvalidValue:
            parts = ["no tolerance makes that enough"]
        parts.append('or decide="certificate", which bounds what the items at hand show and needs no size')
        raise TestSetTooSmall(f"ci: need {needed:,} items{also}, have {n_items:,}", hint="\n".join(parts))

    def explain(self) -> str:
        """Which method prices each clause and why, and what each knob would save."""
        from .price import explain

        return explain(self)

    def to_dict(self) -> dict[str, Any]:
        """All facts, for JSON."""
        return {
            "condition": str(self.condition), "reliability": self.reliability, "steps": self.steps,
            "adaptivity": self.adaptivity, "mode": self.mode, "estimator": self.estimator,
            "labels": self.labels, "unlabelled": self.unlabelled, "labels_per_commit": self.labels_per_commit,
            "items": self.items, "delta_step": self.delta_step, "log_inverse_delta": self.log_inverse,
            "clauses": [
                {"clause": str(c.clause), "method": c.method, "n": c.n, "tol": c.tol, "p": c.p, "why": c.why,
                 "alternatives": c.alternatives}
                for c in self.clauses
            ],
            "warnings": list(self.warnings),
        }  # fmt: skip


def plan(
    condition: str | Condition,
    *,
    reliability: float = 0.999,
    steps: int = 32,
    adaptivity: str = "first-change",
    mode: str = "fp-free",
    estimator: str = "auto",
    variance_bound: float | str | None = None,
    label_fraction: float | None = None,
    score_range: tuple[float, float] | None = None,
    grouped: bool = False,
    pool_tolerance: float = POOL_TOLERANCE,
) -> Plan:
    """Price a condition in labels.

    Args:
        condition: text or a parsed condition.
        reliability: probability that all decisions on one test set are right in the sense of the mode.
        steps: commits one test set will judge (for "open": the number of the commit to plan for).
        adaptivity: what the developer learns: "none", "full", "first-change", "passes:k", "open".
        mode: "fp-free" (an accepted model is good) or "fn-free" (a rejected one is bad).
        estimator: "auto", the paper's "hoeffding" and "bennett", or "exact".
        variance_bound: upper limit on the share of items that differ (Bennett on a floor such as `n > 0.9`: on the
            error rate) that you vouch for; "pool" estimates it from unlabelled items. A clause `d < A` in the
            condition is used without being asked.
        label_fraction: expected share of items that differ, for labels_per_commit only.
        score_range: (low, high) if n and o are means of a per-item score instead of accuracies.
        grouped: items are groups of rows (a `group` column): counts are of groups.
        pool_tolerance: tolerance of the estimate for variance_bound="pool".

    Raises:
        ConditionError: text that is no condition. InvalidValue: an argument outside its range; names it.
    """
    parsed = parse_condition(condition)
    check_mode(mode)
    check_range(score_range)
    if estimator not in ESTIMATORS:
        raise unknown_name("ci: estimator", estimator, ESTIMATORS)
    for name, value in (("variance_bound", variance_bound), ("label_fraction", label_fraction)):
        if value is not None and value != "pool" and (isinstance(value, str) or not 0 < value <= 1):
            wanted = 'in (0, 1], or "pool"' if name == "variance_bound" else "in (0, 1]"
            raise InvalidValue(f"ci: {name} is {value!r}", hint=f"a share {wanted}")
    if not 0 < pool_tolerance < 1:
        raise InvalidValue(f"ci: pool_tolerance is {pool_tolerance!r}", hint="a share in (0, 1)")
    shared = Adaptivity.parse(adaptivity)
    log_inverse = log_inverse_delta(reliability, steps, shared)
    draft = Plan(
        parsed, reliability, steps, str(shared), mode, estimator, variance_bound, label_fraction, grouped,
        score_range, pool_tolerance, log_inverse, (),
    )  # fmt: skip
    pool = _pool_size(draft) if variance_bound == "pool" else 0
    return replace(draft, pool=pool, clauses=_price(draft, _known_differ(draft)))


def _pool_size(draft: Plan) -> int:
    """Unlabelled items that bound d from above to ± pool_tolerance, at its share of δ_t."""
    log_inverse = draft.log_inverse - math.log(_pool_share(draft))
    if draft.estimator in ("hoeffding", "bennett"):
        return bounds.hoeffding(log_inverse, draft.pool_tolerance)
    clause = Clause({"d": 1.0}, "<", 0.5, draft.pool_tolerance)
    found = methods(clause, log_inverse, Setting(draft.mode, grouped=draft.grouped))
    return min(found["hoeffding"], found.get("exact", found["hoeffding"]))


def _pool_share(draft: Plan) -> float:
    return 0.5 if draft.estimator in ("hoeffding", "bennett") else UNLABELLED_SHARE


def _known_differ(draft: Plan) -> float:
    """Upper limit on the share of differing items: a clause `d < A` of the condition, or what the user vouches for."""
    limits = [1.0]
    for clause in draft.condition.clauses:
        if set(clause.coef) == {"d"} and clause.slice is None:
            below = (clause.op == "<") == (clause.coef["d"] > 0)
            limit = clause.bound / clause.coef["d"]
            if below and 0 < limit < 1:
                limits.append(limit)
    if isinstance(draft.variance_bound, float | int):
        limits.append(float(draft.variance_bound))
    return min(limits)


def _price(draft: Plan, differ: float) -> tuple[ClausePlan, ...]:
    """Price every clause, given an upper limit on the share of differing items."""
    setting = Setting(draft.mode, draft.score_range, draft.grouped, differ)
    clauses = draft.condition.clauses
    if draft.estimator in ("hoeffding", "bennett"):
        return _price_as_paper(draft, clauses, setting)
    log_inverse = draft.log_inverse
    if draft.variance_bound == "pool":
        log_inverse -= math.log(1 - _pool_share(draft))

    def priced(clause: Clause, log: float) -> ClausePlan:
        # The whole set's d says nothing about a slice's.
        found = methods(clause, log, setting if clause.slice is None else replace(setting, differ=1.0))
        if draft.estimator == "exact" and "exact" in found:
            found = {name: found[name] for name in ("hoeffding", "exact")}
        name = cheapest(found)
        uses = name in ("bennett", "paired", "chernoff") and setting.differ < 1 and {"n", "o"} <= set(clause.coef)
        p = setting.differ if uses and clause.slice is None else None
        return ClausePlan(clause, name, found[name], clause.tol, p, log, found)

    if draft.mode == "fp-free" or len(clauses) == 1:
        return tuple(priced(clause, log_inverse) for clause in clauses)
    return _share(clauses, log_inverse, priced)


def _share(
    clauses: Sequence[Clause], log_inverse: float, priced: Callable[[Clause, float], ClausePlan]
) -> tuple[ClausePlan, ...]:
    """Share δ_t among clauses that can each reject wrongly (`fn-free`).

    From equal shares, N_i ≈ s_i ln(1/δ_i): the shares that make all N_i equal solve Σ e^(-N/s_i) = 1 for N. Any sharing
    with sum ≤ δ_t is valid, so the better of the two is kept.
    """
    labelled = [clause for clause in clauses if clause.labelled]
    free = [clause for clause in clauses if not clause.labelled]
    free_share = (UNLABELLED_SHARE if labelled else 1.0) if free else 0.0
    done = {id(clause): priced(clause, log_inverse - math.log(free_share / len(free))) for clause in free}
    if labelled:
        base = log_inverse - math.log(1 - free_share)
        equal = [priced(clause, base + math.log(len(labelled))) for clause in labelled]
        slopes = [one.n / one.log_inverse for one in equal]
        low, high = 0.0, max(one.n for one in equal) * 1.0
        for _ in range(100):
            middle = (low + high) / 2
            spent = sum(math.exp(base - middle / slope) for slope in slopes)
            low, high = (middle, high) if spent > 1 else (low, middle)
        tuned = [priced(clause, high / slope) for clause, slope in zip(labelled, slopes, strict=True)]
        best = min(equal, tuned, key=lambda option: max(one.n for one in option))
        done.update({id(one.clause): one for one in best})
    return tuple(done[id(clause)] for clause in clauses)


def _price_as_paper(draft: Plan, clauses: Sequence[Clause], setting: Setting) -> tuple[ClausePlan, ...]:
    """The paper's estimators with the paper's sharing of the error, kept as the baseline (§2.5, §2.6.1)."""
    half = draft.log_inverse + math.log(2)
    free = [clause for clause in clauses if set(clause.coef) == {"d"}]
    others = len(clauses) - len(free)
    result = []
    for clause in clauses:
        log = draft.log_inverse + math.log(len(clauses))
        if draft.estimator == "bennett" and free and others:
            log = half + math.log(len(free) if clause in free else others)
        elif draft.variance_bound == "pool":
            log += math.log(2)
        n, method, p = paper_hoeffding(clause, log, setting), "hoeffding", None
        if draft.estimator == "bennett" and clause.labelled:
            tight = paper_bennett(clause, log, setting)
            if tight is not None:
                n, method, p = tight, "bennett", setting.differ
        result.append(ClausePlan(clause, method, n, clause.tol, p, log, {method: n}))
    return tuple(result)
