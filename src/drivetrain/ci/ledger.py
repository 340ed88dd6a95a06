"""The ledger: which test set judged which commits, append-only and tamper-evident (§2.7, §4).

One JSON object a line. `prev` is the sha256 of the line before, `sha` that of the line's own other fields; so an
edited, removed or inserted line is found, the last one too. A `set` line registers a test set and starts the
counters anew; each
`verdict` line is one used step. With adaptivity none or open the verdict itself is withheld from the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import DrivetrainError, InvalidValue
from ..base.files import sha256_bytes, write_bytes
from .condition import Condition, parse_condition
from .evaluate import Verdict
from .plan import Plan
from .reliability import Adaptivity

VERSION = 1


class LedgerError(DrivetrainError):
    """A ledger that cannot be trusted or does not belong to this test set."""


class TestSetSpent(DrivetrainError):
    """The new-test-set alarm: this test set may give no further verdict."""

    __test__ = False
    exit_code = 3


@dataclass(frozen=True)
class Entry:
    """One recorded decision.

    Attributes:
        step: number of the decision on this test set, from 1.
        commit: name of the commit.
        predictions: sha256 of its predictions.
        outcome: "TRUE", "FALSE", "UNKNOWN"; None where withheld.
        passed: whether it was accepted; None where withheld.
        clauses: estimate, interval and outcome of each clause; empty where withheld.
        repeated: whether the commit had been decided before, so that no step was used now.
    """

    step: int
    commit: str
    predictions: str
    outcome: str | None
    passed: bool | None
    labels_used: int | None
    clauses: tuple[dict[str, Any], ...] = ()
    repeated: bool = False


class Ledger:
    """The record of one gate, in a JSONL file.

    Args:
        path: the file; it need not exist yet.

    Raises:
        LedgerError: the file is there and a line is broken; names the first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lines: list[dict[str, Any]] = []
        self.reload()

    def reload(self) -> None:
        """Read the file again and check its chain."""
        self._lines = list(self._read())

    def verify(self) -> int:
        """Check the chain in the file; return the number of lines.

        Raises:
            LedgerError: names the first broken line.
        """
        return sum(1 for _ in self._read())

    def _read(self) -> Iterator[dict[str, Any]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        prev = ""
        for number, line in enumerate(content.splitlines(), 1):
            broken = LedgerError(
                f"ci: ledger {self.path}: line {number} is broken", hint="restore it from git; never edit it"
            )
            try:
                fields = json.loads(line)
                own = fields.pop("sha")
            except (ValueError, KeyError, AttributeError):
                raise broken from None
            if fields.get("prev") != prev or sha256_bytes(_canonical(fields)) != own:
                raise broken
            if fields.get("v") != VERSION:
                raise LedgerError(f"ci: ledger {self.path}: line {number} has version {fields.get('v')!r}")
            prev = sha256_bytes(line)
            yield {**fields, "sha": own}

    @property
    def current(self) -> dict[str, Any] | None:
        """The registration of the present test set; None before the first."""
        return next((line for line in reversed(self._lines) if line["kind"] == "set"), None)

    @property
    def entries(self) -> list[Entry]:
        """Decisions on the present test set, oldest first."""
        start = max((i for i, line in enumerate(self._lines) if line["kind"] == "set"), default=len(self._lines))
        return [_entry(line) for line in self._lines[start + 1 :]]

    @property
    def steps_used(self) -> int:
        return len(self.entries)

    @property
    def passes(self) -> int:
        """Accepted commits so far (none are known where verdicts are withheld)."""
        return sum(entry.passed is True for entry in self.entries)

    @property
    def remaining(self) -> int | None:
        """Steps left on the present test set; None for adaptivity "open", which fixes no number."""
        setting = self.current
        if setting is None:
            raise LedgerError(f"ci: ledger {self.path}: no test set is registered", hint="drivetrain ci renew")
        adaptivity = Adaptivity.parse(setting["adaptivity"])
        if adaptivity.kind == "open":
            return None
        if adaptivity.passes is not None and self.passes >= adaptivity.passes:
            return 0
        return int(setting["H"]) - self.steps_used

    @property
    def alarm(self) -> str | None:
        """Why the test set may give no further verdict; None while it may."""
        if self.current is None or self.remaining is None or self.remaining > 0:
            return None
        limit = Adaptivity.parse(self.current["adaptivity"]).passes
        if limit is not None and self.passes >= limit:
            return f"the test set retired at its {'first pass' if limit == 1 else f'pass number {limit}'}"
        return f"all {self.current['H']} steps of the test set are used"

    @property
    def accepted(self) -> str | None:
        """The last accepted commit, over all test sets; where verdicts are withheld every commit counts as taken."""
        for line in reversed(self._lines):
            if line["kind"] == "verdict" and (line["passed"] or line["passed"] is None):
                return str(line["commit"])
        return None

    def find(self, commit: str) -> Entry | None:
        """The decision on a commit, by the present test set."""
        return next((entry for entry in self.entries if entry.commit == commit), None)

    def register(
        self,
        testset: str | Any,
        condition: str | Condition,
        *,
        reliability: float,
        steps: int,
        adaptivity: str = "first-change",
        mode: str = "fp-free",
    ) -> None:
        """Start a test set: its fingerprint (or a TestSet) and what it will be asked. Counters begin at zero.

        Registering what is registered already changes nothing.

        Raises:
            LedgerError: this very test set was used before; its steps cannot be had twice.
        """
        fingerprint = testset if isinstance(testset, str) else testset.fingerprint
        wanted = {
            "testset": fingerprint, "condition": str(parse_condition(condition)), "reliability": reliability,
            "H": steps, "adaptivity": str(Adaptivity.parse(adaptivity)), "mode": mode,
        }  # fmt: skip
        with self._locked():
            if self.current is not None and all(self.current[key] == value for key, value in wanted.items()):
                return
            before = [line for line in self._lines if line["kind"] == "set" and line["testset"] == fingerprint]
            if before and (self.steps_used or before[-1] is not self.current):
                changed = [key for key, value in wanted.items() if before[-1][key] != value]
                raise LedgerError(
                    f"ci: test set {fingerprint[:12]} was used before"
                    + (f", and {', '.join(changed)} changed since" if changed else ""),
                    hint="another condition, reliability, mode, adaptivity or number of steps needs new test items too",
                )
            self._append({"kind": "set", **wanted})

    def check(self, testset: str | Any, plan: Plan) -> None:
        """Raise unless the present test set is this one, asked for this plan, and may still give a verdict.

        Raises:
            LedgerError: fingerprint or terms differ. TestSetSpent: the alarm.
        """
        setting = self.current
        if setting is None:
            raise LedgerError(f"ci: ledger {self.path}: no test set is registered", hint="drivetrain ci renew")
        fingerprint = testset if isinstance(testset, str) else testset.fingerprint
        if fingerprint != setting["testset"]:
            raise LedgerError(
                f"ci: the test set changed mid-life: fingerprint {fingerprint[:12]}, "
                f"registered {setting['testset'][:12]}",
                hint="restore its items; a new set is registered by: drivetrain ci renew",
            )
        terms = {
            "condition": str(plan.condition), "reliability": plan.reliability,
            "adaptivity": plan.adaptivity, "mode": plan.mode,
        }  # fmt: skip
        if plan.adaptivity != "open":
            terms["H"] = plan.steps
        for key, value in terms.items():
            if setting[key] != value:
                raise LedgerError(
                    f"ci: {'steps' if key == 'H' else key} is {value!r}, the test set is "
                    f"registered for {setting[key]!r}",
                    hint="other terms need a new test set: drivetrain ci renew",
                )
        if self.alarm:
            raise TestSetSpent(f"ci: {self.alarm}", hint="register a new test set: drivetrain ci renew --testset FILE")

    def record(self, commit: str, verdict: Verdict, *, predictions: Any, withheld: bool | None = None) -> Entry:
        """Write one decision, using one step; a commit decided before is returned as it was and uses none.

        Args:
            commit: its name.
            verdict: a decided verdict.
            predictions: the new model's predictions, or their sha256.
            withheld: keep the verdict out of the ledger; by default as the adaptivity says.

        Raises:
            LedgerError: the commit was decided with other predictions. TestSetSpent: no step is left.
            InvalidValue: the verdict is not decided (labels are missing).
        """
        digest = predictions if isinstance(predictions, str) else digest_of(predictions)
        with self._locked():
            if (known := self.repeat(commit, digest)) is not None:
                return known
            if not verdict.decided:
                raise InvalidValue(f"ci: {verdict.text}; an undecided verdict is not recorded")
            setting = self.current
            if setting is None:
                raise LedgerError(f"ci: ledger {self.path}: no test set is registered", hint="drivetrain ci renew")
            if self.alarm:
                raise TestSetSpent(f"ci: {self.alarm}", hint="register a new test set: drivetrain ci renew")
            if withheld is None:
                withheld = Adaptivity.parse(setting["adaptivity"]).hidden
            facts = verdict.to_dict()
            shown = {
                "d": facts["differ"], "outcome": facts["outcome"], "passed": facts["passed"],
                "labels_used": facts["labels_used"], "clauses": facts["clauses"],
            }  # fmt: skip
            terms = {key: setting[key] for key in ("testset", "condition", "reliability", "mode", "adaptivity", "H")}
            line = {"kind": "verdict", "step": self.steps_used + 1, "commit": commit, "pred": digest, **terms}
            self._append({**line, **(dict.fromkeys(shown) if withheld else shown)})
            return self.entries[-1]

    def repeat(self, commit: str, digest: str) -> Entry | None:
        """The entry of a commit that was decided before with the same predictions; see `record`."""
        known = self.find(commit)
        if known is None:
            return None
        if known.predictions != digest:
            raise LedgerError(
                f"ci: commit {commit} was decided with other predictions ({known.predictions[:12]}, now {digest[:12]})",
                hint="one commit is judged once: make a new commit, or make the predictions deterministic",
            )
        return Entry(**{**known.__dict__, "repeated": True})

    def _append(self, fields: dict[str, Any]) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        prev = sha256_bytes(content.splitlines()[-1]) if content else ""
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {"v": VERSION, "time": time, **fields, "prev": prev}
        fields["sha"] = sha256_bytes(_canonical(fields))
        write_bytes(self.path, content + _canonical(fields) + b"\n")
        self.reload()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the ledger against other processes, and read what they wrote."""
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(self.path.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.reload()
            yield


def digest_of(predictions: Any) -> str:
    """The sha256 of an array of predictions: its kind, length and values, whatever the integer width."""
    values = np.asarray(predictions.detach().cpu() if hasattr(predictions, "detach") else predictions)
    if values.dtype.kind in "iu":
        values = values.astype("<i8")
    return sha256_bytes(f"{values.dtype.str} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes())


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _entry(line: dict[str, Any]) -> Entry:
    return Entry(
        step=line["step"],
        commit=line["commit"],
        predictions=line["pred"],
        outcome=line["outcome"],
        passed=line["passed"],
        labels_used=line["labels_used"],
        clauses=tuple(line["clauses"] or ()),
    )
