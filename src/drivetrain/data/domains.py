"""What values a feature may take: the domains of a schema (the `domain_info` of schema.proto).

A bound that is None is open. `SharedDomain` names an entry of `Schema.domains`, so that two features can share one
list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .schema import Feature


@dataclass
class IntDomain:
    """Whole numbers in [min, max]; on a string feature, strings that read as such numbers."""

    min: int | None = None
    max: int | None = None
    categorical: bool = False


@dataclass
class FloatDomain:
    """Numbers in [min, max]; NaN and infinities are allowed unless disallowed."""

    min: float | None = None
    max: float | None = None
    disallow_nan: bool = False
    disallow_inf: bool = False
    categorical: bool = False


@dataclass
class StringDomain:
    """One of the listed strings. `Feature.min_domain_mass` says which share of the values must come from the list."""

    values: list[str] = field(default_factory=list)


@dataclass
class BoolDomain:
    """A truth value: 0 and 1 for numbers, `true_value` and `false_value` for strings.

    TFDV counts the empty string as true; here both strings are an explicit choice.
    """

    true_value: str | None = None
    false_value: str | None = None


@dataclass
class StructDomain:
    """A record with features of its own, by name."""

    features: dict[str, Feature] = field(default_factory=dict)


@dataclass
class TokenConstraint:
    """How often one token may occur: per sequence (counts), and in which fraction of the sequences."""

    token: str | int
    min_per_sequence: int | None = None
    max_per_sequence: int | None = None
    min_fraction: float | None = None
    max_fraction: float | None = None


@dataclass
class TextDomain:
    """Natural-language text: vocabulary coverage, token length, constraints on single tokens."""

    vocabulary: str | None = None
    min_coverage: float | None = None
    min_avg_token_length: float | None = None
    excluded_tokens: list[str | int] = field(default_factory=list)
    oov_tokens: list[str] = field(default_factory=list)
    tokens: list[TokenConstraint] = field(default_factory=list)
    min_sequence_length: int | None = None
    max_sequence_length: int | None = None


@dataclass
class ImageDomain:
    """Encoded images: least share of readable ones, greatest size in bytes."""

    min_supported_fraction: float | None = None
    max_bytes: int | None = None


@dataclass
class UrlDomain:
    """Strings that are URLs."""


@dataclass
class TimeDomain:
    """A date or time: a strptime format for strings, or a unit such as `unix_seconds` for whole numbers."""

    format: str | None = None
    unit: str | None = None


@dataclass
class TimeOfDayDomain:
    """A time of day without a date: a strptime format for strings, or `packed_64_nanos` for whole numbers."""

    format: str | None = None
    unit: str | None = None


@dataclass
class SharedDomain:
    """A reference to `Schema.domains[name]`."""

    name: str


Domain = (
    IntDomain
    | FloatDomain
    | StringDomain
    | BoolDomain
    | StructDomain
    | TextDomain
    | ImageDomain
    | UrlDomain
    | TimeDomain
    | TimeOfDayDomain
    | SharedDomain
)
"""Any of the domains of this file."""

TIME_UNITS = ("unix_days", "unix_seconds", "unix_milliseconds", "unix_microseconds", "unix_nanoseconds")

TYPES_OF_DOMAIN: dict[type, tuple[str, ...]] = {
    IntDomain: ("int", "string", "bytes"),
    FloatDomain: ("float", "string", "bytes"),
    StringDomain: ("string", "bytes"),
    BoolDomain: ("int", "float", "string", "bytes"),
    StructDomain: ("struct",),
    TextDomain: ("string", "bytes", "int"),
    ImageDomain: ("string", "bytes"),
    UrlDomain: ("string", "bytes"),
    TimeDomain: ("string", "bytes", "int"),
    TimeOfDayDomain: ("string", "bytes", "int"),
}
"""Which feature types a domain can stand on; anything else is DOMAIN_INVALID_FOR_TYPE."""
