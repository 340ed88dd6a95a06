"""Data validation: statistics of a batch, a schema as the contract about it, and what breaks it (system 17).

`Csv` is imported at first use, since it needs pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .analyze import analyze
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
from .infer import domain_coverage, infer
from .report import Anomaly, DataAnomalies, Finding, Measurement, Report
from .rules import RULES, Rule
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
    "RULES",
    "Anomaly",
    "BoolDomain",
    "Bounds",
    "Comparator",
    "Csv",
    "DataAnomalies",
    "DatasetConstraints",
    "Feature",
    "FeatureSkew",
    "FeatureStats",
    "Finding",
    "FloatDomain",
    "ImageDomain",
    "IntDomain",
    "Measurement",
    "Presence",
    "Report",
    "Rule",
    "Schema",
    "SchemaError",
    "SharedDomain",
    "SparseFeature",
    "SkewReport",
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
    "analyze",
    "domain_coverage",
    "feature_skew",
    "infer",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "l_infinity",
    "noise_floor",
    "update",
    "validate",
    "wasserstein_1",
]

_LAZY = {"Csv": "csv_blocks"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
