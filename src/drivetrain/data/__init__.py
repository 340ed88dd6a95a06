"""Data validation: statistics of a batch, a schema as the contract about it, and what breaks it (system 17).

`Csv` is imported at first use, since it needs pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .accept import accept
from .analyze import analyze
from .checked import BadBatch, CheckedLoader, checked
from .collate import collate_tensors
from .distances import jensen_shannon, kolmogorov_smirnov, l_infinity, noise_floor, wasserstein_1
from .domains import (
    BoolDomain,
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
from .edits import Edit
from .fuzz import FuzzFailure, FuzzReport, fuzz
from .infer import domain_coverage, infer
from .report import Anomaly, DataAnomalies, Finding, Measurement, Report
from .rows import Offender, rows
from .rules import RULES, Rule
from .sample import sample
from .schema import (
    Bounds,
    Comparator,
    DatasetConstraints,
    Feature,
    Presence,
    Schema,
    SchemaError,
    SparseFeature,
    Statistics,
    WeightedFeature,
)
from .skew import FeatureSkew, SkewReport, feature_skew
from .stats import FeatureStats, Stats
from .validate import update, validate

if TYPE_CHECKING:
    from .csv_blocks import Csv

__all__ = [
    "Anomaly",
    "BadBatch",
    "BoolDomain",
    "Bounds",
    "CheckedLoader",
    "Comparator",
    "Csv",
    "DataAnomalies",
    "DatasetConstraints",
    "Edit",
    "Feature",
    "FeatureSkew",
    "FeatureStats",
    "Finding",
    "FloatDomain",
    "FuzzFailure",
    "FuzzReport",
    "ImageDomain",
    "IntDomain",
    "Measurement",
    "Offender",
    "Presence",
    "RULES",
    "Report",
    "Rule",
    "Schema",
    "SchemaError",
    "SharedDomain",
    "SkewReport",
    "SparseFeature",
    "Statistics",
    "Stats",
    "StringDomain",
    "StructDomain",
    "TextDomain",
    "TimeDomain",
    "TimeOfDayDomain",
    "TokenConstraint",
    "UrlDomain",
    "WeightedFeature",
    "accept",
    "analyze",
    "checked",
    "collate_tensors",
    "domain_coverage",
    "feature_skew",
    "fuzz",
    "infer",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "l_infinity",
    "noise_floor",
    "rows",
    "sample",
    "update",
    "validate",
    "wasserstein_1",
]

_LAZY = {"Csv": "csv_blocks"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
