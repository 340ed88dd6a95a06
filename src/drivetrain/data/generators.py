"""Optional statistics, computed in the same pass as the standard ones when asked for (spec 17 §2.2).

    analyze(source, generators=[Language("review", vocabulary=words), CrossFeatures(), MutualInformation("label")])

A generator is a request; `start()` gives the state that collects, merges, is saved, and is read as the result: under
`stats.features[feature].extras[kind]` for one feature, under `stats.extras[key]` for statistics of several.
A schema asks for `Language`, `Image`, `Time` and `Paired` by itself, where its domains need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .associations import CrossStats, LiftStats, MutualInformationStats
from .contents import ImageStats, LanguageStats, TimeStats
from .domains import ImageDomain, StringDomain, TextDomain, TimeDomain
from .paired import PairedStats

if TYPE_CHECKING:
    from .schema import Schema

EXTRAS: dict[str, Any] = {
    kind.kind: kind
    for kind in (CrossStats, ImageStats, LanguageStats, LiftStats, MutualInformationStats, PairedStats, TimeStats)
}


class Generator(Protocol):
    """A request for an optional statistic."""

    @property
    def feature(self) -> str | None:
        """The feature it belongs to; None for a statistic of several features."""
        ...

    @property
    def key(self) -> str:
        """Its name among the extras."""
        ...

    def start(self) -> Any:
        """The state that collects: `update(table)`, `merge(other)`, `to_json()`."""
        ...


@dataclass(frozen=True)
class Language:
    """Tokens of texts: coverage by a vocabulary, lengths, and how often given tokens occur in a sequence."""

    feature: str
    vocabulary: Sequence[str] = ()
    tokens: Sequence[str] = ()
    excluded: Sequence[str] = ()
    key: str = "language"

    def start(self) -> LanguageStats:
        """An empty state."""
        return LanguageStats(
            self.feature, frozenset(self.vocabulary), frozenset(self.excluded), {token: [] for token in self.tokens}
        )


@dataclass(frozen=True)
class Image:
    """Formats (by their first bytes) and sizes of encoded images."""

    feature: str
    key: str = "image"

    def start(self) -> ImageStats:
        """An empty state."""
        return ImageStats(self.feature)


@dataclass(frozen=True)
class Time:
    """Which date or time format the texts of a feature follow."""

    feature: str
    formats: Sequence[str] = ()
    key: str = "time"

    def start(self) -> TimeStats:
        """An empty state."""
        return TimeStats(self.feature, dict.fromkeys(self.formats, 0) or TimeStats.usual())


@dataclass(frozen=True)
class CrossFeatures:
    """Covariance and correlation of every two of the numeric features (by default all, at most 50)."""

    features: Sequence[str] | None = None
    feature: None = None
    key: str = "cross"

    def start(self) -> CrossStats:
        """An empty state."""
        return CrossStats(None if self.features is None else list(self.features))


@dataclass(frozen=True)
class Lift:
    """P(y | x) / P(y) for the values of two categorical features."""

    x: str
    y: str
    feature: None = None

    @property
    def key(self) -> str:
        return f"lift of {self.x} on {self.y}"

    def start(self) -> LiftStats:
        """An empty state."""
        return LiftStats(self.x, self.y)


@dataclass(frozen=True)
class MutualInformation:
    """How much each feature tells about a label, in bits, from a uniform sample of 10,000 examples."""

    label: str
    feature: None = None

    @property
    def key(self) -> str:
        return f"mutual information with {self.label}"

    def start(self) -> MutualInformationStats:
        """An empty state."""
        return MutualInformationStats(self.label)


@dataclass(frozen=True)
class Paired:
    """Whether the value, index or weight columns that belong together are there together and equally long."""

    name: str
    value: str
    partners: tuple[str, ...]
    feature: None = None

    @property
    def key(self) -> str:
        return f"paired {self.name}"

    def start(self) -> PairedStats:
        """An empty state."""
        return PairedStats(self.name, self.value, {partner: [0, 0, 0] for partner in self.partners})


def from_schema(schema: Schema | None) -> Iterator[Generator]:
    """The generators that the domains and the sparse and weighted features of a schema need."""
    for path, feature in schema.walk() if schema else ():
        domain = schema.resolve(feature.domain) if schema else None
        if isinstance(domain, TextDomain):
            words = _vocabulary(schema, domain.vocabulary)
            tokens = [str(constraint.token) for constraint in domain.tokens]
            yield Language(path, words, tokens, [*map(str, domain.excluded_tokens), *domain.oov_tokens])
        elif isinstance(domain, ImageDomain):
            yield Image(path)
        elif isinstance(domain, TimeDomain):
            yield Time(path, [domain.format] if domain.format else ())
    if schema:
        for sparse in schema.sparse.values():
            yield Paired(sparse.name, sparse.value, tuple(sparse.index))
        for weighted in schema.weighted.values():
            yield Paired(weighted.name, weighted.feature, (weighted.weight,))


def _vocabulary(schema: Any, name: str | None) -> Sequence[str]:
    """Words of a vocabulary: a string domain of the schema, or a file with a word in a line."""
    if name is None:
        return ()
    domain = schema.domains.get(name)
    if isinstance(domain, StringDomain):
        return domain.values
    return Path(name).read_text().split("\n") if Path(name).is_file() else ()
