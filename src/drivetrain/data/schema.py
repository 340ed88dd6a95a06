"""The schema: what the owners of the data promise to the owners of the training code (spec 17 §2.3).

Plain dataclasses, to be read and edited: `schema.feature("fare").presence.min_fraction = 0.5`. A field that is None
promises nothing. The file form is TOML (`schema_toml.py`); `.pbtxt` files of tensorflow-metadata are read and written
too (`schema_pbtxt.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import InvalidValue, unknown_name
from .domains import Domain, SharedDomain, StringDomain, StructDomain

TYPES = ("int", "float", "string", "bytes", "struct")
STAGES = ("PLANNED", "ALPHA", "BETA", "PRODUCTION", "DEPRECATED", "DEBUG_ONLY", "DISABLED")
UNCHECKED_STAGES = frozenset({"PLANNED", "ALPHA", "DEBUG_ONLY", "DEPRECATED", "DISABLED"})
"""Features at these stages are not validated."""


class SchemaError(InvalidValue):
    """A schema that can't be read; the message names file, line, key, the value found and what is allowed."""


@dataclass
class Presence:
    """In how many examples a feature must be there: least fraction in [0, 1] and least count."""

    min_fraction: float | None = None
    min_count: int | None = None

    @property
    def required(self) -> bool:
        """Whether the column itself must exist."""
        return bool(self.min_fraction) or bool(self.min_count)


@dataclass
class Bounds:
    """A closed interval of counts; None is open."""

    min: int | None = None
    max: int | None = None


@dataclass
class Comparator:
    """Greatest distance allowed between two batches; a distance without a threshold raises no alarm.

    Attributes:
        linf: max over values (or pooled-quantile bins) of the change in share, in [0, 1].
        js: Jensen-Shannon divergence, base 2, in [0, 1].
        nad: max |a_i - b_i| / (sum a + sum b) on raw counts, in [0, 1].
        ks: Kolmogorov-Smirnov distance of a numeric feature, in [0, 1].
        w1: Wasserstein-1 distance of a numeric feature, in the feature's own unit.
        source: "quantiles" (bins from the pooled quantiles) or "standard" (TFDV's equal-width histograms) for numbers.
    """

    linf: float | None = None
    js: float | None = None
    nad: float | None = None
    ks: float | None = None
    w1: float | None = None
    source: str = "quantiles"


Interval = tuple[float, float]


@dataclass
class Statistics:
    """Closed intervals for statistics of one feature: mean, std, share of zeros, quantiles, shares of single values."""

    mean: Interval | None = None
    std: Interval | None = None
    zeros: Interval | None = None
    quantile: dict[float, Interval] = field(default_factory=dict)
    share: dict[str, Interval] = field(default_factory=dict)


@dataclass
class Feature:
    """The promises about one feature (a column, or a field of a struct)."""

    name: str
    type: str | None = None
    presence: Presence = field(default_factory=Presence)
    required_in_group: bool | None = None
    shape: list[int] | None = None
    values: Bounds | None = None
    nested_values: list[Bounds] | None = None
    domain: Domain | None = None
    min_domain_mass: float | None = None
    unique: Bounds | None = None
    statistics: Statistics | None = None
    drift: Comparator | None = None
    skew: Comparator | None = None
    scored: Comparator | None = None
    in_environments: list[str] = field(default_factory=list)
    not_in_environments: list[str] = field(default_factory=list)
    stage: str | None = None
    severity: str | None = None
    tags: list[str] = field(default_factory=list)
    comment: str | None = None

    @property
    def checked(self) -> bool:
        """Whether the lifecycle stage of the feature lets it be validated."""
        return self.stage not in UNCHECKED_STAGES

    def expected_in(self, environment: str | None, defaults: list[str]) -> bool:
        """Whether examples of this environment must have the feature; without an environment all do.

        A feature is expected in E if E is in the schema's environments or in the feature's own list, and not excluded.
        A schema without default environments expects every feature that isn't excluded.
        """
        if environment is None:
            return True
        if environment in self.not_in_environments:
            return False
        named = defaults or self.in_environments
        return not named or environment in defaults or environment in self.in_environments


@dataclass
class DatasetConstraints:
    """Number of examples: absolute bounds, and the ratio to the previous batch."""

    min_examples: int | None = None
    max_examples: int | None = None
    ratio_to_previous: tuple[float | None, float | None] | None = None


@dataclass
class SparseFeature:
    """A sparse tensor kept as one value column and one index column per dimension, of equal lengths."""

    name: str
    index: list[str]
    value: str
    stage: str | None = None


@dataclass
class WeightedFeature:
    """A feature whose values have weights in a second column of the same lengths."""

    name: str
    feature: str
    weight: str
    stage: str | None = None


@dataclass
class Change:
    """One difference between two schemas: a dotted path and the values on both sides (None: absent)."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path} = {self.after!r}"
        if self.after is None:
            return f"- {self.path} = {self.before!r}"
        return f"~ {self.path}: {self.before!r} -> {self.after!r}"


@dataclass
class Schema:
    """All promises about a data set: features by name, shared domains, environments, constraints on the whole."""

    features: dict[str, Feature] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    environments: list[str] = field(default_factory=list)
    dataset: DatasetConstraints = field(default_factory=DatasetConstraints)
    sparse: dict[str, SparseFeature] = field(default_factory=dict)
    weighted: dict[str, WeightedFeature] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    comment: str | None = None

    def feature(self, path: str) -> Feature:
        """The feature of this name; fields of a struct by dotted path.

        Raises:
            DrivetrainError: no such feature; names the nearest.
        """
        if path in self.features:
            return self.features[path]
        for found, feature in self.walk():
            if found == path:
                return feature
        raise unknown_name("data: feature", path, [found for found, _ in self.walk()])

    def domain(self, name: str) -> Domain:
        """A shared domain of this name, else the domain of the feature of this name (references followed).

        Raises:
            DrivetrainError: neither exists, or the feature has no domain.
        """
        if name in self.domains:
            return self.domains[name]
        domain = self.resolve(self.feature(name).domain)
        if domain is None:
            raise InvalidValue(
                f"data: feature {name!r} has no domain", hint="schema.feature(name).domain = StringDomain([...])"
            )
        return domain

    def resolve(self, domain: Domain | None) -> Domain | None:
        """Follow a `SharedDomain` to the domain it names; None where the name is unknown."""
        if isinstance(domain, SharedDomain):
            return self.domains.get(domain.name)
        return domain

    def walk(self) -> Iterator[tuple[str, Feature]]:
        """All features with their dotted paths, a struct before its fields."""
        for name, feature in self.features.items():
            yield from _walk(name, feature)

    def share_domain(self, name: str, *features: str) -> StringDomain:
        """Give several string features one list of values under one name, the union of what they have.

        Raises:
            DrivetrainError: a feature is unknown or has no string domain.
        """
        union: dict[str, None] = {}
        for feature in features:
            domain = self.domain(feature)
            if not isinstance(domain, StringDomain):
                raise InvalidValue(f"data: feature {feature!r} has no string domain to share under {name!r}")
            union.update(dict.fromkeys(domain.values))
        shared = StringDomain(list(union))
        self.domains[name] = shared
        for feature in features:
            self.feature(feature).domain = SharedDomain(name)
        return shared

    def copy(self) -> Schema:
        """A deep copy."""
        return copy.deepcopy(self)

    def diff(self, other: Schema) -> list[Change]:
        """What changes from this schema to the other, by dotted path, in order."""
        return list(_changes((), self.to_dict(), other.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The schema as the nested dict of its TOML file; the language in which proposed edits are written."""
        from .schema_toml import schema_to_dict

        return schema_to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Schema:
        """The inverse of `to_dict`.

        Raises:
            SchemaError: an unknown key or a value of the wrong kind.
        """
        from .schema_toml import schema_from_dict

        return schema_from_dict(data)

    def save(self, path: str | Path) -> None:
        """Write the schema: TOML, or tensorflow-metadata's text form if the name ends in .pbtxt."""
        from ..base.files import write_text

        write_text(Path(path), self.to_pbtxt() if Path(path).suffix == ".pbtxt" else self.to_toml())

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a .toml or .pbtxt schema.

        Raises:
            MissingFile: there is no such file.
            SchemaError: it can't be read; names file, line and key.
        """
        from .schema_toml import read_text, schema_from_toml

        text = read_text(Path(path))
        if Path(path).suffix == ".pbtxt":
            return cls.from_pbtxt(text, where=str(path))
        return schema_from_toml(text, where=str(path))

    def to_toml(self) -> str:
        """The text of the TOML file."""
        from .schema_toml import schema_to_toml

        return schema_to_toml(self)

    def to_pbtxt(self) -> str:
        """The text form of `tensorflow.metadata.v0.Schema`; what that lacks goes into annotations."""
        from .schema_pbtxt import schema_to_pbtxt

        return schema_to_pbtxt(self)

    @classmethod
    def from_pbtxt(cls, text: str, *, where: str = "schema.pbtxt") -> Schema:
        """Read the text form of `tensorflow.metadata.v0.Schema`.

        Raises:
            SchemaError: bad syntax, or a field that isn't implemented; names the line.
        """
        from .schema_pbtxt import schema_from_pbtxt

        return schema_from_pbtxt(text, where=where)


def _walk(path: str, feature: Feature) -> Iterator[tuple[str, Feature]]:
    yield path, feature
    if isinstance(feature.domain, StructDomain):
        for name, child in feature.domain.features.items():
            yield from _walk(f"{path}.{name}", child)


def _changes(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            yield from _changes((*path, key), before.get(key), after.get(key))
    elif before != after:
        yield Change(".".join(path), before, after)
