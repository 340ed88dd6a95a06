"""Domains in the schema file: which keys of a feature's table say what values it may take.

domain = ["Cash", "Card"]          one of these strings;  domain = "cities" names a shared [domain.cities]
range = [0.0, inf]                 whole numbers or floats, by the feature's type
parse = "int"                      strings that read as whole numbers (or "float"), with or without a range
bool = true                        0 and 1;  bool = {true = "yes", false = "no"} for strings
text, image, url, time, time_of_day, fields        the semantic domains, and the features inside a struct
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .domains import (
    TIME_UNITS,
    BoolDomain,
    Domain,
    FloatDomain,
    ImageDomain,
    IntDomain,
    SharedDomain,
    StringDomain,
    StructDomain,
    TextDomain,
    TimeDomain,
    TimeOfDayDomain,
    TokenConstraint,
    UrlDomain,
)
from .toml_table import Table, located

_KEYS = ("domain", "values", "range", "parse", "bool", "text", "image", "url", "time", "time_of_day", "fields")
_RANGE_KEYS = ("range", "parse", "categorical", "allow_nan", "allow_inf")


def domain_from_table(
    table: Table, kind: str | None, feature_reader: Callable[[str, Table], Any] | None = None
) -> Domain | None:
    """The domain that a table's keys describe, or None.

    Args:
        table: a `[feature.NAME]` table, or a `[domain.NAME]` table (then `feature_reader` is None).
        kind: the feature's type.
        feature_reader: reads the tables of a struct's fields.
    """
    shared = feature_reader is None
    keys = [key for key in _KEYS if shared or key != "values"]  # a feature's `values` is its valency
    table.asked += [*keys, *_RANGE_KEYS]
    found = [key for key in keys if key in table and not (key == "parse" and "range" in table)]
    if len(found) > 1:
        raise located(
            (*table.path, found[1]), table.data[found[1]], f"left out, because {found[0]!r} already says the domain"
        )
    key = found[0] if found else None
    if key in ("domain", "values"):
        return _strings(table, key, shared)
    if key == "bool":
        return _bool(table)
    if key == "text":
        return _text(Table(table.data["text"], (*table.path, "text")))
    if key == "image":
        image = Table(table.data["image"], (*table.path, "image"))
        domain = ImageDomain(image.get("min_supported_fraction", "number"), image.get("max_bytes", "whole"))
        image.finish()
        return domain
    if key == "url":
        return UrlDomain() if table.get("url", "flag") else None
    if key in ("time", "time_of_day"):
        return _time(table, key)
    if key == "fields":
        if feature_reader is None:
            raise located((*table.path, key), "...", "in a [feature.NAME] table")
        return StructDomain({name: feature_reader(name, child) for name, child in table.children(key).items()})
    if any(key in table for key in _RANGE_KEYS):
        return _range(table, kind)
    return None


def _strings(table: Table, key: str, shared: bool) -> Domain:
    if isinstance(table.data[key], str) and not shared:
        return SharedDomain(table.get(key, "text"))
    values = table.data[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise located((*table.path, key), values, "a list of strings, or the name of a [domain.NAME] table")
    return StringDomain(list(values))


def _bool(table: Table) -> BoolDomain | None:
    value = table.data["bool"]
    if isinstance(value, bool):
        return BoolDomain() if value else None
    words = Table(value, (*table.path, "bool"))
    domain = BoolDomain(words.get("true", "text"), words.get("false", "text"))
    words.finish()
    return domain


def _range(table: Table, kind: str | None) -> Domain:
    parse = table.get("parse", "text", ("int", "float"))
    bounds = table.get("range", "interval") or (-math.inf, math.inf)
    categorical = bool(table.get("categorical", "flag"))
    if parse is None and kind in ("string", "bytes"):
        raise located((*table.path, "parse"), None, 'set to "int" or "float": a range on strings reads them as numbers')
    whole = all(isinstance(end, int) or math.isinf(end) for end in bounds)
    if parse is None:
        floats = kind == "float" or not whole or "allow_nan" in table or "allow_inf" in table
        parse = "float" if floats else "int"
    if parse == "float":
        low, high = (None if math.isinf(end) else float(end) for end in bounds)
        nan, inf = table.get("allow_nan", "flag"), table.get("allow_inf", "flag")
        return FloatDomain(low, high, nan is False, inf is False, categorical)
    if not whole:
        raise located((*table.path, "range"), list(bounds), "two whole numbers; an open end is -inf or inf")
    least, most = (None if math.isinf(end) else int(end) for end in bounds)
    return IntDomain(least, most, categorical)


def _time(table: Table, key: str) -> TimeDomain | TimeOfDayDomain:
    value = table.get(key, "text")
    units = TIME_UNITS if key == "time" else ("packed_64_nanos",)
    kind = TimeDomain if key == "time" else TimeOfDayDomain
    if value in units:
        return kind(unit=value)
    if value and "%" not in value:
        raise located((*table.path, key), value, f"a strptime format such as '%Y-%m-%d', or one of {', '.join(units)}")
    return kind(format=value or None)


def _text(table: Table) -> TextDomain:
    domain = TextDomain(
        vocabulary=table.get("vocabulary", "text"),
        min_coverage=table.get("min_coverage", "number"),
        min_avg_token_length=table.get("min_avg_token_length", "number"),
        excluded_tokens=table.get("excluded_tokens", "tokens") or [],
        oov_tokens=table.get("oov_tokens", "texts") or [],
        min_sequence_length=table.get("min_sequence_length", "whole"),
        max_sequence_length=table.get("max_sequence_length", "whole"),
    )
    for item in table.tables("tokens"):
        tokens = item.data.get("token")
        if not isinstance(tokens, str | int):
            raise located((*item.path, "token"), tokens, "a string or a whole number")
        item.asked.append("token")
        domain.tokens.append(
            TokenConstraint(
                tokens,
                item.get("min_per_sequence", "whole"),
                item.get("max_per_sequence", "whole"),
                item.get("min_fraction", "number"),
                item.get("max_fraction", "number"),
            )
        )
        item.finish()
    table.finish()
    return domain


def domain_to_dict(
    domain: Domain, kind: str | None, feature_writer: Callable[[Any], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The keys that say this domain; `kind` is the feature's type, None for a shared domain."""
    shared = feature_writer is None
    if isinstance(domain, SharedDomain):
        return {"domain": domain.name}
    if isinstance(domain, StringDomain):
        return {"values" if shared else "domain": list(domain.values)}
    if isinstance(domain, IntDomain | FloatDomain):
        return _range_to_dict(domain, kind, shared)
    if isinstance(domain, BoolDomain):
        words = {"true": domain.true_value, "false": domain.false_value}
        return {"bool": {key: word for key, word in words.items() if word is not None} or True}
    if isinstance(domain, StructDomain):
        assert feature_writer is not None
        return {"fields": {name: feature_writer(feature) for name, feature in domain.features.items()}}
    if isinstance(domain, TextDomain):
        data = {key: value for key, value in vars(domain).items() if value is not None and value != []}
        if domain.tokens:
            data["tokens"] = [{k: v for k, v in vars(item).items() if v is not None} for item in domain.tokens]
        return {"text": data}
    if isinstance(domain, ImageDomain):
        return {"image": {key: value for key, value in vars(domain).items() if value is not None}}
    if isinstance(domain, UrlDomain):
        return {"url": True}
    return {"time" if isinstance(domain, TimeDomain) else "time_of_day": domain.unit or domain.format or ""}


def _range_to_dict(domain: IntDomain | FloatDomain, kind: str | None, shared: bool) -> dict[str, Any]:
    word = "int" if isinstance(domain, IntDomain) else "float"
    data: dict[str, Any] = {}
    if shared:
        data["type"] = word
    elif kind != word:
        data["parse"] = word
    if domain.min is not None or domain.max is not None or not data:
        data["range"] = [
            -math.inf if domain.min is None else domain.min,
            math.inf if domain.max is None else domain.max,
        ]
    if domain.categorical:
        data["categorical"] = True
    if isinstance(domain, FloatDomain):
        if domain.disallow_nan:
            data["allow_nan"] = False
        if domain.disallow_inf:
            data["allow_inf"] = False
    return data
