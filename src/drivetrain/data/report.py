"""What validation found: findings, merged into one anomaly per feature, and measured distances (spec 17 §2.5)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import DrivetrainError
from .edits import Edit, plain, unplain

if TYPE_CHECKING:
    from pathlib import Path

DATASET = "@dataset"
"""Stands for the feature's name in findings about the data set as a whole."""


class DataAnomalies(DrivetrainError, ValueError):
    """Data that breaks its schema with severity ERROR; the message lists the anomalies."""


@dataclass(frozen=True)
class Finding:
    """One broken promise.

    Attributes:
        type: name of the rule, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES.
        severity: "ERROR" or "WARNING".
        expected, seen: the promise and what the data shows, in words.
        count, share: examples (or values) concerned, and their share in [0, 1]; None where there is no such number.
        examples: up to 5 offending values with their shares, most frequent first.
        edits: what would make the schema accept this data.
    """

    type: str
    expected: str
    seen: str
    count: int | None = None
    share: float | None = None
    examples: tuple[tuple[Any, float | None], ...] = ()
    edits: tuple[Edit, ...] = ()
    severity: str = "ERROR"

    @property
    def description(self) -> str:
        """A sentence with the numbers."""
        return f"expected {self.expected}, saw {self.seen}"


@dataclass(frozen=True)
class Anomaly:
    """All that is wrong with one feature: the reasons, most severe first. `id` names it to `accept`."""

    feature: str
    reasons: tuple[Finding, ...]

    @property
    def id(self) -> str:
        """The feature's name: there is one anomaly per feature."""
        return self.feature

    @property
    def type(self) -> str:
        """Type of the first reason."""
        return self.reasons[0].type

    @property
    def types(self) -> tuple[str, ...]:
        """Types of all reasons."""
        return tuple(reason.type for reason in self.reasons)

    @property
    def severity(self) -> str:
        """ERROR if any reason is one, else WARNING."""
        return min(reason.severity for reason in self.reasons)

    @property
    def expected(self) -> str:
        """What the schema promises."""
        return "; ".join(reason.expected for reason in self.reasons)

    @property
    def seen(self) -> str:
        """What the data shows."""
        return "; ".join(reason.seen for reason in self.reasons)

    @property
    def count(self) -> int | None:
        """Greatest number of examples or values concerned by one reason."""
        return max((reason.count for reason in self.reasons if reason.count is not None), default=None)

    @property
    def share(self) -> float | None:
        """Greatest share of examples or values concerned by one reason."""
        return max((reason.share for reason in self.reasons if reason.share is not None), default=None)

    @property
    def examples(self) -> tuple[tuple[Any, float | None], ...]:
        """Offending values of the first reason that has any."""
        return next((reason.examples for reason in self.reasons if reason.examples), ())

    @property
    def description(self) -> str:
        """The reasons as sentences."""
        return "; ".join(reason.description for reason in self.reasons)

    @property
    def edit(self) -> tuple[Edit, ...]:
        """The proposed edit: all changes that make the schema accept this feature as it is."""
        return _unique(self.reasons)

    def to_json(self) -> dict[str, Any]:
        """Plain data, complete."""
        keys = ("id", "feature", "type", "severity", "expected", "seen", "count", "share", "description")
        data = {key: getattr(self, key) for key in keys}
        data["types"] = list(self.types)
        named = ("type", "severity", "expected", "seen", "count", "share")
        data["reasons"] = [
            {**{key: getattr(reason, key) for key in named}, "edit": [edit.to_json() for edit in reason.edits]}
            for reason in self.reasons
        ]
        data["examples"] = [{"value": plain(value), "share": share} for value, share in self.examples]
        data["edit"] = [edit.to_json() for edit in self.edit]
        return data


def _unique(reasons: Sequence[Finding]) -> tuple[Edit, ...]:
    edits: list[Edit] = []
    for reason in reasons:
        edits += [edit for edit in reason.edits if edit not in edits]
    return tuple(edits)


@dataclass(frozen=True)
class Measurement:
    """Distance of one feature between two batches.

    Attributes:
        kind: "drift" (previous batch), "skew" (serving against training) or "scored" (scored against served examples).
        distances: linf, js, nad, and ks, w1 for numbers.
        moved: the value or bin whose share changed most, with its shares before and now.
        n, m: number of values before and now; categories: number of distinct values or bins compared.
        floor: what linf, js and ks reach by chance alone with probability 0.01.
        thresholds: those the schema sets; passed: the ones exceeded.
        notes: for instance that a threshold lies below the sampling noise.
    """

    kind: str
    feature: str
    distances: dict[str, float]
    moved: tuple[str, float, float] | None
    n: int
    m: int
    categories: int
    floor: dict[str, float]
    thresholds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> tuple[str, ...]:
        """Names of the distances above their thresholds."""
        return tuple(name for name, limit in self.thresholds.items() if self.distances.get(name, 0.0) > limit)

    @property
    def exceeded(self) -> bool:
        """Whether any distance is above its threshold."""
        return bool(self.passed)

    def to_json(self) -> dict[str, Any]:
        """Plain data, complete."""
        moved = self.moved and dict(zip(("value", "before", "now"), self.moved, strict=True))
        return plain({**vars(self), "moved": moved, "notes": list(self.notes), "exceeded": list(self.passed)})


@dataclass
class Report:
    """Anomalies, most severe first then by share, and the distances measured."""

    anomalies: list[Anomaly] = field(default_factory=list)
    drift: list[Measurement] = field(default_factory=list)
    num_examples: int = 0
    features: int = 0
    environment: str | None = None
    name: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing of severity ERROR was found."""
        return not any(anomaly.severity == "ERROR" for anomaly in self.anomalies)

    def __getitem__(self, feature: str) -> Anomaly:
        """The anomaly of a feature.

        Raises:
            DrivetrainError: the feature has none.
        """
        from ..base.errors import unknown_name

        for anomaly in self.anomalies:
            if anomaly.id == feature:
                return anomaly
        raise unknown_name("data: anomaly", feature, [anomaly.id for anomaly in self.anomalies])

    def raise_if_error(self) -> None:
        """Raise `DataAnomalies` if anything of severity ERROR was found."""
        errors = [anomaly for anomaly in self.anomalies if anomaly.severity == "ERROR"]
        if errors:
            lines = [f"{anomaly.feature}: {anomaly.description}" for anomaly in errors[:10]]
            more = [f"... and {len(errors) - 10} more"] if len(errors) > 10 else []
            plural = "feature breaks" if len(errors) == 1 else "features break"
            raise DataAnomalies(f"data: {len(errors)} {plural} the schema", hint="\n".join(lines + more))

    def summary(self) -> str:
        """The verdict in one line."""
        errors = sum(anomaly.severity == "ERROR" for anomaly in self.anomalies)
        warnings = len(self.anomalies) - errors
        verdict = "valid" if not errors else f"{errors} feature{'s' * (errors != 1)} with errors"
        extra = f", {warnings} with warnings" if warnings else ""
        return f"{verdict}{extra} ({self.num_examples:,} examples, {self.features} features)"

    def to_json(self) -> dict[str, Any]:
        """Plain data, complete and strict (no NaN)."""
        return {
            "ok": self.ok,
            "name": self.name,
            "num_examples": self.num_examples,
            "features": self.features,
            "environment": self.environment,
            "anomalies": [anomaly.to_json() for anomaly in self.anomalies],
            "drift": [measurement.to_json() for measurement in self.drift],
        }

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page (no network); written to `path` too, if given."""
        from .report_html import report_page

        page = report_page(self)
        if path is not None:
            from ..base.files import write_text

            write_text(path, page)
        return page

    def save(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        from ..base.files import write_text

        write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False, default=str) + "\n")

    def __str__(self) -> str:
        lines = [self.summary()]
        lines += [f"  {a.severity:7} {a.feature}: {a.description}" for a in self.anomalies]
        return "\n".join(lines)


def report_from_json(data: dict[str, Any]) -> Report:
    """A report from what `Report.to_json` gave.

    Raises:
        InvalidValue: it isn't that.
    """
    from ..base.errors import InvalidValue

    try:
        anomalies = []
        for item in data["anomalies"]:
            examples = tuple((example["value"], example["share"]) for example in item["examples"])
            first, *others = map(_finding_from_json, item["reasons"])
            anomalies.append(Anomaly(item["feature"], (replace(first, examples=examples), *others)))
        drift = []
        for item in data["drift"]:
            rest = {key: unplain(value) for key, value in item.items() if key != "exceeded"}
            moved = rest["moved"] and (rest["moved"]["value"], rest["moved"]["before"], rest["moved"]["now"])
            drift.append(Measurement(**{**rest, "moved": moved, "notes": tuple(rest["notes"])}))
        known = {key: data[key] for key in ("num_examples", "features", "environment", "name")}
        return Report(anomalies, drift, **known)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidValue(f"data: this is no report of a validation: {error!r}") from None


def _finding_from_json(data: dict[str, Any]) -> Finding:
    return Finding(
        **{key: value for key, value in data.items() if key != "edit"},
        edits=tuple(map(Edit.from_json, data["edit"])),
    )


def share_text(share: float | None) -> str:
    """A share as the on-call person reads it: "<1%", or "~68%", rounded down as TFDV does."""
    if share is None:
        return ""
    return "<1%" if share < 0.01 else f"~{math.floor(share * 100 + 1e-9)}%"


def listed(examples: Sequence[tuple[Any, float | None]], limit: int = 5) -> str:
    """Offending values with their shares in words."""
    parts = [f"{value} ({share_text(share)})" if share is not None else str(value) for value, share in examples[:limit]]
    return ", ".join(parts)
