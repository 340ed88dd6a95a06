"""What is inside the values of one feature: words of a text, format of an image, format of a time (spec 17 §2.2)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif", b"BM": "bmp"}
TIMES = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y/%m/%d",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%H:%M:%S",
    "%H:%M",
)


@dataclass
class LanguageStats:
    """Tokens of a feature; a text is split at white space, a list holds one token in each value.

    Attributes:
        watched: token -> [occurrences, sequences that have it, least and greatest number in a sequence], empty at
        first.
    """

    kind: ClassVar[str] = "language"
    feature: str
    vocabulary: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    watched: dict[str, list[int]] = field(default_factory=dict)
    num_sequences: int = 0
    num_tokens: int = 0
    num_covered: int = 0
    num_bytes: int = 0
    num_counted: int = 0
    min_length: int | None = None
    max_length: int | None = None

    @property
    def coverage(self) -> float:
        """Share of the tokens (the excluded ones aside) that are in the vocabulary; NaN without tokens."""
        return self.num_covered / self.num_counted if self.num_counted else float("nan")

    @property
    def avg_token_length(self) -> float:
        """Mean bytes of a token, the excluded ones aside."""
        return self.num_bytes / self.num_counted if self.num_counted else float("nan")

    def occurrences(self, token: str) -> tuple[int, float, int]:
        """Least, mean and greatest number of times the token occurs in a sequence."""
        total, _, low, high = self.watched[token] or [0, 0, 0, 0]
        return low, total / max(1, self.num_sequences), high

    def fraction(self, token: str) -> float:
        """Share of the sequences in which the token occurs."""
        return (self.watched[token] or [0, 0])[1] / max(1, self.num_sequences)

    def update(self, table: Any) -> None:
        """Add a batch."""
        if self.feature not in table.schema.names:
            return
        for sequence in table[self.feature].drop_null().to_pylist():
            tokens = sequence.split() if isinstance(sequence, str) else [str(token) for token in sequence]
            self._add(tokens)

    def _add(self, tokens: list[str]) -> None:
        counted = [token for token in tokens if token not in self.excluded]
        self.num_tokens += len(tokens)
        self.num_counted += len(counted)
        self.num_covered += sum(token in self.vocabulary for token in counted)
        self.num_bytes += sum(len(token.encode()) for token in counted)
        self.min_length = len(tokens) if self.min_length is None else min(self.min_length, len(tokens))
        self.max_length = max(self.max_length or 0, len(tokens))
        self.num_sequences += 1
        for token, seen in self.watched.items():
            times = tokens.count(token)
            self.watched[token] = _joined(seen, [times, int(times > 0), times, times])

    def merge(self, other: LanguageStats) -> LanguageStats:
        """Both streams."""
        watched = {t: _joined(self.watched.get(t, []), other.watched.get(t, [])) for t in self.watched | other.watched}
        return LanguageStats(
            self.feature,
            self.vocabulary | other.vocabulary,
            self.excluded | other.excluded,
            watched,
            self.num_sequences + other.num_sequences,
            self.num_tokens + other.num_tokens,
            self.num_covered + other.num_covered,
            self.num_bytes + other.num_bytes,
            self.num_counted + other.num_counted,
            _extreme(min, self.min_length, other.min_length),
            _extreme(max, self.max_length, other.max_length),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; of the vocabulary only the words, sorted."""
        lists = {"vocabulary": sorted(self.vocabulary), "excluded": sorted(self.excluded)}
        return {"kind": self.kind, **vars(self), **lists}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LanguageStats:
        """Inverse of `to_json`."""
        rest = {key: value for key, value in data.items() if key != "kind"}
        return cls(**{**rest, "vocabulary": frozenset(data["vocabulary"]), "excluded": frozenset(data["excluded"])})


@dataclass
class ImageStats:
    """Formats of encoded images, by their first bytes ("unknown" is not supported), and the greatest size in bytes."""

    kind: ClassVar[str] = "image"
    feature: str
    formats: dict[str, int] = field(default_factory=dict)
    max_num_bytes: int = 0

    @property
    def num_values(self) -> int:
        return sum(self.formats.values())

    @property
    def supported_fraction(self) -> float:
        """Share of the values that are images of a known format; NaN without values."""
        unknown = self.formats.get("unknown", 0)
        return 1.0 - unknown / self.num_values if self.num_values else float("nan")

    def update(self, table: Any) -> None:
        """Add a batch."""
        if self.feature in table.schema.names:
            for value in _leaves(table[self.feature].drop_null().to_pylist()):
                content = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
                form = image_format(content)
                self.formats[form] = self.formats.get(form, 0) + 1
                self.max_num_bytes = max(self.max_num_bytes, len(content))

    def merge(self, other: ImageStats) -> ImageStats:
        """Both streams."""
        formats = {f: self.formats.get(f, 0) + other.formats.get(f, 0) for f in sorted(self.formats | other.formats)}
        return ImageStats(self.feature, formats, max(self.max_num_bytes, other.max_num_bytes))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, **vars(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageStats:
        """Inverse of `to_json`."""
        return cls(**{key: value for key, value in data.items() if key != "kind"})


@dataclass
class TimeStats:
    """How many values follow each date or time format."""

    kind: ClassVar[str] = "time"
    feature: str
    formats: dict[str, int] = field(default_factory=dict)
    num_values: int = 0

    @staticmethod
    def usual() -> dict[str, int]:
        """The formats that are tried when none is given."""
        return dict.fromkeys(TIMES, 0)

    @property
    def format(self) -> str | None:
        """The format that every value follows; None if there is none."""
        return next((form for form, count in self.formats.items() if count == self.num_values > 0), None)

    def update(self, table: Any) -> None:
        """Add a batch; every distinct text is parsed once."""
        if self.feature not in table.schema.names:
            return
        values = [str(value) for value in _leaves(table[self.feature].drop_null().to_pylist())]
        for text, count in Counter(values).items():
            self.num_values += count
            for form in self.formats:
                self.formats[form] += count * _follows(text, form)

    def merge(self, other: TimeStats) -> TimeStats:
        """Both streams."""
        formats = {f: self.formats.get(f, 0) + other.formats.get(f, 0) for f in self.formats | other.formats}
        return TimeStats(self.feature, formats, self.num_values + other.num_values)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, **vars(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TimeStats:
        """Inverse of `to_json`."""
        return cls(**{key: value for key, value in data.items() if key != "kind"})


def image_format(content: bytes) -> str:
    """jpeg, png, gif, bmp, webp, tiff, or unknown."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    if content[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    return next((name for magic, name in MAGIC.items() if content.startswith(magic)), "unknown")


def _follows(text: str, form: str) -> bool:
    try:
        time.strptime(text, form)
    except ValueError:
        return False
    return True


def _leaves(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _leaves(value)
        elif value is not None:
            yield value


def _joined(a: list[int], b: list[int]) -> list[int]:
    return [a[0] + b[0], a[1] + b[1], min(a[2], b[2]), max(a[3], b[3])] if a and b else list(a or b)


def _extreme(choose: Any, a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else choose(a, b)
