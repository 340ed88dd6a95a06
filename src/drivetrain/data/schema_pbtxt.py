"""The schema as the text form of `tensorflow.metadata.v0.Schema`, in and out, without tensorflow-metadata.

Field names and enum values are those of schema.proto. Promises that schema.proto can't hold (statistics, ks, w1,
scored skew, severity ...) are kept as JSON in an annotation comment beginning with `drivetrain:`; TFDV ignores it, we
read it back.
"""

from __future__ import annotations

import json
from typing import Any

from . import textproto
from .domains import (
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
from .pbtxt_messages import SCHEMA
from .schema import (
    Bounds,
    Comparator,
    DatasetConstraints,
    Feature,
    Presence,
    Schema,
    SchemaError,
    SparseFeature,
    WeightedFeature,
)
from .schema_toml import feature_from_table, feature_to_dict, schema_from_dict, schema_to_dict
from .toml_table import Table

_MARK = "drivetrain:"
_TYPE_OUT = {"int": "INT", "float": "FLOAT", "string": "BYTES", "bytes": "BYTES", "struct": "STRUCT"}
_TYPE_IN = {"INT": "int", "FLOAT": "float", "BYTES": "string", "STRUCT": "struct"}
_SOURCE = {"QUANTILES": "quantiles", "STANDARD": "standard", "DEFAULT": "standard"}
_EXTRA_OF_SCHEMA = ("tags", "comment", "dataset", "domain", "sparse", "weighted")


def schema_from_pbtxt(text: str, *, where: str = "schema.pbtxt") -> Schema:
    """Read the text form; see `Schema.from_pbtxt`."""
    message = textproto.parse(text, SCHEMA, where)
    schema = Schema(environments=message.get("default_environment", []))
    for item in message.get("feature", []):
        feature = _feature_in(item)
        schema.features[feature.name] = feature
    for key, read in (("string_domain", _string_in), ("int_domain", _int_in), ("float_domain", _float_in)):
        for item in message.get(key, []):
            schema.domains[item.get("name", "")] = read(item)
    if found := message.get("dataset_constraints"):
        ratio = found.get("num_examples_drift_comparator")
        ends = (ratio.get("min_fraction_threshold"), ratio.get("max_fraction_threshold")) if ratio else None
        schema.dataset = DatasetConstraints(found.get("min_examples_count"), found.get("max_examples_count"), ends)
    for item in message.get("sparse_feature", []):
        index = [part.get("name", "") for part in item.get("index_feature", [])]
        name, value = item.get("name", ""), item.get("value_feature", {}).get("name", "")
        schema.sparse[name] = SparseFeature(name, index, value, _stage_in(item))
    for item in message.get("weighted_feature", []):
        base, weight = (".".join(item.get(key, {}).get("step", [])) for key in ("feature", "weight_feature"))
        schema.weighted[item.get("name", "")] = WeightedFeature(item.get("name", ""), base, weight, _stage_in(item))
    tags, comment, extra = _annotation_in(message)
    schema.tags, schema.comment = tags, comment
    if extra:
        data = schema_to_dict(schema)
        data.update(_parsed(extra, where))
        schema = schema_from_dict({key: value for key, value in data.items() if value is not None})
    return schema


def schema_to_pbtxt(schema: Schema) -> str:
    """Write the text form; see `Schema.to_pbtxt`."""
    message = _schema_out(schema)
    kept = schema_to_dict(schema_from_pbtxt(textproto.write(message, SCHEMA)))
    extra = _difference(schema_to_dict(schema), kept, _EXTRA_OF_SCHEMA)
    if extra:
        message["annotation"] = _annotation_out(schema.tags, schema.comment, extra)
    return textproto.write(message, SCHEMA)


def _difference(wanted: dict[str, Any], kept: dict[str, Any], keys: Any) -> dict[str, Any]:
    """The keys that the text form doesn't give back as they were."""
    return {key: wanted.get(key) for key in keys if wanted.get(key) != kept.get(key)}


def _parsed(extra: str, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(extra)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise SchemaError(f"data: the annotation {_MARK} {extra[:40]!r} is no JSON object", where=where)
    return parsed


def _schema_out(schema: Schema) -> dict[str, Any]:
    message: dict[str, Any] = {"feature": [_feature_out(feature) for feature in schema.features.values()]}
    kinds = {StringDomain: "string_domain", IntDomain: "int_domain", FloatDomain: "float_domain"}
    for name, domain in schema.domains.items():
        if type(domain) in kinds:
            message.setdefault(kinds[type(domain)], []).append({"name": name, **_domain_out(domain)[1]})
    message["default_environment"] = schema.environments
    dataset = _present(min_examples_count=schema.dataset.min_examples, max_examples_count=schema.dataset.max_examples)
    if ratio := schema.dataset.ratio_to_previous:
        dataset["num_examples_drift_comparator"] = _present(
            min_fraction_threshold=ratio[0], max_fraction_threshold=ratio[1]
        )
    if dataset:
        message["dataset_constraints"] = dataset
    message["sparse_feature"] = [
        _present(
            name=item.name,
            lifecycle_stage=item.stage,
            index_feature=[{"name": name} for name in item.index],
            value_feature={"name": item.value},
        )
        for item in schema.sparse.values()
    ]
    message["weighted_feature"] = [
        _present(
            name=item.name,
            feature={"step": item.feature.split(".")},
            weight_feature={"step": item.weight.split(".")},
            lifecycle_stage=item.stage,
        )
        for item in schema.weighted.values()
    ]
    if schema.tags or schema.comment:
        message["annotation"] = _annotation_out(schema.tags, schema.comment, {})
    return message


def _present(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _annotation_out(tags: list[str], comment: str | None, extra: dict[str, Any]) -> dict[str, Any]:
    comments = [comment] if comment else []
    if extra:
        comments.append(f"{_MARK} {json.dumps(extra, ensure_ascii=False)}")
    return {"tag": tags, "comment": comments}


def _annotation_in(message: dict[str, Any]) -> tuple[list[str], str | None, str | None]:
    annotation = message.get("annotation", {})
    comments = annotation.get("comment", [])
    ours = [comment.removeprefix(_MARK).strip() for comment in comments if comment.startswith(_MARK)]
    plain = "\n".join(comment for comment in comments if not comment.startswith(_MARK))
    return annotation.get("tag", []), plain or None, ours[0] if ours else None


def _stage_in(message: dict[str, Any]) -> str | None:
    stage = message.get("lifecycle_stage")
    if message.get("deprecated"):
        return "DEPRECATED"
    return None if stage in ("UNKNOWN_STAGE", "VALIDATION_DERIVED") else stage


def _feature_in(message: dict[str, Any]) -> Feature:
    feature = Feature(message.get("name", ""), _TYPE_IN.get(message.get("type", "")))
    if presence := message.get("presence"):
        feature.presence = Presence(presence.get("min_fraction"), presence.get("min_count"))
    feature.required_in_group = message.get("group_presence", {}).get("required")
    if "shape" in message:
        feature.shape = [dim.get("size", 0) for dim in message["shape"].get("dim", [])]
    if "value_count" in message:
        feature.values = Bounds(**message["value_count"])
    if "value_counts" in message:
        feature.nested_values = [Bounds(**level) for level in message["value_counts"].get("value_count", [])]
    feature.domain = _domain_in(message)
    if "distribution_constraints" in message:
        feature.min_domain_mass = message["distribution_constraints"].get("min_domain_mass", 1.0)
    if "unique_constraints" in message:
        feature.unique = Bounds(**message["unique_constraints"])
    feature.drift = _comparator_in(message.get("drift_comparator"))
    feature.skew = _comparator_in(message.get("skew_comparator"))
    feature.in_environments = message.get("in_environment", [])
    feature.not_in_environments = message.get("not_in_environment", [])
    feature.stage = _stage_in(message)
    feature.tags, feature.comment, extra = _annotation_in(message)
    if extra:
        data = feature_to_dict(feature)
        data.update(_parsed(extra, feature.name))
        feature = feature_from_table(
            feature.name, Table({key: value for key, value in data.items() if value is not None})
        )
    return feature


def _feature_out(feature: Feature) -> dict[str, Any]:
    message = _present(
        name=feature.name or None,
        type=_TYPE_OUT.get(feature.type or ""),
        presence=_present(**vars(feature.presence)) or None,
        shape=None if feature.shape is None else {"dim": [{"size": size} for size in feature.shape]},
        value_count=None if feature.values is None else _present(**vars(feature.values)),
        in_environment=feature.in_environments,
        not_in_environment=feature.not_in_environments,
        lifecycle_stage=feature.stage,
    )
    if feature.required_in_group is not None:
        message["group_presence"] = {"required": feature.required_in_group}
    if feature.nested_values is not None:
        message["value_counts"] = {"value_count": [_present(**vars(level)) for level in feature.nested_values]}
    if feature.domain is not None:
        key, value = _domain_out(feature.domain)
        message[key] = value
    if feature.min_domain_mass is not None:
        message["distribution_constraints"] = {"min_domain_mass": feature.min_domain_mass}
    if feature.unique is not None:
        message["unique_constraints"] = _present(**vars(feature.unique))
    for key, comparator in (("drift_comparator", feature.drift), ("skew_comparator", feature.skew)):
        if comparator is not None:
            message[key] = _comparator_out(comparator)
    if feature.tags or feature.comment:
        message["annotation"] = _annotation_out(feature.tags, feature.comment, {})
    wanted, kept = feature_to_dict(feature), feature_to_dict(_feature_in(message))
    extra = _difference(wanted, kept, [*wanted, *(key for key in kept if key not in wanted)])
    if extra:
        message["annotation"] = _annotation_out(feature.tags, feature.comment, extra)
    return message


def _comparator_in(message: dict[str, Any] | None) -> Comparator | None:
    if message is None:
        return None
    js = message.get("jensen_shannon_divergence", {})
    return Comparator(
        linf=message.get("infinity_norm", {}).get("threshold"),
        js=js.get("threshold"),
        nad=message.get("normalized_abs_difference", {}).get("threshold"),
        source=_SOURCE[js.get("source", {}).get("type", "QUANTILES")],
    )


def _comparator_out(comparator: Comparator) -> dict[str, Any]:
    message: dict[str, Any] = {}
    if comparator.linf is not None:
        message["infinity_norm"] = {"threshold": comparator.linf}
    if comparator.js is not None:
        kind = {"quantiles": "QUANTILES", "standard": "STANDARD"}[comparator.source]
        message["jensen_shannon_divergence"] = {"threshold": comparator.js, "source": {"type": kind}}
    if comparator.nad is not None:
        message["normalized_abs_difference"] = {"threshold": comparator.nad}
    return message


def _string_in(message: dict[str, Any]) -> StringDomain:
    return StringDomain(message.get("value", []))


def _int_in(message: dict[str, Any]) -> IntDomain:
    return IntDomain(message.get("min"), message.get("max"), message.get("is_categorical", False))


def _float_in(message: dict[str, Any]) -> FloatDomain:
    flags = [message.get(key, False) for key in ("disallow_nan", "disallow_inf", "is_categorical")]
    return FloatDomain(message.get("min"), message.get("max"), *flags)


def _time_in(message: dict[str, Any], kind: type[TimeDomain] | type[TimeOfDayDomain]) -> TimeDomain | TimeOfDayDomain:
    unit = message.get("integer_format")
    return kind(message.get("string_format"), None if unit in (None, "FORMAT_UNKNOWN") else unit.lower())


def _text_in(message: dict[str, Any]) -> TextDomain:
    coverage, length = message.get("coverage", {}), message.get("sequence_length_constraints", {})
    tokens = [
        TokenConstraint(
            item.get("string_value", item.get("int_value")),
            item.get("min_per_sequence"),
            item.get("max_per_sequence"),
            item.get("min_fraction_of_sequences"),
            item.get("max_fraction_of_sequences"),
        )
        for item in message.get("token_constraints", [])
    ]
    return TextDomain(
        vocabulary=message.get("vocabulary"),
        min_coverage=coverage.get("min_coverage"),
        min_avg_token_length=coverage.get("min_avg_token_length"),
        excluded_tokens=[*coverage.get("excluded_string_tokens", []), *coverage.get("excluded_int_tokens", [])],
        oov_tokens=coverage.get("oov_string_tokens", []),
        tokens=tokens,
        min_sequence_length=length.get("min_sequence_length"),
        max_sequence_length=length.get("max_sequence_length"),
    )


def _text_out(domain: TextDomain) -> dict[str, Any]:
    coverage = _present(min_coverage=domain.min_coverage, min_avg_token_length=domain.min_avg_token_length)
    for key, kind in (("excluded_string_tokens", str), ("excluded_int_tokens", int)):
        if tokens := [token for token in domain.excluded_tokens if isinstance(token, kind)]:
            coverage[key] = tokens
    if domain.oov_tokens:
        coverage["oov_string_tokens"] = domain.oov_tokens
    constraints = [
        _present(
            min_per_sequence=item.min_per_sequence,
            max_per_sequence=item.max_per_sequence,
            min_fraction_of_sequences=item.min_fraction,
            max_fraction_of_sequences=item.max_fraction,
        )
        | {"string_value" if isinstance(item.token, str) else "int_value": item.token}
        for item in domain.tokens
    ]
    length = _present(min_sequence_length=domain.min_sequence_length, max_sequence_length=domain.max_sequence_length)
    return _present(
        vocabulary=domain.vocabulary,
        coverage=coverage or None,
        token_constraints=constraints or None,
        sequence_length_constraints=length or None,
    )


def _domain_in(message: dict[str, Any]) -> Domain | None:
    readers: dict[str, Any] = {
        "domain": SharedDomain,
        "int_domain": _int_in,
        "float_domain": _float_in,
        "string_domain": _string_in,
        "bool_domain": lambda m: BoolDomain(m.get("true_value"), m.get("false_value")),
        "struct_domain": lambda m: StructDomain({f.name: f for f in map(_feature_in, m.get("feature", []))}),
        "natural_language_domain": _text_in,
        "image_domain": lambda m: ImageDomain(m.get("minimum_supported_image_fraction"), m.get("max_image_byte_size")),
        "url_domain": lambda m: UrlDomain(),
        "time_domain": lambda m: _time_in(m, TimeDomain),
        "time_of_day_domain": lambda m: _time_in(m, TimeOfDayDomain),
    }
    for key, read in readers.items():
        if key in message:
            return read(message[key])
    return None


def _domain_out(domain: Domain) -> tuple[str, Any]:
    """The name of the domain's field in a Feature message, and its content."""
    if isinstance(domain, SharedDomain):
        return "domain", domain.name
    if isinstance(domain, StringDomain):
        return "string_domain", {"value": domain.values}
    if isinstance(domain, IntDomain | FloatDomain):
        content = _present(min=domain.min, max=domain.max, is_categorical=domain.categorical or None)
        if isinstance(domain, IntDomain):
            return "int_domain", content
        flags = _present(disallow_nan=domain.disallow_nan or None, disallow_inf=domain.disallow_inf or None)
        return "float_domain", content | flags
    if isinstance(domain, BoolDomain):
        return "bool_domain", _present(true_value=domain.true_value, false_value=domain.false_value)
    if isinstance(domain, StructDomain):
        return "struct_domain", {"feature": [_feature_out(feature) for feature in domain.features.values()]}
    if isinstance(domain, TextDomain):
        return "natural_language_domain", _text_out(domain)
    if isinstance(domain, ImageDomain):
        fraction, size = domain.min_supported_fraction, domain.max_bytes
        return "image_domain", _present(minimum_supported_image_fraction=fraction, max_image_byte_size=size)
    if isinstance(domain, UrlDomain):
        return "url_domain", {}
    content = _present(string_format=domain.format, integer_format=domain.unit.upper() if domain.unit else None)
    return "time_domain" if isinstance(domain, TimeDomain) else "time_of_day_domain", content
