"""The table of rules: every anomaly that validation can report, its condition and its proposed edit (spec 17 §2.5).

`validate.py` runs the groups; `python -m drivetrain.data.rules` prints the table that stands in the card.
"""

from __future__ import annotations

from .domains import BoolDomain, FloatDomain, ImageDomain, IntDomain, StringDomain, TextDomain, TimeDomain
from .rule import Rule
from .rules_compare import COMPARATORS, DATASET_SIZE
from .rules_contents import IMAGES, PAIRED, TEXTS, TIMES
from .rules_presence import MISSING_TYPE, PRESENCE, SHAPE, TYPE, VALENCY
from .rules_schema import SPECIFICATION
from .rules_statistics import STATISTICS
from .rules_values import BOOLS, FLOATS, INTS, STRINGS, UNIQUE

COLUMNS = (
    Rule("SCHEMA_NEW_COLUMN", "a column that the schema doesn't know", "the feature is added as inferred"),
    Rule(
        "SCHEMA_MISSING_COLUMN",
        "a required feature (min_count or min_fraction > 0), expected in this environment, has no column",
        'stage = "DEPRECATED"',
    ),
)
BY_DOMAIN: dict[type, tuple[Rule, ...]] = {
    StringDomain: STRINGS,
    BoolDomain: BOOLS,
    IntDomain: INTS,
    FloatDomain: FLOATS,
    TextDomain: TEXTS,
    ImageDomain: IMAGES,
    TimeDomain: TIMES,
}

RULES: tuple[Rule, ...] = (
    *COLUMNS,
    *MISSING_TYPE,
    *TYPE,
    *PRESENCE,
    *VALENCY,
    *SHAPE,
    *STRINGS,
    *BOOLS,
    *INTS,
    *FLOATS,
    *TEXTS,
    *IMAGES,
    *TIMES,
    *UNIQUE,
    *STATISTICS,
    *PAIRED,
    *DATASET_SIZE,
    *COMPARATORS,
    *SPECIFICATION,
)


def rules_table() -> str:
    """All rules as a Markdown table."""
    lines = ["| anomaly | fires when | proposed edit |", "|---|---|---|"]
    for rule in RULES:
        condition, edit = (text.replace("|", "\\|") for text in (rule.condition, rule.edit))
        lines.append(f"| `{rule.type}` | {condition} | {edit} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(rules_table())
