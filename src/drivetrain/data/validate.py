"""Validate statistics against a schema and against other batches (spec 17 §2.5, §2.6).

The rules of `rules.py` look at one feature each; this file decides which apply, adds what concerns columns and pairs
of batches, and merges the findings into one anomaly per feature, since alerts must stay few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ..base.errors import unknown_name
from .domains import SharedDomain, StructDomain
from .edits import Edit, apply_edits
from .infer import infer_feature
from .report import DATASET, Anomaly, Finding, Measurement, Report
from .rule import Case, Check, Rule, keys_of
from .rules import BY_DOMAIN, MISSING_TYPE, PRESENCE, SHAPE, STATISTICS, TYPE, UNIQUE, VALENCY
from .rules_compare import compare_feature, dataset_size
from .rules_contents import paired_findings
from .rules_presence import types_agree
from .rules_schema import check_specification
from .schema import Feature, Schema
from .schema_toml import feature_to_dict
from .stats import Stats

Findings = dict[str, list[Finding]]


def validate(
    stats: Stats,
    schema: Schema,
    *,
    environment: str | None = None,
    previous: Stats | None = None,
    serving: Stats | None = None,
    scored: Stats | None = None,
) -> Report:
    """Check statistics against a schema.

    Args:
        stats: of the batch at hand.
        schema: what is promised.
        environment: the kind of data ("SERVING"); features not expected there may be absent.
        previous: of the batch before, for drift and for the number of examples.
        serving: of serving data, for skew between training and serving.
        scored: of all scored examples, where `stats` are of the served (and so labelled) ones.

    Raises:
        DrivetrainError: the environment is named nowhere in the schema.
    """
    _check_environment(environment, schema)
    findings: Findings = {}
    drift: list[Measurement] = []
    pairs = [(kind, other) for kind, other in (("drift", previous), ("skew", serving), ("scored", scored)) if other]
    expected: set[str] = set()
    for path, feature, active in _walk(schema, stats):
        expected.add(path)
        if not active:
            continue
        found = _feature(path, feature, stats, schema, environment)
        seen = stats.features.get(path)
        if pairs and seen is not None and seen.num_non_missing:
            for kind, other in pairs:
                keys = partial(keys_of, path, schema)
                measured, high = compare_feature(kind, feature, seen, other.features.get(path), keys)
                found += high
                if measured is not None:
                    drift.append(measured)
        if found:
            severity = "WARNING" if feature.severity == "warning" else None
            findings[path] = [replace(f, severity=severity) for f in found] if severity else found
    for name, finding in paired_findings(stats, schema):
        findings.setdefault(name, []).append(finding)
    for path in stats.features.keys() - expected:
        if (new := _new_column(path, stats, schema)) is not None:
            findings[path] = [new]
    if size := list(dataset_size(stats, schema, previous)):
        findings[DATASET] = size
    return Report(_merged(findings), drift, stats.num_examples, len(stats.features), environment, stats.name)


def update(schema: Schema, report: Report, accept: str | Iterable[str] = "all") -> Schema:
    """A copy of the schema with proposed edits applied.

    Args:
        schema: the schema the report was made with.
        report: from `validate`.
        accept: "all", or the ids of the anomalies to accept.

    Raises:
        DrivetrainError: an id isn't in the report.
    """
    if isinstance(accept, str):
        accept = [anomaly.id for anomaly in report.anomalies] if accept == "all" else [accept]
    data = schema.to_dict()
    for name in accept:
        apply_edits(data, report[name].edit)
    return Schema.from_dict(data)


class _Visit(NamedTuple):
    path: str
    feature: Feature
    active: bool


def _walk(schema: Schema, stats: Stats) -> Iterator[_Visit]:
    """Features, their paths, and whether they are to be checked: fields only where their struct is there."""
    stack = [_Visit(name, feature, feature.checked) for name, feature in reversed(schema.features.items())]
    while stack:
        visit = stack.pop()
        yield visit
        if isinstance(visit.feature.domain, StructDomain):
            seen = stats.features.get(visit.path)
            active = visit.active and seen is not None and seen.type == "struct"
            for name, child in reversed(visit.feature.domain.features.items()):
                stack.append(_Visit(f"{visit.path}.{name}", child, active and child.checked))


def _checks(rules: Iterable[Rule]) -> tuple[tuple[Check, bool], ...]:
    return tuple((rule.check, rule.stops) for rule in rules if rule.check is not None)


_PRESENCE, _TYPE, _MISSING_TYPE = _checks(PRESENCE), _checks(TYPE), _checks(MISSING_TYPE)
_VALENCY, _SHAPE, _UNIQUE, _STATISTICS = _checks(VALENCY), _checks(SHAPE), _checks(UNIQUE), _checks(STATISTICS)
_BY_DOMAIN = {kind: _checks(rules) for kind, rules in BY_DOMAIN.items()}


def _feature(path: str, feature: Feature, stats: Stats, schema: Schema, environment: str | None) -> list[Finding]:
    """Findings about one feature. Those about the promise itself come last: so do their edits."""
    expected = environment is None or feature.expected_in(environment, schema.environments)
    found: list[Finding] = []
    seen = stats.features.get(path)
    if seen is None:
        if expected and feature.presence.required:
            found.append(_missing_column(path, feature, stats, schema))
        return found + check_specification(feature, schema, partial(keys_of, path, schema))
    domain = feature.domain
    if type(domain) is SharedDomain:
        domain = schema.domains.get(domain.name)
    case = Case(feature, seen, domain, path, schema, stats)
    if expected:
        _run(_PRESENCE, case, found)
    if feature.values is not None or feature.nested_values is not None:
        _run(_VALENCY, case, found)
    if feature.shape is not None:
        _run(_SHAPE, case, found)
    kind = feature.type
    if kind is None or not (kind == seen.type or types_agree(kind, seen.type)):
        _run(_MISSING_TYPE if kind is None else _TYPE, case, found)
        return found + check_specification(feature, schema, partial(keys_of, path, schema))
    if domain is not None and (checks := _BY_DOMAIN.get(type(domain))):
        _run(checks, case, found)
    if feature.unique is not None:
        _run(_UNIQUE, case, found)
    if feature.statistics is not None:
        _run(_STATISTICS, case, found)
    found += check_specification(feature, schema, partial(keys_of, path, schema))
    return found


def _run(checks: tuple[tuple[Check, bool], ...], case: Case, found: list[Finding]) -> None:
    for check, stops in checks:
        finding = check(case)
        if finding is not None:
            found.append(finding)
            if stops:
                return


def _missing_column(path: str, feature: Feature, stats: Stats, schema: Schema) -> Finding:
    edit = Edit("set", (*keys_of(path, schema), "stage"), "DEPRECATED")
    wanted = "the column to be there"
    return Finding(
        "SCHEMA_MISSING_COLUMN",
        wanted,
        f"no such column in {stats.num_examples:,} examples",
        stats.num_examples,
        1.0,
        edits=(edit,),
    )


def _new_column(path: str, stats: Stats, schema: Schema) -> Finding | None:
    """A column that the schema doesn't know. The fields of a new struct come with it."""
    parent = path.rpartition(".")[0]
    if parent in stats.features and stats.features[parent].type == "struct":
        known = dict(schema.walk()).get(parent)
        if known is None or not known.checked or not isinstance(known.domain, StructDomain):
            return None
    seen = stats.features[path]
    feature = infer_feature(seen, stats)
    edit = Edit("set", keys_of(path, schema), feature_to_dict(feature))
    share = seen.num_non_missing / stats.num_examples if stats.num_examples else 0.0
    words = f"a new column of type {seen.type.upper()}"
    return Finding(
        "SCHEMA_NEW_COLUMN",
        "only the columns of the schema",
        words,
        seen.num_non_missing,
        min(1.0, share),
        edits=(edit,),
    )


def _merged(findings: Findings) -> list[Anomaly]:
    """One anomaly per feature, errors before warnings, wide ones before narrow ones."""
    anomalies = [
        Anomaly(path, tuple(sorted(found, key=lambda finding: finding.severity))) for path, found in findings.items()
    ]
    return sorted(anomalies, key=lambda a: (a.severity, -(1.0 if a.share is None else a.share), a.feature))


def _check_environment(environment: str | None, schema: Schema) -> None:
    if environment is None:
        return
    known = set(schema.environments)
    for _, feature in schema.walk():
        known.update(feature.in_environments, feature.not_in_environments)
    if environment not in known:
        raise unknown_name("data: environment", environment, known or ["(the schema names no environments)"])
