"""Vectorised masks: which elements of an Arrow column break a feature's promises.

A mask is computed only where a cheap look (null count, extremes) says that something must be found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .domains import BoolDomain, Domain, FloatDomain, IntDomain, StringDomain
from .schema import Feature

INT_TEXT = r"^\s*[+-]?\d+\s*$"
FLOAT_TEXT = r"(?i)^\s*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)\s*$"


def column_masks(column: Any, feature: Feature, domain: Domain | None, expected: bool) -> Iterator[tuple[str, Any]]:
    """(type of anomaly, numpy bool mask over the column's elements) for each promise that some element breaks.

    Args:
        column: Arrow array.
        expected: whether the feature must be there in this environment.
    """
    if expected and column.null_count and feature.presence.min_fraction == 1.0:
        yield "FEATURE_TYPE_LOW_FRACTION_PRESENT", _numpy(column.is_null())
    values, parents = column, None
    depth = 0
    while _is_list(values.type):
        if depth == 0:
            yield from _lengths(values, feature)
        inner = pc.list_parent_indices(values)
        parents = inner if parents is None else parents.take(inner)
        values = pc.list_flatten(values)
        depth += 1
    if depth == 0 and feature.values is not None and feature.values.min is not None and feature.values.min > 1:
        yield "FEATURE_TYPE_LOW_NUMBER_VALUES", _numpy(column.is_valid())
    for kind, mask in _value_masks(_plain(values), feature, domain):
        if parents is None:
            yield kind, mask
        else:
            found = np.zeros(len(column), np.bool_)
            found[_numpy(parents)[mask]] = True
            yield kind, found


def _numpy(array: Any) -> Any:
    return np.asarray(pc.fill_null(array, False) if pa.types.is_boolean(array.type) else array)


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(values: Any) -> Any:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
    elif pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    return values


def _lengths(lists: Any, feature: Feature) -> Iterator[tuple[str, Any]]:
    bounds = feature.values or (feature.nested_values[0] if feature.nested_values else None)
    lengths = pc.list_value_length(lists)
    if bounds is not None:
        if bounds.min is not None and (mask := _numpy(pc.less(lengths, bounds.min))).any():
            yield "FEATURE_TYPE_LOW_NUMBER_VALUES", mask
        if bounds.max is not None and (mask := _numpy(pc.greater(lengths, bounds.max))).any():
            yield "FEATURE_TYPE_HIGH_NUMBER_VALUES", mask
    if feature.shape is not None and not _is_list(lists.type.value_type):
        mask = _numpy(pc.not_equal(lengths, math.prod(feature.shape)))
        if mask.any():
            yield "INVALID_FEATURE_SHAPE", mask


def _value_masks(values: Any, feature: Feature, domain: Domain | None) -> Iterator[tuple[str, Any]]:
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if feature.type in ("int", "float") and text:
        readable = pc.match_substring_regex(values, INT_TEXT if feature.type == "int" else FLOAT_TEXT)
        mask = ~_numpy(pc.fill_null(readable, True))
        if mask.any():
            yield "UNEXPECTED_DATA_TYPE", mask
        return
    if feature.type == "int" and pa.types.is_floating(values.type):
        mask = _numpy(pc.not_equal(values, pc.floor(values)))
        if mask.any():
            yield "UNEXPECTED_DATA_TYPE", mask
    if feature.type in ("string", "bytes") and number:
        yield "UNEXPECTED_DATA_TYPE", _numpy(values.is_valid())
        return
    if isinstance(domain, StringDomain) and text:
        known = pc.is_in(values, value_set=pa.array(domain.values, values.type), skip_nulls=False)
        mask = ~_numpy(known) & _numpy(values.is_valid())
        if mask.any():
            yield "ENUM_TYPE_UNEXPECTED_STRING_VALUES", mask
    elif isinstance(domain, BoolDomain):
        yield from _bools(values, domain, text, number)
    elif isinstance(domain, IntDomain | FloatDomain):
        yield from _ranges(values, domain, text, number)


def _bools(values: Any, domain: BoolDomain, text: bool, number: bool) -> Iterator[tuple[str, Any]]:
    if text:
        words = [word for word in (domain.true_value, domain.false_value) if word is not None]
        mask = ~_numpy(pc.is_in(values, value_set=pa.array(words, values.type))) & _numpy(values.is_valid())
        if words and mask.any():
            yield "BOOL_TYPE_UNEXPECTED_STRING", mask
    elif pa.types.is_floating(values.type):
        mask = ~_numpy(pc.is_in(values, value_set=pa.array([0.0, 1.0], values.type))) & _numpy(values.is_valid())
        if mask.any():
            yield "BOOL_TYPE_UNEXPECTED_FLOAT", mask
    elif number:
        yield from _beyond(values, 0, 1, "BOOL_TYPE_SMALL_INT", "BOOL_TYPE_BIG_INT")


def _ranges(values: Any, domain: IntDomain | FloatDomain, text: bool, number: bool) -> Iterator[tuple[str, Any]]:
    whole = isinstance(domain, IntDomain)
    if text:
        readable = pc.match_substring_regex(values, INT_TEXT if whole else FLOAT_TEXT)
        bad = ~_numpy(pc.fill_null(readable, True))
        if bad.any():
            yield "INT_TYPE_NOT_INT_STRING" if whole else "FLOAT_TYPE_STRING_NOT_FLOAT", bad
        cleaned = pc.if_else(pa.array(bad), pa.scalar(None, values.type), pc.utf8_trim_whitespace(values))
        values = cleaned.cast(pa.float64())
        number = True
    if not number:
        return
    names = ("INT_TYPE_SMALL_INT", "INT_TYPE_BIG_INT") if whole else ("FLOAT_TYPE_SMALL_FLOAT", "FLOAT_TYPE_BIG_FLOAT")
    yield from _beyond(values, domain.min, domain.max, *names)
    if isinstance(domain, FloatDomain) and pa.types.is_floating(values.type):
        if domain.disallow_nan and (mask := _numpy(pc.is_nan(values))).any():
            yield "FLOAT_TYPE_HAS_NAN", mask
        if domain.disallow_inf and (mask := _numpy(pc.is_inf(values))).any():
            yield "FLOAT_TYPE_HAS_INF", mask


def _beyond(values: Any, low: float | None, high: float | None, small: str, big: str) -> Iterator[tuple[str, Any]]:
    extremes = pc.min_max(values)
    least, most = extremes["min"].as_py(), extremes["max"].as_py()
    if least is None:
        return
    if low is not None and least < low:
        yield small, _numpy(pc.less(values, low))
    if high is not None and most > high:
        yield big, _numpy(pc.greater(values, high))
