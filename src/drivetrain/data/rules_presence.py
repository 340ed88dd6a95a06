"""Rules about presence, number of values, shape and type (spec 17 §2.5)."""

from __future__ import annotations

import math
from typing import Any

from .edits import Edit
from .infer import infer_valency, tensor_shape
from .report import Finding, share_text
from .rule import Case, Rule
from .schema import Feature
from .schema_toml import feature_to_dict

VALENCY_KEYS = ("shape", "values", "nested_values")


def not_present(case: Case) -> Finding | None:
    """The column is there, but no example has a value."""
    if case.seen.common.num_non_missing or not case.feature.presence.required:
        return None
    edits = (case.edit("presence", value={"min_count": 0}), *_valency_edits(case))
    wanted = _presence_text(case.feature)
    return Finding(
        "FEATURE_TYPE_NOT_PRESENT", wanted, f"no value in {case.examples:,} examples", case.examples, 1.0, edits=edits
    )


def low_fraction(case: Case) -> Finding | None:
    """Too small a share of the examples has the feature. Integers are compared where the promise is 1.0."""
    least = case.feature.presence.min_fraction
    common = case.seen.common
    missing, present = common.num_missing, common.num_non_missing
    if not least or not present or missing == 0:
        return None
    share = present / (present + missing)
    if least < 1.0 and share >= least:
        return None
    edits: tuple[Edit, ...] = (case.edit("presence", "min_fraction", value=min(0.9999, math.floor(share * 1e4) / 1e4)),)
    if case.feature.shape is not None:
        edits += _valency_edits(case)
    total = present + missing
    return Finding(
        "FEATURE_TYPE_LOW_FRACTION_PRESENT",
        f"in {'all' if least >= 1 else f'at least {least:.4%}'} examples",
        f"missing in {missing:,} of {total:,} ({share_text(missing / total)})",
        missing,
        missing / total,
        edits=edits,
    )


def low_number(case: Case) -> Finding | None:
    """Too few examples have the feature."""
    least, present = case.feature.presence.min_count, case.seen.common.num_non_missing
    if least is None or present >= least or not present:
        return None
    edit = case.edit("presence", "min_count", value=present)
    seen = f"in {present:,}"
    return Finding(
        "FEATURE_TYPE_LOW_NUMBER_PRESENT", f"in at least {least:,} examples", seen, least - present, None, edits=(edit,)
    )


def low_values(case: Case) -> Finding | None:
    """An example has too few values."""
    return _values(case, "FEATURE_TYPE_LOW_NUMBER_VALUES", "min")


def high_values(case: Case) -> Finding | None:
    """An example has too many values."""
    return _values(case, "FEATURE_TYPE_HIGH_NUMBER_VALUES", "max")


def _values(case: Case, kind: str, end: str) -> Finding | None:
    feature, levels = case.feature, case.seen.common.levels
    if feature.values is not None and len(levels) == 1:
        pairs = [(feature.values, levels[0])]
    elif feature.nested_values is not None and len(levels) == len(feature.nested_values):
        pairs = list(zip(feature.nested_values, levels, strict=True))
    else:
        return None
    for depth, (promised, level) in enumerate(pairs):
        limit, seen = getattr(promised, end), getattr(level, f"{end}_num_values")
        if limit is None or seen is None or (seen >= limit if end == "min" else seen <= limit):
            continue
        word = "at least" if end == "min" else "at most"
        where = f" at level {depth}" if len(pairs) > 1 else ""
        return Finding(
            kind,
            f"{word} {limit} values per example{where}",
            f"an example with {seen}{where}",
            examples=((seen, None),),
            edits=_widened(case, end),
        )
    return None


def _widened(case: Case, end: str) -> tuple[Edit, ...]:
    """Let every promised bound of this end reach what was seen."""
    best = min if end == "min" else max
    levels = case.seen.common.levels
    if case.feature.values is not None:
        return (case.edit("values", end, value=getattr(levels[0], f"{end}_num_values")),)
    tables = []
    for promised, level in zip(case.feature.nested_values or [], levels, strict=True):
        table = {key: value for key, value in vars(promised).items() if value is not None}
        seen = getattr(level, f"{end}_num_values")
        if end in table and seen is not None:
            table[end] = best(table[end], seen)
        tables.append(table)
    return (case.edit("nested_values", value=tables),)


def nestedness(case: Case) -> Finding | None:
    """Lists are nested deeper, or less deep, than promised."""
    feature, depth = case.feature, len(case.seen.common.levels)
    promised = (
        1 if feature.values is not None else None if feature.nested_values is None else len(feature.nested_values)
    )
    if promised is None or promised == depth or not case.seen.common.num_non_missing:
        return None
    edits = _valency_edits(case)
    return Finding("VALUE_NESTEDNESS_MISMATCH", f"{promised} level(s) of nesting", f"{depth}", share=1.0, edits=edits)


def shape(case: Case) -> Finding | None:
    """A fixed shape is promised, but values are missing, vary in number, or don't fill it."""
    promised, common = case.feature.shape, case.seen.common
    if promised is None or not common.num_non_missing:
        return None
    problem = None
    product = math.prod(promised)
    # A missing example is LOW_FRACTION_PRESENT's matter where the feature is required in all of them.
    if common.num_missing and case.feature.presence.min_fraction != 1.0:
        problem = f"{common.num_missing:,} examples without it"
    for level in common.levels:
        if level is not common.levels[0] and level.num_missing:
            problem = "missing inner lists"
        if level.min_num_values != level.max_num_values:
            problem = f"{level.min_num_values} to {level.max_num_values} values"
    if problem is None:
        filled = math.prod(level.min_num_values or 0 for level in common.levels)
        other = tensor_shape(case.seen)
        if filled != product:
            problem = f"{filled} values"
        elif (
            case.seen.tensor is not None
            and case.seen.tensor.shapes
            and other != list(promised)
            and list(promised) != [1]
        ):
            problem = f"tensors of {'shape ' + str(other) if other else 'several shapes'}"
    if problem is None:
        return None
    words = " x ".join(map(str, promised))
    return Finding(
        "INVALID_FEATURE_SHAPE",
        f"shape {words} ({product} values) in every example",
        problem,
        edits=_valency_edits(case),
    )


def _valency_edits(case: Case) -> tuple[Edit, ...]:
    """Edits that put what the statistics show in place of the promised valency."""
    fresh = Feature(case.feature.name)
    infer_valency(fresh, case.seen)
    table = feature_to_dict(fresh)
    gone = [key for key in VALENCY_KEYS if key not in table and getattr(case.feature, key) is not None]
    return (*case.remove(*gone), *(case.edit(key, value=table[key]) for key in VALENCY_KEYS if key in table))


def _presence_text(feature: Feature) -> str:
    least = feature.presence.min_fraction
    if least:
        return f"a value in {'all' if least >= 1 else f'at least {least:.2%} of'} examples"
    return f"a value in at least {feature.presence.min_count} example(s)"


def types_agree(promised: str, seen: str) -> bool:
    """Whether data of the seen type keeps the promise: an integer is a float, text and bytes are one."""
    pairs = {("float", "int"), ("string", "bytes"), ("bytes", "string")}
    return promised == seen or seen == "null" or (promised, seen) in pairs


def data_type(case: Case) -> Finding | None:
    """The values are of another type than promised."""
    promised, seen = case.feature.type, case.seen.type
    if promised is None or types_agree(promised, seen):
        return None
    note = f" ({case.seen.notes[0]})" if case.seen.notes else ""
    edits: tuple[Any, ...] = (
        case.edit("type", value=seen),
        *case.replace_domain(seen),
        *case.remove("unique", "statistics"),
    )
    return Finding(
        "UNEXPECTED_DATA_TYPE",
        f"data of type {promised.upper()}",
        f"{seen.upper()}{note}",
        case.seen.common.num_non_missing,
        1.0,
        _most_frequent(case),
        edits,
    )


def _most_frequent(case: Case) -> tuple[tuple[Any, float | None], ...]:
    text = case.seen.text
    if text is None or not text.num_values:
        return ()
    return tuple((value, count / text.num_values) for value, count in text.top_values[:5])


def missing_type(case: Case) -> Finding | None:
    """The schema leaves the type open, and the data has one."""
    if case.feature.type is not None or case.seen.type == "null":
        return None
    edits = [case.edit("type", value=case.seen.type)]
    return Finding(
        "FEATURE_MISSING_TYPE",
        "a type in the schema",
        f"none; the data is {case.seen.type.upper()}",
        edits=tuple(edits),
    )


PRESENCE = (
    Rule(
        "FEATURE_TYPE_NOT_PRESENT",
        "the column is there, but 0 examples have a value, and presence is required",
        "min_count = 0",
        not_present,
    ),
    Rule(
        "FEATURE_TYPE_LOW_FRACTION_PRESENT",
        "present / examples < presence.min_fraction; if that is 1.0, any missing value",
        "min_fraction = the share seen, at most 0.9999",
        low_fraction,
    ),
    Rule(
        "FEATURE_TYPE_LOW_NUMBER_PRESENT",
        "examples with a value < presence.min_count",
        "min_count = the number seen",
        low_number,
    ),
)
VALENCY = (
    Rule(
        "FEATURE_TYPE_LOW_NUMBER_VALUES",
        "least number of values per example < values.min (or that of nested_values)",
        "min = the number seen",
        low_values,
    ),
    Rule(
        "FEATURE_TYPE_HIGH_NUMBER_VALUES",
        "greatest number of values per example > values.max (or that of nested_values)",
        "max = the number seen",
        high_values,
    ),
    Rule(
        "VALUE_NESTEDNESS_MISMATCH",
        "levels of nested lists differ from those of values (1) or nested_values",
        "valency as seen",
        nestedness,
    ),
)
SHAPE = (
    Rule(
        "INVALID_FEATURE_SHAPE",
        "shape is set and a value is missing, numbers of values vary, or their product differs from the shape's",
        "valency as seen",
        shape,
    ),
)
TYPE = (
    Rule(
        "UNEXPECTED_DATA_TYPE",
        "the data's type isn't the promised one (INT passes for FLOAT)",
        "type and domain as seen; unique and statistics removed",
        data_type,
    ),
)
MISSING_TYPE = (Rule("FEATURE_MISSING_TYPE", "a feature without a type has values", "type as seen", missing_type),)
