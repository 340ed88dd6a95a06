"""[ci]: may the trained model replace the last accepted one? Decided with a stated reliability on the test split.

The first model has none to be compared with and is held against `floor`. Both conditions have a ledger of their own
under `gate/`, which outlives runs, and each gets half of the allowed error, so that all verdicts on one test split
are right together with probability `reliability`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from drivetrain.base.config import Section
from drivetrain.base.errors import DrivetrainError
from drivetrain.base.files import atomic_path, sha256_bytes, sha256_file, write_json

from ..report.parts import Facts, Interval, Part, Text
from ..splits import fingerprint_of_test
from ..stage import Drive, Outcome, Stage


class CiStageConfig(Section):
    """[ci]. `n` and `o` are the new and the last accepted model's accuracy, `d` the share of changed predictions."""

    condition: str = Field(description="must hold for a model that follows an accepted one")
    floor: str = Field(description="must hold for the first model; speaks of n only")
    reliability: float = Field(
        0.95, gt=0, lt=1, description="probability that all verdicts on one test split are right"
    )
    steps: int = Field(4, ge=1, description="verdicts that one test split may give; then it is spent")
    adaptivity: str = Field("full", description="full, first-change, passes:k or open: what the developer learns")
    decide: Literal["certificate", "tolerance"] = Field(
        "certificate",
        description="exact intervals from the counts at hand, or estimate ± tolerance on a planned number of rows",
    )
    mode: str = Field("fp-free", description="fp-free: an accepted model is good; fn-free: a rejected one is bad")

    @field_validator("condition", "floor")
    @classmethod
    def _parses(cls, text: str) -> str:
        from drivetrain.ci import parse_condition

        parse_condition(text)
        return text

    @field_validator("floor")
    @classmethod
    def _needs_no_old_model(cls, text: str) -> str:
        from drivetrain.ci import parse_condition

        if parse_condition(text).variables - {"n"}:
            raise ValueError("the floor is for the first model, where there is no o and no d: it speaks of n only")
        return text

    @property
    def terms(self) -> dict[str, Any]:
        """What each of the two gates is registered with: half of the allowed error."""
        return {
            "reliability": 1 - (1 - self.reliability) / 2,
            "steps": self.steps,
            "adaptivity": self.adaptivity,
            "mode": self.mode,
        }


def run(config: CiStageConfig, drive: Drive) -> Outcome:
    """Judge the model of the [train] stage; an identical model is never judged twice."""
    from drivetrain.ci import Ledger

    gate = drive.run_folder / "gate"
    new, labels = _correctness_or_classes(drive.artifacts("train"))
    testset = fingerprint_of_test(drive)
    model = drive.artifacts("train") / "model.pt"
    commit = sha256_bytes((sha256_file(model) + sha256_bytes(new.tobytes())).encode())[:12]
    ledgers = {kind: Ledger(gate / f"{kind}.jsonl") for kind in ("floor", "condition")}
    kind, old_commit = _opponent(ledgers, testset, commit)
    old = np.load(gate / f"{old_commit}.npy") if old_commit else None
    with atomic_path(gate / f"{commit}.npy") as beside:
        np.save(beside, new)  # before the ledger's line: an accepted model always has its predictions
    try:
        entry = _judge(ledgers[kind], config, kind, testset, commit, new, old, labels)
    except DrivetrainError as error:
        error.where = error.where or drive.locate("ci", kind)
        raise
    write_json(
        drive.work / "verdict.json",
        {
            "kind": kind,
            "condition": getattr(config, kind),
            "reliability": config.reliability,
            "mode": config.mode,
            "decided by": config.decide,
            "model": commit,
            "against": old_commit,
            "items": len(new),
            "step": entry.step,
            "steps": config.steps,
            "outcome": entry.outcome,
            "passed": entry.passed,
            "labels_used": entry.labels_used,
            "clauses": list(entry.clauses),
        },
    )
    return Outcome(bool(entry.passed), f"{getattr(config, kind)}: {entry.outcome}, {_verb(entry.passed)}")


def _judge(
    ledger: Any,
    config: CiStageConfig,
    kind: str,
    testset: str,
    commit: str,
    new: np.ndarray[Any, Any],
    old: np.ndarray[Any, Any] | None,
    labels: np.ndarray[Any, Any],
) -> Any:
    from drivetrain.ci import evaluate, plan

    condition, terms = getattr(config, kind), config.terms
    ledger.register(testset, condition, **terms)
    known = ledger.find(commit)
    if known is not None:
        return known
    step = terms | {"steps": ledger.steps_used + 1} if terms["adaptivity"] == "open" else terms
    price = plan(condition, **step)
    ledger.check(testset, price)
    if config.decide == "tolerance":
        price.require(len(new))
    verdict = evaluate(condition, new, old, labels, plan=price, decide=config.decide)
    return ledger.record(commit, verdict, predictions=new)


def _opponent(ledgers: Mapping[str, Any], testset: str, commit: str) -> tuple[str, str | None]:
    """Which condition applies, and the last model accepted on this very test split before `commit`."""
    accepted: list[str] = []
    for kind in ("floor", "condition"):
        ledger = ledgers[kind]
        if ledger.current is None or ledger.current["testset"] != testset:
            continue
        if ledger.find(commit) is not None:
            return kind, accepted[-1] if accepted else None
        accepted += [entry.commit for entry in ledger.entries if entry.passed]
    return ("condition", accepted[-1]) if accepted else ("floor", None)


def _correctness_or_classes(train: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Predicted classes and labels; for regression, whether each prediction lies within the tolerance."""
    predictions, labels = np.load(train / "predictions.npy"), np.load(train / "labels.npy")
    task = json.loads((train / "task.json").read_text())
    if task["task"] == "regression":
        return np.abs(predictions - labels) <= task["tolerance"], np.zeros(len(labels), dtype=np.int64)
    return predictions, labels


def _verb(passed: bool | None) -> str:
    return "accepted" if passed else "rejected"


def show(folder: Path) -> Iterable[Part]:
    """The condition, the interval of each clause against its bound, the verdict."""
    verdict = json.loads((folder / "verdict.json").read_text())
    against = f"model {verdict['against']}" if verdict["against"] else "none: the first model is held against the floor"
    yield Facts(
        {
            "condition": verdict["condition"],
            "verdict": f"{verdict['outcome']}, {_verb(verdict['passed'])}",
            "reliability": verdict["reliability"],
            "mode": verdict["mode"],
            "decided by": verdict["decided by"],
            "model": verdict["model"],
            "last accepted": against,
            "decision": f"{verdict['step']} of {verdict['steps']}",
            "labels used": verdict["labels_used"],
        }
    )
    rows = [
        (clause["clause"], clause["low"], clause["estimate"], clause["high"], clause["bound"], clause["op"])
        for clause in verdict["clauses"]
        if clause["estimate"] is not None
    ]
    if rows:
        yield Interval("Estimate and interval against the bound; the shaded side is allowed", rows)
    if verdict["outcome"] == "UNKNOWN":
        yield Text(
            "The interval crosses the bound, so the test split can't tell. In mode fp-free that rejects, in fn-free it "
            "accepts. More test rows or a wider tolerance decide it."
        )


STAGE = Stage(
    "ci",
    "Gate",
    ("data", "train", "graph"),
    CiStageConfig,
    run,
    lambda config, drive: {},
    show,
    needs=("data", "train"),
)
