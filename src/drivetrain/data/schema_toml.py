"""The schema as TOML: one table per feature (spec 17 §4), read and written without loss.

    environments = ["TRAINING", "SERVING"]
    [feature.payment_type]
    type = "string"
    presence = {min_fraction = 1.0, min_count = 1}
    values = {min = 1, max = 1}
    domain = ["Cash", "Credit Card"]
    drift = {linf = 0.01}

The nested dict of the file is also the language of proposed edits (`edits.py`), so that an edit reads like the file
it changes.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ..base.config import line_of, load_toml
from ..base.errors import DrivetrainError, MissingFile
from .domains_toml import domain_from_table, domain_to_dict
from .schema import (
    STAGES,
    TYPES,
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
from .toml_table import Table, located

DISTANCES = ("linf", "js", "nad", "ks", "w1")


def read_text(path: Path) -> str:
    """The text of a schema file.

    Raises:
        MissingFile: there is no such file.
        SchemaError: it isn't UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingFile(
            f"data: there is no schema file {path}", hint="drivetrain data infer DATA -o schema.toml"
        ) from None
    except UnicodeDecodeError as error:
        raise SchemaError(f"data: schema {path} is not UTF-8 text (byte {error.start})") from None


def schema_from_toml(text: str, *, where: str = "schema.toml") -> Schema:
    """Read TOML text; `where` names the file in errors."""
    try:
        data = load_toml(text, where)
    except DrivetrainError as error:
        raise SchemaError(error.message.replace("config:", "data:", 1), hint=error.hint, where=error.where) from None
    try:
        return schema_from_dict(data)
    except SchemaError as error:
        path = getattr(error, "path", ())
        line = line_of(text, path) or _line_of_group(text, path)
        place = f"{where}, line {line}" if line else where
        raise SchemaError(error.message, hint=error.hint, where=place) from None


def _line_of_group(text: str, path: tuple[str, ...]) -> int | None:
    """The first line that opens a table inside the group `path` begins with, such as [features.x] for "features"."""
    found = re.search(rf"^\s*\[{re.escape(path[0])}\.", text, re.M) if path else None
    return text.count("\n", 0, found.end()) + 1 if found else None


def schema_from_dict(data: dict[str, Any]) -> Schema:
    """Build a schema from the nested dict of its file; raises `SchemaError` at the first wrong key or value."""
    root = Table(data)
    schema = Schema(environments=root.get("environments", "texts") or [])
    schema.tags, schema.comment = root.get("tags", "texts") or [], root.get("comment", "text")
    if dataset := root.table("dataset"):
        ratio = dataset.get("ratio_to_previous", "interval")
        schema.dataset = DatasetConstraints(
            dataset.get("min_examples", "whole"),
            dataset.get("max_examples", "whole"),
            tuple(None if math.isinf(end) else end for end in ratio) if ratio else None,  # type: ignore[arg-type]
        )
        dataset.finish()
    for name, table in root.children("domain").items():
        domain = domain_from_table(table, table.get("type", "text", TYPES) or "string")
        if domain is None:
            raise located(table.path, table.data, "a domain: values = [...], range = [low, high] or bool = true")
        schema.domains[name] = domain
        table.finish()
    for name, table in root.children("feature").items():
        schema.features[name] = feature_from_table(name, table)
    for name, table in root.children("sparse").items():
        index, value = _needed(table, "index", "texts"), _needed(table, "value", "text")
        schema.sparse[name] = SparseFeature(name, index, value, table.get("stage", "text", STAGES))
        table.finish()
    for name, table in root.children("weighted").items():
        feature, weight = _needed(table, "feature", "text"), _needed(table, "weight", "text")
        schema.weighted[name] = WeightedFeature(name, feature, weight, table.get("stage", "text", STAGES))
        table.finish()
    root.finish()
    return schema


def feature_from_table(name: str, table: Table) -> Feature:
    """Read one `[feature.NAME]` table."""
    kind = table.get("type", "text", TYPES)
    feature = Feature(name, kind)
    if presence := table.table("presence"):
        feature.presence = Presence(presence.get("min_fraction", "number"), presence.get("min_count", "whole"))
        presence.finish()
    feature.required_in_group = table.get("required_in_group", "flag")
    feature.shape = table.get("shape", "wholes")
    feature.values = _bounds(table.table("values"))
    if "nested_values" in table:
        feature.nested_values = [_bounds(level) or Bounds() for level in table.tables("nested_values")]
    table.asked.append("nested_values")
    feature.domain = domain_from_table(table, kind, feature_from_table)
    feature.min_domain_mass = table.get("min_domain_mass", "number")
    feature.unique = _bounds(table.table("unique"))
    feature.statistics = _statistics(table.table("statistics"))
    for comparator in ("drift", "skew", "scored"):
        setattr(feature, comparator, _comparator(table.table(comparator)))
    feature.in_environments = table.get("in", "texts") or []
    feature.not_in_environments = table.get("not_in", "texts") or []
    feature.stage = table.get("stage", "text", STAGES)
    feature.severity = table.get("severity", "text", ("error", "warning"))
    feature.tags = table.get("tags", "texts") or []
    feature.comment = table.get("comment", "text")
    table.finish()
    return feature


def _needed(table: Table, key: str, kind: str) -> Any:
    value = table.get(key, kind)
    if value is None:
        raise located((*table.path, key), None, "set")
    return value


def _bounds(table: Table | None) -> Bounds | None:
    if table is None:
        return None
    bounds = Bounds(table.get("min", "whole"), table.get("max", "whole"))
    table.finish()
    return bounds


def _comparator(table: Table | None) -> Comparator | None:
    if table is None:
        return None
    comparator = Comparator(**{distance: table.get(distance, "number") for distance in DISTANCES})
    comparator.source = table.get("source", "text", ("quantiles", "standard")) or "quantiles"
    table.finish()
    return comparator


def _statistics(table: Table | None) -> Statistics | None:
    if table is None:
        return None
    statistics = Statistics(*(table.get(name, "interval") for name in ("mean", "std", "zeros")))
    if quantile := table.table("quantile"):
        for key in quantile.data:
            try:
                position = float(key)
            except ValueError:
                position = math.nan
            if not 0 <= position <= 1:
                raise located(quantile.path, key, "a quantile between 0 and 1, such as '0.5'")
            statistics.quantile[position] = quantile.get(key, "interval")
    if share := table.table("share"):
        statistics.share = {key: share.get(key, "interval") for key in share.data}
    table.finish()
    return statistics


def schema_to_dict(schema: Schema) -> dict[str, Any]:
    """The nested dict of the file; absent promises are left out."""
    data: dict[str, Any] = {}
    _put(data, "environments", list(schema.environments) or None)
    _put(data, "tags", list(schema.tags) or None)
    _put(data, "comment", schema.comment)
    dataset: dict[str, Any] = {}
    _put(dataset, "min_examples", schema.dataset.min_examples)
    _put(dataset, "max_examples", schema.dataset.max_examples)
    if ratio := schema.dataset.ratio_to_previous:
        dataset["ratio_to_previous"] = [
            0.0 if ratio[0] is None else ratio[0],
            math.inf if ratio[1] is None else ratio[1],
        ]
    _put(data, "dataset", dataset or None)
    _put(data, "domain", {n: domain_to_dict(d, None) for n, d in schema.domains.items()} or None)
    _put(data, "feature", {name: feature_to_dict(feature) for name, feature in schema.features.items()} or None)
    for key, group in (("sparse", schema.sparse), ("weighted", schema.weighted)):
        tables = {
            n: {k: v for k, v in vars(item).items() if k != "name" and v is not None} for n, item in group.items()
        }
        _put(data, key, tables or None)
    return data


def feature_to_dict(feature: Feature) -> dict[str, Any]:
    """The dict of one feature's table."""
    data: dict[str, Any] = {}
    _put(data, "type", feature.type)
    _put(data, "presence", _set_fields(feature.presence) or None)
    _put(data, "required_in_group", feature.required_in_group)
    _put(data, "shape", None if feature.shape is None else list(feature.shape))
    _put(data, "values", None if feature.values is None else _set_fields(feature.values))
    if feature.nested_values is not None:
        data["nested_values"] = [_set_fields(level) for level in feature.nested_values]
    if feature.domain is not None:
        data.update(domain_to_dict(feature.domain, feature.type, feature_to_dict))
    _put(data, "min_domain_mass", feature.min_domain_mass)
    _put(data, "unique", None if feature.unique is None else _set_fields(feature.unique))
    if feature.statistics is not None:
        data["statistics"] = _statistics_to_dict(feature.statistics)
    for key in ("drift", "skew", "scored"):
        comparator = getattr(feature, key)
        if comparator is not None:
            data[key] = {name: value for name, value in _set_fields(comparator).items() if value != "quantiles"}
    _put(data, "in", list(feature.in_environments) or None)
    _put(data, "not_in", list(feature.not_in_environments) or None)
    _put(data, "stage", feature.stage)
    _put(data, "severity", feature.severity)
    _put(data, "tags", list(feature.tags) or None)
    _put(data, "comment", feature.comment)
    return data


def _statistics_to_dict(statistics: Statistics) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name in ("mean", "std", "zeros"):
        interval = getattr(statistics, name)
        _put(data, name, None if interval is None else list(interval))
    _put(data, "quantile", {f"{q:g}": list(interval) for q, interval in statistics.quantile.items()} or None)
    _put(data, "share", {value: list(interval) for value, interval in statistics.share.items()} or None)
    return data


def _set_fields(item: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(item).items() if value is not None}


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    if value is not None:
        data[key] = value


def schema_to_toml(schema: Schema) -> str:
    """Write the schema as TOML text, features as tables, their parts inline."""
    data = schema_to_dict(schema)
    lines = [f"{key} = {toml_value(data[key])}" for key in ("environments", "tags", "comment") if key in data]
    if "dataset" in data:
        lines += ["", "[dataset]", *(f"{key} = {toml_value(value)}" for key, value in data["dataset"].items())]
    for group in ("domain", "feature", "sparse", "weighted"):
        for name, table in data.get(group, {}).items():
            lines += _table_lines((group, name), table)
    return "\n".join(lines).lstrip("\n") + "\n"


def _table_lines(path: tuple[str, ...], table: dict[str, Any]) -> list[str]:
    lines = ["", f"[{'.'.join(toml_key(part) for part in path)}]"]
    lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items() if key != "fields"]
    for name, child in table.get("fields", {}).items():
        lines += _table_lines((*path, "fields", name), child)
    return lines


def toml_key(key: str) -> str:
    """A key as TOML: bare where it can be, else quoted."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    """A value as TOML text: long lists over several lines, tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        items = [toml_value(item) for item in value]
        flat = f"[{', '.join(items)}]"
        if len(flat) <= 100:
            return flat
        return "[\n" + "".join(f"  {item},\n" for item in items) + "]"
    return repr(value)
