"""Rules about the schema itself: promises that can't be meant (spec 17 §2.5, schema self-checks)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .domains import (
    TYPES_OF_DOMAIN,
    BoolDomain,
    FloatDomain,
    IntDomain,
    SharedDomain,
    StringDomain,
)
from .edits import Edit
from .report import Finding
from .rule import DOMAIN_KEYS, Rule
from .schema import Bounds, Feature, Schema
from .schema_toml import feature_to_dict

Keys = Callable[[], tuple[str, ...]]
CONFUSED = frozenset(
    {"FEATURE_MISSING_NAME", "INVALID_SCHEMA_SPECIFICATION", "INVALID_DOMAIN_SPECIFICATION", "DOMAIN_INVALID_FOR_TYPE"}
)
"""Types that blame the schema and not the data."""


def check_specification(feature: Feature, schema: Schema, keys: Keys) -> list[Finding]:
    """Everything that is wrong with one feature's promises, whatever the data; `keys` gives the path of its table."""
    found: list[Finding] = []
    if not feature.name:
        edit = Edit("remove", keys())
        found.append(Finding("FEATURE_MISSING_NAME", "a name for every feature", "an empty name", edits=(edit,)))
    presence, mass = feature.presence, feature.min_domain_mass
    if presence.min_fraction is not None and not 0 <= presence.min_fraction <= 1:
        found.append(
            _confused(
                keys, "presence.min_fraction in [0, 1]", f"{presence.min_fraction:g}", ("presence", "min_fraction")
            )
        )
    for name in ("values", "unique"):
        bounds = getattr(feature, name)
        if bounds is not None and _crossed(bounds):
            found.append(_confused(keys, f"0 <= {name}.min <= {name}.max", f"{bounds.min} and {bounds.max}", (name,)))
    if feature.nested_values is not None and any(map(_crossed, feature.nested_values)):
        found.append(
            _confused(keys, "0 <= min <= max at every level of nested_values", "bounds that cross", ("nested_values",))
        )
    if feature.values is not None and (feature.shape is not None or feature.nested_values is not None):
        found.append(_confused(keys, "one of shape, values, nested_values", "several", ("values",)))
    elif feature.shape is not None and feature.nested_values is not None:
        found.append(_confused(keys, "one of shape, values, nested_values", "several", ("nested_values",)))
    if feature.in_environments and (both := set(feature.in_environments) & set(feature.not_in_environments)):
        found.append(_confused(keys, "an environment in either `in` or `not_in`", f"{sorted(both)} in both", ("in",)))
    domain = schema.resolve(feature.domain)
    if mass is not None and (not isinstance(domain, StringDomain) or not 0 <= mass <= 1):
        wanted = "min_domain_mass in [0, 1], beside a list of strings"
        found.append(_confused(keys, wanted, f"{mass:g} beside {type(feature.domain).__name__}", ("min_domain_mass",)))
    if feature.domain is not None:
        found += _domain(feature, schema, keys)
    return found


def _crossed(bounds: Bounds) -> bool:
    low, high = bounds.min, bounds.max
    return (
        (low is not None and low < 0)
        or (high is not None and high < 0)
        or (low is not None and high is not None and low > high)
    )


def _confused(keys: Keys, wanted: str, seen: str, key: tuple[str, ...]) -> Finding:
    return Finding(
        "INVALID_SCHEMA_SPECIFICATION", wanted, f"{seen} in the schema", edits=(Edit("remove", (*keys(), *key)),)
    )


def _domain(feature: Feature, schema: Schema, keys: Keys) -> Iterator[Finding]:
    gone = [*DOMAIN_KEYS, "min_domain_mass"]
    domain = schema.resolve(feature.domain)
    wrong: tuple[str, str] | None = None
    kind = "INVALID_DOMAIN_SPECIFICATION"
    if domain is None:
        assert isinstance(feature.domain, SharedDomain)
        wrong = f"a shared domain named {feature.domain.name!r}", "no such [domain] table"
    elif feature.type is not None and feature.type not in TYPES_OF_DOMAIN[type(domain)]:
        kind = "DOMAIN_INVALID_FOR_TYPE"
        wrong = f"a domain that fits type {feature.type.upper()}", type(domain).__name__
    elif isinstance(domain, StringDomain):
        if len(set(domain.values)) != len(domain.values):
            twice = sorted({value for value in domain.values if domain.values.count(value) > 1})
            unique = list(dict.fromkeys(domain.values))
            path = (
                ("domain", feature.domain.name, "values")
                if isinstance(feature.domain, SharedDomain)
                else (*keys(), "domain")
            )
            yield Finding(
                kind, "every value once", f"{twice[:5]} repeated in the schema", edits=(Edit("set", path, unique),)
            )
    elif isinstance(domain, BoolDomain):
        if domain.true_value is not None and domain.true_value == domain.false_value:
            wrong = "different words for true and false", f"{domain.true_value!r} for both"
    elif (
        isinstance(domain, IntDomain | FloatDomain)
        and domain.min is not None
        and domain.max is not None
        and domain.min > domain.max
    ):
        wrong = "range [low, high] with low <= high", f"[{domain.min:g}, {domain.max:g}]"
    if wrong is not None:
        there = feature_to_dict(feature)
        edits = tuple(Edit("remove", (*keys(), key)) for key in gone if key in there)
        yield Finding(kind, wrong[0], f"{wrong[1]} in the schema", edits=edits)


SPECIFICATION = (
    Rule("FEATURE_MISSING_NAME", "a feature's name is empty", "the feature is removed"),
    Rule(
        "INVALID_SCHEMA_SPECIFICATION",
        "min_fraction or min_domain_mass outside [0, 1], bounds that cross, two kinds of valency, "
        "min_domain_mass without a list of strings, an environment both in and not in",
        "the key is removed",
    ),
    Rule(
        "INVALID_DOMAIN_SPECIFICATION",
        "an unknown shared domain, a value twice in a list, one word for true and false, a range upside down",
        "the domain is removed, or the repeated value",
    ),
    Rule(
        "DOMAIN_INVALID_FOR_TYPE",
        "a domain that can't stand on the feature's type (a list of strings on a float)",
        "the domain is removed",
    ),
)
