"""The table of rules: every anomaly that validation can report, its condition and its proposed edit (spec 17 §2.5).

`validate.py` runs the groups; `drivetrain data rules --page` prints them as the page docs/systems/rules-17.md.
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


def rules_page() -> str:
    """The page docs/systems/rules-17.md."""
    intro = (
        "Printed by `drivetrain data rules --page` from the table that validation runs; the card is",
        "[17-data-validation.md](17-data-validation.md). The proposed edit is what `drivetrain data accept` does.",
    )
    return "\n".join(["# Rules of data validation", "", *intro, "", rules_table(), ""])
