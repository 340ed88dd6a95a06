"""Hypothesis strategies from a schema: examples that satisfy it and nothing more (spec 17 §2.7).

Every kind of value starts with the corners: bounds, 0, 1, -1, the extremes of the type, NaN and the infinities unless
they are disallowed, the first and last value of a list, empty and long and non-ASCII strings, lists of the least and
greatest length. The range comes before the corners, so that shrinking can move inside it.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .domains import (
    BoolDomain,
    FloatDomain,
    ImageDomain,
    IntDomain,
    StringDomain,
    StructDomain,
    TextDomain,
    TimeDomain,
    UrlDomain,
)
from .schema import Feature, Schema

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
LARGE = 3.4028234663852886e38  # greatest float32: what a model can be given
LONG = "x" * 10_000
CORNER_TEXTS = ("", "a", " ", "0", "-1", "NaN", "null", "é", "日本", "🙂", "\n", "a,b", '"', LONG)
GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
MORE = 3  # lists of open length get up to this many values more than the least


def examples(
    schema: Schema, environment: str | None = None, *, complete: bool = False
) -> SearchStrategy[dict[str, Any]]:
    """Examples: dicts from feature to a value, a list of values, or None (missing, where that is allowed).

    Args:
        environment: features not expected in it are left out.
        complete: no feature is missing.
    """
    return st.fixed_dictionaries(
        {
            name: feature_values(feature, schema, complete=complete)
            for name, feature in schema.features.items()
            if feature.checked and (environment is None or feature.expected_in(environment, schema.environments))
        }
    )


def feature_values(feature: Feature, schema: Schema, *, complete: bool = False) -> SearchStrategy[Any]:
    """What one feature of an example may hold."""
    one = single_values(feature, schema)
    values: SearchStrategy[Any]
    if feature.shape is not None and math.prod(feature.shape) != 1:
        size = math.prod(feature.shape)
        values = st.lists(one, min_size=size, max_size=size)
    elif feature.nested_values is not None:
        values = one
        for bounds in reversed(feature.nested_values):
            low = bounds.min or 0
            values = st.lists(values, min_size=low, max_size=low + MORE if bounds.max is None else bounds.max)
    elif feature.values is not None and (feature.values.min, feature.values.max) != (1, 1):
        values = _list_of(one, feature.values.min or 0, feature.values.max)
    else:
        values = one
    if complete or feature.presence.min_fraction == 1.0 or (feature.shape is not None):
        return values
    return st.one_of(values, st.none())


def _list_of(one: SearchStrategy[Any], low: int, high: int | None) -> SearchStrategy[Any]:
    most = low + MORE if high is None else high
    ends = [st.lists(one, min_size=size, max_size=size) for size in dict.fromkeys((low, most))]
    return st.one_of(*ends, st.lists(one, min_size=low, max_size=most))


def single_values(feature: Feature, schema: Schema) -> SearchStrategy[Any]:
    """One value of a feature."""
    domain = schema.resolve(feature.domain)
    words = feature.type in ("string", "bytes")
    if isinstance(domain, StringDomain) and domain.values:
        ends = list(dict.fromkeys((domain.values[0], domain.values[-1])))
        listed = st.one_of(st.sampled_from(ends), st.sampled_from(domain.values))
        mass = feature.min_domain_mass
        return listed if mass is None or mass >= 1 else st.one_of(listed, listed, st.sampled_from(CORNER_TEXTS))
    if isinstance(domain, BoolDomain):
        if words:
            return st.sampled_from(
                [w for w in (domain.false_value, domain.true_value) if w is not None] or list(CORNER_TEXTS)
            )
        return st.sampled_from([0.0, 1.0]) if feature.type == "float" else st.sampled_from([0, 1])
    if isinstance(domain, StructDomain):
        return examples(Schema(features=domain.features, domains=schema.domains))
    if isinstance(domain, TimeDomain) and domain.format:
        form = domain.format
        return st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)).map(
            lambda t: t.strftime(form)
        )
    if isinstance(domain, UrlDomain):
        return st.sampled_from(["https://example.org/", "http://a.b/c?d=e#f"])
    if isinstance(domain, ImageDomain):
        return st.just(GIF)
    if isinstance(domain, TextDomain):
        return _text(domain)
    if feature.type == "int" or (words and isinstance(domain, IntDomain)):
        whole = _ints(domain if isinstance(domain, IntDomain) else IntDomain())
        return whole.map(str) if words else whole
    if feature.type == "float" or (words and isinstance(domain, FloatDomain)):
        number = _floats(domain if isinstance(domain, FloatDomain) else FloatDomain())
        return number.map(repr) if words else number
    if feature.type == "bytes":
        return st.one_of(st.sampled_from([b"", b"\x00", b"\xff\xfe", b"a"]), st.binary(max_size=20))
    if feature.type == "struct":
        return st.just({})
    return st.one_of(st.sampled_from(CORNER_TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


def _text(domain: TextDomain) -> SearchStrategy[str]:
    least = domain.min_sequence_length or 0
    most = least + 5 if domain.max_sequence_length is None else domain.max_sequence_length
    tokens = [str(item.token) for item in domain.tokens] or ["a"]
    return st.lists(st.sampled_from([*tokens, "word", "token"]), min_size=least, max_size=most).map(" ".join)


def _ints(domain: IntDomain) -> SearchStrategy[int]:
    low = INT_MIN if domain.min is None else domain.min
    high = INT_MAX if domain.max is None else domain.max
    corners = [value for value in (0, 1, -1, low, high) if low <= value <= high]
    return st.one_of(st.integers(low, high), st.sampled_from(sorted(set(corners), key=abs)))


def _floats(domain: FloatDomain) -> SearchStrategy[float]:
    low = -LARGE if domain.min is None else domain.min
    high = LARGE if domain.max is None else domain.max
    corners = [value for value in (0.0, 1.0, -1.0, 1e-30, low, high) if low <= value <= high]
    if not domain.disallow_inf:
        corners += [math.inf] * (domain.max is None) + [-math.inf] * (domain.min is None)
    if not domain.disallow_nan:
        corners.append(math.nan)
    return st.one_of(st.floats(low, high, allow_nan=False), st.sampled_from(list(dict.fromkeys(corners))))
