"""Rules about the values: lists of strings, truth values, numbers, how many are distinct (spec 17 §2.5)."""

from __future__ import annotations

import math
from typing import Any

from .domains import BoolDomain, FloatDomain, IntDomain, StringDomain
from .edits import Edit
from .infer import MAX_DOMAIN
from .numeric import NumericStats
from .report import Finding, listed, share_text
from .rule import Case, Rule
from .text import INTEGER


def unexpected_strings(case: Case) -> Finding | None:
    """Values outside the list; with min_domain_mass below 1, more of them than it lets pass."""
    text, domain = case.seen.text, case.domain
    assert isinstance(domain, StringDomain)
    if text is None or not text.values.total:
        return None
    table = text.values.table
    known = set(map(str.encode, domain.values))
    if text.exact and known.issuperset(table):
        return None
    strange = table.keys() - known
    total = text.values.total
    count = sum(table[value] for value in strange) + (total - sum(table.values()))
    mass = 1.0 if case.feature.min_domain_mass is None else case.feature.min_domain_mass
    share = count / total
    if count == 0 or (mass < 1.0 and share <= 1 - mass):
        return None
    ranked = sorted(strange, key=lambda value: (-table[value], value))
    if undecodable := [value for value in ranked if not _decodes(value)]:
        return _invalid_utf8(case, undecodable)
    examples = tuple((value.decode(), table[value] / total) for value in ranked[:5])
    more = f" and {len(strange) - 5:,} more" if len(strange) > 5 else ""
    wanted = f"{len(domain.values)} known values"
    return Finding(
        "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        wanted if mass >= 1 else f"{wanted} in at least {mass:.4%} of the data",
        f"unexpected values {listed(examples)}{more}",
        round(count),
        share,
        examples,
        _accept_strings(case, [value.decode() for value in ranked], 1 - share, text.exact),
    )


def _accept_strings(case: Case, strange: list[str], mass: float, exact: bool) -> tuple[Edit, ...]:
    if exact and len(strange) <= MAX_DOMAIN:
        return (Edit("add", case.domain_keys("domain"), strange),)
    return (case.edit("min_domain_mass", value=max(0.0, math.floor(mass * 1e4) / 1e4)),)


def _invalid_utf8(case: Case, undecodable: list[bytes]) -> Finding:
    assert case.seen.text is not None
    table, total = case.seen.text.values.table, case.seen.text.values.total
    count = sum(table[value] for value in undecodable)
    examples = tuple((value.decode("utf-8", "backslashreplace"), table[value] / total) for value in undecodable[:5])
    seen = f"undecodable values {listed(examples)}"
    return Finding(
        "ENUM_TYPE_INVALID_UTF8",
        "strings in UTF-8",
        seen,
        round(count),
        count / total,
        examples,
        case.remove("domain", "min_domain_mass"),
    )


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def bool_values(case: Case) -> Finding | None:
    """Values other than the two truth values."""
    domain, seen = case.domain, case.seen
    assert isinstance(domain, BoolDomain)
    if seen.type in ("string", "bytes") and seen.text is not None:
        return None if domain.true_value is None and domain.false_value is None else _bool_strings(case, domain)
    numeric = seen.numeric
    if numeric is None or numeric.min is None or domain.true_value is not None or domain.false_value is not None:
        return None
    assert numeric.max is not None
    if seen.type == "float":
        return _bool_floats(case, numeric)
    if numeric.min < 0:
        return _outside(case, "BOOL_TYPE_SMALL_INT", "0 or 1", numeric.min, low=0, edits=case.replace_domain())
    if numeric.max > 1:
        return _outside(case, "BOOL_TYPE_BIG_INT", "0 or 1", numeric.max, high=1, edits=case.replace_domain())
    return None


def _bool_strings(case: Case, domain: BoolDomain) -> Finding | None:
    text = case.seen.text
    assert text is not None
    known = {word.encode() for word in (domain.true_value, domain.false_value) if word is not None}
    strange = sorted(text.values.table.keys() - known, key=lambda value: (-text.values.table[value], value))
    if not strange:
        return None
    total = text.values.total
    count = sum(text.values.table[value] for value in strange)
    examples = tuple(
        (value.decode("utf-8", "backslashreplace"), text.values.table[value] / total) for value in strange[:5]
    )
    wanted = f"{domain.true_value!r} or {domain.false_value!r}"
    seen = f"unexpected values {listed(examples)}"
    return Finding(
        "BOOL_TYPE_UNEXPECTED_STRING", wanted, seen, round(count), count / total, examples, case.replace_domain()
    )


def _bool_floats(case: Case, numeric: NumericStats) -> Finding | None:
    points, weights = numeric.sketch.support()
    strange = (points != 0) & (points != 1)
    others = numeric.num_nan + numeric.num_pos_inf + numeric.num_neg_inf
    if not strange.any() and not others and numeric.min in (0, 1) and numeric.max in (0, 1):
        return None
    share = (float(weights[strange].sum()) + others) / max(1.0, numeric.num_values)
    examples = tuple((float(value), None) for value in dict.fromkeys(points[strange].tolist()))[:5]
    seen = f"{listed(examples) or 'NaN or infinity'} ({share_text(share)})"
    return Finding("BOOL_TYPE_UNEXPECTED_FLOAT", "0.0 or 1.0", seen, None, share, examples, case.replace_domain())


def bool_config(case: Case) -> Finding | None:
    """Words for numbers, or none for strings."""
    domain, kind = case.domain, case.seen.type
    assert isinstance(domain, BoolDomain)
    words = domain.true_value is not None or domain.false_value is not None
    if kind in ("int", "float") and words:
        seen = "true and false words on numbers"
    elif kind in ("string", "bytes") and not words:
        seen = "no words on strings"
    else:
        return None
    wanted = 'bool = true on numbers, bool = {true = "...", false = "..."} on strings'
    return Finding("BOOL_TYPE_INVALID_CONFIG", wanted, seen, share=1.0, edits=case.replace_domain())


def numbers(case: Case, end: str) -> Finding | None:
    """A number beyond one end of the range; strings are read as numbers first."""
    domain = case.domain
    assert isinstance(domain, IntDomain | FloatDomain)
    limit = getattr(domain, end)
    if limit is None:
        return None
    value = _extreme(case, end)
    if value is None or (value >= limit if end == "min" else value <= limit):
        return None
    kind = {"min": "SMALL", "max": "BIG"}[end] + ("_INT" if isinstance(domain, IntDomain) else "_FLOAT")
    name = ("INT_TYPE_" if isinstance(domain, IntDomain) else "FLOAT_TYPE_") + kind
    least, most = (-math.inf if domain.min is None else domain.min, math.inf if domain.max is None else domain.max)
    bounds = [value, most] if end == "min" else [least, value]
    other = _past(case, "max" if end == "min" else "min")
    if other is not None:  # 0 is a number too
        bounds = [value, other] if end == "min" else [other, value]
    word = "at least" if end == "min" else "at most"
    ends = {"low": limit} if end == "min" else {"high": limit}
    edit = Edit("set", case.domain_keys("range"), bounds)
    return _outside(case, name, f"{word} {limit}", value, **ends, edits=(edit,))


def _past(case: Case, end: str) -> Any:
    """The extreme at the other end, if that is out of range too: both edits set the same key."""
    limit = getattr(case.domain, end)
    value = _extreme(case, end)
    if limit is None or value is None:
        return None
    return value if (value < limit if end == "min" else value > limit) else None


def _extreme(case: Case, end: str) -> Any:
    """Least or greatest number, also of strings that read as numbers."""
    text, numeric = case.seen.text, case.seen.numeric
    if numeric is not None and text is None:
        value = getattr(numeric, end)
        # A float range can't hold integers beyond 2^53 exactly: compare as floats what is written as floats.
        return float(value) if value is not None and isinstance(case.domain, FloatDomain) else value
    if text is None:
        return None
    read = _as_int if isinstance(case.domain, IntDomain) else _as_float
    values = [value for value in map(read, text.values.table) if value is not None]
    return (min if end == "min" else max)(values, default=None)


def _as_int(value: bytes) -> int | None:
    return int(value) if INTEGER.fullmatch(value) else None


def _as_float(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return None if math.isnan(number) or b"_" in value else number


def _outside(
    case: Case, kind: str, wanted: str, value: Any, low: float | None = None, high: float | None = None, edits: Any = ()
) -> Finding:
    """A finding about numbers beyond a bound, with their share as far as the sketch knows it."""
    numeric, share, count = case.seen.numeric, None, None
    if numeric is not None and numeric.num_values:
        points, weights = numeric.sketch.support()
        beyond = points < low if low is not None else points > (math.inf if high is None else high)
        infinite = numeric.num_neg_inf if low is not None else numeric.num_pos_inf
        share = max((float(weights[beyond].sum()) + infinite) / numeric.num_values, 1 / numeric.num_values)
        count = round(share * numeric.num_values) if numeric.sketch.exact else None
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    seen = f"{shown}" + (f" ({share_text(share)} of the values out of range)" if share is not None else "")
    return Finding(kind, wanted, seen, count, share, ((value, None),), edits)


def string_numbers(case: Case) -> Finding | None:
    """Strings that don't read as the promised numbers."""
    text = case.seen.text
    if text is None or case.seen.type not in ("string", "bytes") or not text.num_values:
        return None
    whole = isinstance(case.domain, IntDomain)
    bad = text.num_values - (text.num_int if whole else text.num_float)
    if not bad:
        return None
    read = _as_int if whole else _readable_float
    strange = [value for value, _ in text.values.ranked(1000) if read(value) is None][:5]
    examples = tuple(
        (value.decode("utf-8", "backslashreplace"), text.values.table[value] / text.values.total) for value in strange
    )
    return Finding(
        "INT_TYPE_NOT_INT_STRING" if whole else "FLOAT_TYPE_STRING_NOT_FLOAT",
        f"strings that read as {'whole numbers' if whole else 'numbers'}",
        f"{bad:,} that don't: {listed(examples)}",
        bad,
        bad / text.num_values,
        examples,
        case.replace_domain(),
    )


def _readable_float(value: bytes) -> float | None:
    try:
        return None if b"_" in value else float(value)
    except ValueError:
        return None


def not_a_number(case: Case) -> Finding | None:
    """NaN where it is not allowed."""
    numeric = case.seen.numeric
    if not case.domain.disallow_nan or numeric is None or not numeric.num_nan:  # type: ignore[union-attr]
        return None
    share = numeric.num_nan / numeric.num_values
    edits = (Edit("remove", case.domain_keys("allow_nan")), *_still_float(case))
    return Finding(
        "FLOAT_TYPE_HAS_NAN",
        "no NaN",
        f"{numeric.num_nan:,} NaN ({share_text(share)})",
        numeric.num_nan,
        share,
        (),
        edits,
    )


def infinite(case: Case) -> Finding | None:
    """Infinities where they are not allowed."""
    numeric = case.seen.numeric
    if not case.domain.disallow_inf or numeric is None:  # type: ignore[union-attr]
        return None
    count = numeric.num_pos_inf + numeric.num_neg_inf
    if not count:
        return None
    share = count / numeric.num_values
    edits = (Edit("remove", case.domain_keys("allow_inf")), *_still_float(case))
    return Finding(
        "FLOAT_TYPE_HAS_INF", "no infinity", f"{count:,} infinities ({share_text(share)})", count, share, (), edits
    )


def _still_float(case: Case) -> tuple[Edit, ...]:
    """A shared domain without a key left would be no domain: keep its open range."""
    path = case.domain_keys("range")
    domain = case.domain
    if path[0] != "domain" or domain.min is not None or domain.max is not None:  # type: ignore[union-attr]
        return ()
    return (Edit("set", path, [-math.inf, math.inf]),)


def distinct(case: Case) -> Finding | None:
    """Too few or too many distinct values, or none that are counted."""
    promised, seen = case.feature.unique, case.seen
    assert promised is not None
    counted = seen.text or seen.bytes
    if seen.type == "null":
        return None
    if counted is None:
        wanted = "a count of distinct values"
        return Finding(
            "FEATURE_TYPE_NO_UNIQUE", wanted, f"none for type {seen.type.upper()}", edits=case.remove("unique")
        )
    unique = counted.unique
    about = "" if getattr(counted, "exact", False) else "about "
    if promised.min is not None and unique < promised.min:
        edits = (case.edit("unique", "min", value=unique),)
        return Finding(
            "FEATURE_TYPE_LOW_UNIQUE", f"at least {promised.min:,} distinct values", f"{about}{unique:,}", edits=edits
        )
    if promised.max is not None and unique > promised.max:
        edits = (case.edit("unique", "max", value=unique),)
        return Finding(
            "FEATURE_TYPE_HIGH_UNIQUE", f"at most {promised.max:,} distinct values", f"{about}{unique:,}", edits=edits
        )
    return None


def small(case: Case) -> Finding | None:
    """A number below the range."""
    return numbers(case, "min")


def big(case: Case) -> Finding | None:
    """A number above the range."""
    return numbers(case, "max")


STRINGS = (
    Rule(
        "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        "share of values outside domain > 1 - min_domain_mass (if that is 1.0: any)",
        "the values are added; above 100 of them, min_domain_mass is lowered",
        unexpected_strings,
    ),
    Rule("ENUM_TYPE_INVALID_UTF8", "a value of a feature with a list of strings isn't UTF-8", "domain removed", None),
)
BOOLS = (
    Rule(
        "BOOL_TYPE_INVALID_CONFIG",
        "bool has words for a numeric feature, or none for strings",
        "domain as seen",
        bool_config,
        True,
    ),
    Rule("BOOL_TYPE_SMALL_INT", "bool, and an integer below 0", "domain as seen", bool_values),
    Rule("BOOL_TYPE_BIG_INT", "bool, and an integer above 1", "domain as seen", None),
    Rule("BOOL_TYPE_UNEXPECTED_STRING", "bool, and a string that is neither of its words", "domain as seen", None),
    Rule("BOOL_TYPE_UNEXPECTED_FLOAT", "bool, and a float that is neither 0 nor 1", "domain as seen", None),
)
INTS = (
    Rule(
        "INT_TYPE_NOT_INT_STRING",
        'parse = "int", and a string that isn\'t a whole number',
        "domain as seen",
        string_numbers,
        True,
    ),
    Rule("INT_TYPE_SMALL_INT", "a whole number below range", "range reaches the least value seen", small),
    Rule("INT_TYPE_BIG_INT", "a whole number above range", "range reaches the greatest value seen", big),
)
FLOATS = (
    Rule(
        "FLOAT_TYPE_STRING_NOT_FLOAT",
        'parse = "float", and a string that isn\'t a number',
        "domain as seen",
        string_numbers,
        True,
    ),
    Rule("FLOAT_TYPE_SMALL_FLOAT", "a number below range", "range reaches the least value seen", small),
    Rule("FLOAT_TYPE_BIG_FLOAT", "a number above range", "range reaches the greatest value seen", big),
    Rule("FLOAT_TYPE_HAS_NAN", "allow_nan = false, and a NaN", "allow_nan removed", not_a_number),
    Rule("FLOAT_TYPE_HAS_INF", "allow_inf = false, and an infinity", "allow_inf removed", infinite),
)
UNIQUE = (
    Rule("FEATURE_TYPE_LOW_UNIQUE", "distinct values < unique.min", "min = the number seen", distinct),
    Rule("FEATURE_TYPE_HIGH_UNIQUE", "distinct values > unique.max", "max = the number seen", None),
    Rule(
        "FEATURE_TYPE_NO_UNIQUE",
        "unique is set, and distinct values aren't counted for this type",
        "unique removed",
        None,
    ),
)
