"""Statistics of a data set: what one pass over a batch of examples leaves behind (spec 17 §2.2).

`Stats` holds a `FeatureStats` for each feature; names follow statistics.proto of tensorflow-metadata. Everything here
is state that merges: `a | b` are the statistics of both batches, and a saved file keeps all that merging needs.
Missing (null), present but empty (a list of no values) and NaN (a value of a float) are three different things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base.errors import InvalidValue, MissingFile
from ..base.files import write_json
from .numeric import NumericStats
from .presence import CommonStats, TensorStats
from .text import BytesStats, StringStats

FORMAT = "drivetrain-stats-1"
TYPES = ("int", "float", "string", "bytes", "struct", "null")
ALL = "All Examples"


@dataclass
class FeatureStats:
    """Statistics of one feature.

    Attributes:
        name: path of the feature; children of a struct are "parent.child".
        type: one of "int", "float", "string", "bytes", "struct", or "null" while no value was ever seen.
        common: presence and number of values.
        numeric, text, bytes: what the type has; a categorical int has `text` too.
        logical: the type a column had before it counted as `type`: "bool", "timestamp[us]", ...; None where the same.
        tensor: dtype and shapes, for features of torch datasets.
        notes: what the reader had to decide, with file:line ("read as float from flights.csv:18: '3.5'").
        extras: results of optional generators (natural language, image, time), by name.
    """

    name: str
    type: str
    common: CommonStats = field(default_factory=CommonStats)
    numeric: NumericStats | None = None
    text: StringStats | None = None
    bytes: BytesStats | None = None
    logical: str | None = None
    tensor: TensorStats | None = None
    notes: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def num_missing(self) -> int:
        return self.common.num_missing

    @property
    def num_non_missing(self) -> int:
        return self.common.num_non_missing

    def merge(self, other: FeatureStats) -> FeatureStats:
        """Statistics of both streams; int widens to float, anything to string (with a note)."""
        kind, note = _join_types(self, other)
        notes = list(dict.fromkeys(self.notes + other.notes + note))
        return FeatureStats(
            name=self.name,
            type=kind,
            common=self.common.merge(other.common),
            numeric=_merged(self.numeric, other.numeric),
            text=_merged(self.text, other.text),
            bytes=_merged(self.bytes, other.bytes),
            logical=self.logical
            if self.logical == other.logical or other.type == "null"
            else other.logical
            if self.type == "null"
            else None,
            tensor=_merged(self.tensor, other.tensor),
            notes=notes,
            extras=_merge_extras(self.extras, other.extras),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; merging needs no more than this."""
        parts = {name: getattr(self, name) for name in ("common", "numeric", "text", "bytes", "tensor")}
        return {
            "name": self.name,
            "type": self.type,
            "logical": self.logical,
            "notes": self.notes,
            **{name: part and part.to_json() for name, part in parts.items()},
            "extras": {name: part.to_json() for name, part in self.extras.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FeatureStats:
        """Inverse of `to_json`."""
        from .generators import EXTRAS

        def part(name: str, kind: Any) -> Any:
            return kind.from_json(data[name]) if data[name] else None

        return cls(
            name=data["name"],
            type=data["type"],
            common=CommonStats.from_json(data["common"]),
            numeric=part("numeric", NumericStats),
            text=part("text", StringStats),
            bytes=part("bytes", BytesStats),
            logical=data["logical"],
            tensor=part("tensor", TensorStats),
            notes=data["notes"],
            extras={name: EXTRAS[extra["kind"]].from_json(extra) for name, extra in data["extras"].items()},
        )


@dataclass(frozen=True)
class RejectedRow:
    """A row that could not be read: where ("flights.csv:17"), why, the column if one is to blame, the text."""

    where: str
    reason: str
    column: str | None = None
    text: str = ""


@dataclass
class Rejected:
    """Rows that could not be read: all are counted, the first 20 are kept."""

    count: int = 0
    samples: list[RejectedRow] = field(default_factory=list)

    KEPT = 20

    def add(self, row: RejectedRow) -> None:
        """Count a row, keep it while there is room."""
        self.count += 1
        if len(self.samples) < self.KEPT:
            self.samples.append(row)

    def merge(self, other: Rejected) -> Rejected:
        """Rejected rows of both."""
        return Rejected(self.count + other.count, (self.samples + other.samples)[: self.KEPT])


@dataclass
class Stats:
    """Statistics of a data set and, by name, of its slices. `a | b` are the statistics of both data sets."""

    name: str = ALL
    num_examples: int = 0
    weighted_num_examples: float | None = None
    features: dict[str, FeatureStats] = field(default_factory=dict)
    slices: dict[str, Stats] = field(default_factory=dict)
    rejected: Rejected = field(default_factory=Rejected)
    notes: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: Stats) -> Stats:
        if not isinstance(other, Stats):
            return NotImplemented
        features: dict[str, FeatureStats] = {}
        for name in [*self.features, *(n for n in other.features if n not in self.features)]:
            ours = self.features.get(name) or _absent(other.features[name], self)
            features[name] = ours.merge(other.features.get(name) or _absent(ours, other))
        slices = dict(self.slices)
        for name, part in other.slices.items():
            slices[name] = slices[name] | part if name in slices else part
        weights = [w for w in (self.weighted_num_examples, other.weighted_num_examples) if w is not None]
        return Stats(
            name=self.name,
            num_examples=self.num_examples + other.num_examples,
            weighted_num_examples=sum(weights) if weights else None,
            features=features,
            slices=slices,
            rejected=self.rejected.merge(other.rejected),
            notes=list(dict.fromkeys(self.notes + other.notes)),
            extras=_merge_extras(self.extras, other.extras),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; merging needs no more than this."""
        return {
            "format": FORMAT,
            "name": self.name,
            "num_examples": self.num_examples,
            "weighted_num_examples": self.weighted_num_examples,
            "features": [feature.to_json() for feature in self.features.values()],
            "slices": [part.to_json() for part in self.slices.values()],
            "rejected": {"count": self.rejected.count, "samples": [vars(row) for row in self.rejected.samples]},
            "notes": self.notes,
            "extras": {name: part.to_json() for name, part in self.extras.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stats:
        """Inverse of `to_json`."""
        from .generators import EXTRAS

        features = [FeatureStats.from_json(feature) for feature in data["features"]]
        slices = [cls.from_json(part) for part in data["slices"]]
        rows = [RejectedRow(**row) for row in data["rejected"]["samples"]]
        return cls(
            name=data["name"],
            num_examples=data["num_examples"],
            weighted_num_examples=data["weighted_num_examples"],
            features={feature.name: feature for feature in features},
            slices={part.name: part for part in slices},
            rejected=Rejected(data["rejected"]["count"], rows),
            notes=data["notes"],
            extras={name: EXTRAS[extra["kind"]].from_json(extra) for name, extra in data["extras"].items()},
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON (sketches in base64), whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Stats:
        """Read what `save` wrote.

        Raises:
            MissingFile: no such file.
            InvalidValue: not statistics of this format.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingFile(f"data: {path}: no such file", hint="write one with: drivetrain data stats DATA -o FILE")
        try:
            data = json.loads(path.read_text())
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InvalidValue(
                f"data: {path}: not a statistics file: {error}", hint="wanted: JSON by Stats.save"
            ) from error
        if found != FORMAT:
            raise InvalidValue(f"data: {path}: format {found!r}, wanted {FORMAT!r}", hint="wanted: JSON by Stats.save")
        try:
            return cls.from_json(data)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidValue(f"data: {path}: damaged statistics file: {error!r}") from error

    def to_proto(self) -> Any:
        """As DatasetFeatureStatisticsList of tensorflow-metadata, for TFDV and Facets (interchange.py)."""
        from .interchange import to_proto

        return to_proto(self)

    @classmethod
    def from_proto(cls, proto: Any) -> Stats:
        """From DatasetFeatureStatisticsList; quantiles then come from its histograms."""
        from .interchange import from_proto

        return from_proto(proto)


def _merged(a: Any, b: Any) -> Any:
    return a.merge(b) if a is not None and b is not None else b if a is None else a


def _merge_extras(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {name: _merged(a.get(name), b.get(name)) for name in [*a, *(n for n in b if n not in a)]}


def _absent(feature: FeatureStats, stats: Stats) -> FeatureStats:
    """The feature as seen by a data set that lacks the column: missing in every example."""
    # A child of a struct is counted within the structs that are there; a data set without the struct has none of them.
    missing = 0 if "." in feature.name and feature.name.rpartition(".")[0] not in stats.features else stats.num_examples
    weight = None if stats.weighted_num_examples is None else stats.weighted_num_examples
    return replace(
        FeatureStats(feature.name, "null"),
        common=CommonStats.of(0, missing, weighted_missing=weight if missing else None),
    )


def _join_types(a: FeatureStats, b: FeatureStats) -> tuple[str, list[str]]:
    if a.type == b.type or b.type == "null":
        return a.type, []
    if a.type == "null":
        return b.type, []
    if {a.type, b.type} == {"int", "float"}:
        return "float", []
    kind = "struct" if "struct" in (a.type, b.type) else "bytes" if "bytes" in (a.type, b.type) else "string"
    return kind, [f"read as {a.type} in one part and as {b.type} in another"]
