"""The gate: configuration, test set, labels, old model, decision and ledger in one call (§4)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InvalidValue
from ..base.files import write_json
from .commits import PredictionStore, check_name, head
from .config import CiConfig, read_config
from .evaluate import ClauseVerdict, Verdict, evaluate
from .labels import NEEDED, LabelStore, write_needed
from .ledger import Entry, Ledger, digest_of
from .plan import Plan
from .reliability import Adaptivity
from .testset import TestSet


@dataclass(frozen=True)
class Decision:
    """What a check came to.

    Attributes:
        commit: its name. verdict: the verdict. plan: what it was decided by.
        entry: its ledger line; None while labels are missing.
        hidden: whether the developer must not learn the verdict.
        needed: file with the ids to label; None if none are missing.
    """

    commit: str
    verdict: Verdict
    plan: Plan
    entry: Entry | None
    hidden: bool
    needed: Path | None = None

    @property
    def exit_code(self) -> int:
        if self.entry is None:
            return 4
        return 0 if self.hidden or self.verdict.passed else 1


class Gate:
    """A gate as configured.

    Args:
        config: a TOML or legacy YAML file, a dict, or a CiConfig.
        testset: the test set; by default the configured file.
    """

    def __init__(self, config: str | Path | dict[str, Any] | CiConfig, testset: TestSet | None = None) -> None:
        self.config, self.root = read_config(config)
        ledger = self.root / self.config.ledger
        self.ledger = Ledger(ledger)
        self.store = LabelStore(ledger.with_name("ci-labels.csv"))
        kept = ledger.with_name("predictions")
        self.predictions = PredictionStore(kept, self.root, self.config.predictions, self.config.predict)
        self._testset = testset
        self.hidden = Adaptivity.parse(self.config.adaptivity).hidden
        if self.hidden and self.config.report_to is None:
            raise InvalidValue(
                f"ci: adaptivity {self.config.adaptivity!r} hides the verdict from the developer: it needs report_to",
                hint='[ci] report_to = "ci-report.json", an artefact only the third party can read',
            )

    @property
    def testset(self) -> TestSet:
        if self._testset is None:
            if self.config.testset is None:
                raise InvalidValue("ci: [ci] testset is missing", hint='testset = "data/test.parquet"')
            self._testset = TestSet(self.root / self.config.testset)
        return self._testset

    def plan(self) -> Plan:
        """The plan for the next decision."""
        step = self.ledger.steps_used + 1
        present = self._testset is not None or (self.root / str(self.config.testset)).is_file()
        return self.config.plan(grouped=present and self.testset.groups is not None, step=step)

    def register(self) -> None:
        """Register the test set, with its counters at zero; see `Ledger.register`."""
        c = self.config
        self.ledger.register(
            self.testset, c.condition, reliability=c.reliability, steps=c.steps, adaptivity=c.adaptivity, mode=c.mode
        )

    def check(self, new: Any = None, old: Any = "last-pass", commit: str | None = None) -> Decision:
        """Decide on a commit and record it; see `gate`. The ledger line is written last, so an error uses no step."""
        commit = check_name(commit) if commit is not None else head(self.root)
        testset = self.testset
        new_N = self.predictions.of_new(commit, testset) if new is None else _predictions(new)
        if len(new_N) != testset.pool_size:
            raise InvalidValue(f"ci: {len(new_N):,} predictions, the test set has {testset.pool_size:,} items")
        plan = self.plan()
        if self.ledger.current is not None:
            known = self.ledger.repeat(commit, digest_of(new_N))
            if known is not None:
                verdict = _remembered(known, self._reported(commit), plan)
                return Decision(commit, verdict, plan, known, self.hidden)
            self.ledger.check(testset, plan)
        verdict = evaluate(
            plan.condition, new_N, self._old(old), testset.with_labels(self.store.known),
            plan=plan, decide=self.config.decide, groups=testset.groups, classes=self.config.classes,
            slices={name: testset.slice(rule) for name, rule in self.config.slices.items()},
            look_at_all=self.hidden,
        )  # fmt: skip
        if not verdict.decided:
            path = self.root / NEEDED
            write_needed(path, testset, verdict.needs_labels)
            return Decision(commit, verdict, plan, None, self.hidden, path)
        self.register()
        self.predictions.keep(commit, new_N)
        if self.config.report_to is not None:
            self._report(commit, verdict)
        entry = self.ledger.record(commit, verdict, predictions=new_N)
        return Decision(commit, verdict, plan, entry, self.hidden)

    def _old(self, old: Any) -> np.ndarray | None:
        if old is None or not isinstance(old, str):
            return None if old is None else _predictions(old)
        if old != "last-pass":
            return self.predictions.of_old(check_name(old), self.testset)
        accepted = self.ledger.accepted
        return None if accepted is None else self.predictions.of_old(accepted, self.testset)

    def _report(self, commit: str, verdict: Verdict) -> None:
        path = self.root / str(self.config.report_to)
        commits = {**self._reports(), commit: verdict.to_dict()}
        write_json(path, {"condition": self.config.condition, "commits": commits})

    def _reports(self) -> dict[str, Any]:
        path = self.root / str(self.config.report_to)
        if self.config.report_to is None or not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["commits"])
        except (ValueError, KeyError, TypeError):
            raise InvalidValue(
                f"ci: {path} is no report of this gate", hint="move it away, or change report_to"
            ) from None

    def _reported(self, commit: str) -> dict[str, Any] | None:
        return self._reports().get(commit)


def gate(
    config: str | Path | dict[str, Any] | CiConfig,
    *,
    new: Any,
    old: Any = "last-pass",
    commit: str | None = None,
    testset: TestSet | None = None,
) -> Verdict:
    """Hold a new model against the last accepted one, and record the decision.

    Args:
        config: a TOML file with a `[ci]` table, a legacy YAML file, a dict or a CiConfig.
        new: predictions of the new model [N], in the order of the test set; None reads the configured file.
        old: predictions of the old model, a commit, None, or "last-pass": those of the last accepted commit.
        commit: name of the commit; by default git's HEAD.
        testset: by default the configured file.

    Returns:
        Verdict. With missing labels nothing is recorded and `labels-needed.csv` is written.

    Raises:
        TestSetSpent, TestSetTooSmall, LedgerError, InvalidValue, MissingFile. No step is used by an error.
    """
    return Gate(config, testset).check(new, old, commit).verdict


def _predictions(given: Any) -> np.ndarray:
    return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)


def _remembered(entry: Entry, report: dict[str, Any] | None, plan: Plan) -> Verdict:
    """The verdict of a commit decided before, from the ledger or, where it is withheld there, from the report."""
    words = {"TRUE": True, "FALSE": False}
    facts = report if entry.outcome is None else {**entry.__dict__}
    if not facts:
        return Verdict(None, False, ())
    clauses = tuple(
        ClauseVerdict(priced.clause, found["estimate"], found["low"], found["high"], words.get(found["outcome"]))
        for priced, found in zip(plan.clauses, facts["clauses"], strict=False)
    )
    return Verdict(words.get(facts["outcome"]), bool(facts["passed"]), clauses, labels_used=facts["labels_used"] or 0)


def summarise(decision: Decision, ledger: Ledger) -> str:
    """Markdown summary of a check, for a CI page; tells nothing of a hidden verdict."""
    left = "no fixed number of" if ledger.remaining is None else f"{ledger.remaining}"
    if decision.hidden and decision.entry is not None:
        return f"### model gate: recorded\n\ncommit `{decision.commit}`, {left} steps left on this test set\n"
    lines = [f"### model gate: {decision.verdict.text}", "", f"commit `{decision.commit}`, {left} steps left", ""]
    lines += ["| clause | estimate | interval | outcome |", "|---|---|---|---|"]
    for clause, facts in zip(decision.verdict.clauses, decision.verdict.to_dict()["clauses"], strict=True):
        if clause.estimate is None:
            lines.append(f"| `{clause.clause}` | | | not looked at |")
        else:
            interval = f"[{clause.low:.4f}, {clause.high:.4f}]"
            lines.append(f"| `{clause.clause}` | {clause.estimate:.4f} | {interval} | {facts['outcome']} |")
    if ledger.alarm:
        lines += ["", f"**New test set needed:** {ledger.alarm}."]
    return "\n".join(lines) + "\n"


def append_summary(text: str) -> None:
    """Append Markdown to the page that GitHub shows for the step, where there is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with open(path, "a", encoding="utf-8") as page:
            page.write(text)
