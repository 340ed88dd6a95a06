"""The messages of tensorflow-metadata's schema.proto that a .pbtxt schema may use here (spec 17 §2.3)."""

from __future__ import annotations

from .schema import STAGES
from .textproto import Field

INT, FLOAT, BOOL, STRING = Field("int"), Field("float"), Field("bool"), Field("string")
STRINGS, INTS = Field("string", True), Field("int", True)
STAGE = Field(("UNKNOWN_STAGE", *STAGES, "VALIDATION_DERIVED"))
TYPE = Field(("TYPE_UNKNOWN", "BYTES", "INT", "FLOAT", "STRUCT"))

PRESENCE = {"min_fraction": FLOAT, "min_count": INT}
VALUE_COUNT = {"min": INT, "max": INT}
THRESHOLD = {"threshold": FLOAT}
SOURCE = Field({"type": Field(("DEFAULT", "QUANTILES", "STANDARD"))})
COMPARATOR = Field(
    {
        "infinity_norm": Field(THRESHOLD),
        "jensen_shannon_divergence": Field(THRESHOLD | {"source": SOURCE}),
        "normalized_abs_difference": Field(THRESHOLD),
    }
)
ANNOTATION = Field({"tag": STRINGS, "comment": STRINGS})

INT_DOMAIN = {"name": STRING, "min": INT, "max": INT, "is_categorical": BOOL}
FLOAT_DOMAIN = {
    "name": STRING,
    "min": FLOAT,
    "max": FLOAT,
    "disallow_nan": BOOL,
    "disallow_inf": BOOL,
    "is_categorical": BOOL,
}
STRING_DOMAIN = {"name": STRING, "value": STRINGS}
TEXT_DOMAIN = {
    "vocabulary": STRING,
    "coverage": Field(
        {
            "min_coverage": FLOAT,
            "min_avg_token_length": FLOAT,
            "excluded_string_tokens": STRINGS,
            "excluded_int_tokens": INTS,
            "oov_string_tokens": STRINGS,
        }
    ),
    "token_constraints": Field(
        {
            "int_value": INT,
            "string_value": STRING,
            "min_per_sequence": INT,
            "max_per_sequence": INT,
            "min_fraction_of_sequences": FLOAT,
            "max_fraction_of_sequences": FLOAT,
        },
        True,
    ),
    "sequence_length_constraints": Field({"min_sequence_length": INT, "max_sequence_length": INT}),
}
_TIMES = ("FORMAT_UNKNOWN", "UNIX_DAYS", "UNIX_SECONDS", "UNIX_MILLISECONDS", "UNIX_MICROSECONDS", "UNIX_NANOSECONDS")
TIME_DOMAIN = {"string_format": STRING, "integer_format": Field(_TIMES)}
TIME_OF_DAY_DOMAIN = {"string_format": STRING, "integer_format": Field(("FORMAT_UNKNOWN", "PACKED_64_NANOS"))}

FEATURE: dict[str, Field] = {
    "name": STRING,
    "deprecated": BOOL,
    "type": TYPE,
    "presence": Field(PRESENCE),
    "group_presence": Field({"required": BOOL}),
    "shape": Field({"dim": Field({"size": INT, "name": STRING}, True)}),
    "value_count": Field(VALUE_COUNT),
    "value_counts": Field({"value_count": Field(VALUE_COUNT, True)}),
    "domain": STRING,
    "int_domain": Field(INT_DOMAIN),
    "float_domain": Field(FLOAT_DOMAIN),
    "string_domain": Field(STRING_DOMAIN),
    "bool_domain": Field({"name": STRING, "true_value": STRING, "false_value": STRING}),
    "natural_language_domain": Field(TEXT_DOMAIN),
    "image_domain": Field({"minimum_supported_image_fraction": FLOAT, "max_image_byte_size": INT}),
    "url_domain": Field({}),
    "time_domain": Field(TIME_DOMAIN),
    "time_of_day_domain": Field(TIME_OF_DAY_DOMAIN),
    "distribution_constraints": Field({"min_domain_mass": FLOAT}),
    "unique_constraints": Field(VALUE_COUNT),
    "skew_comparator": COMPARATOR,
    "drift_comparator": COMPARATOR,
    "in_environment": STRINGS,
    "not_in_environment": STRINGS,
    "lifecycle_stage": STAGE,
    "annotation": ANNOTATION,
}
FEATURE["struct_domain"] = Field({"feature": Field(FEATURE, True)})

SCHEMA: dict[str, Field] = {
    "feature": Field(FEATURE, True),
    "sparse_feature": Field(
        {
            "name": STRING,
            "lifecycle_stage": STAGE,
            "index_feature": Field({"name": STRING}, True),
            "is_sorted": BOOL,
            "value_feature": Field({"name": STRING}),
        },
        True,
    ),
    "weighted_feature": Field(
        {
            "name": STRING,
            "feature": Field({"step": STRINGS}),
            "weight_feature": Field({"step": STRINGS}),
            "lifecycle_stage": STAGE,
        },
        True,
    ),
    "string_domain": Field(STRING_DOMAIN, True),
    "float_domain": Field(FLOAT_DOMAIN, True),
    "int_domain": Field(INT_DOMAIN, True),
    "default_environment": STRINGS,
    "annotation": ANNOTATION,
    "dataset_constraints": Field(
        {
            "num_examples_drift_comparator": Field({"min_fraction_threshold": FLOAT, "max_fraction_threshold": FLOAT}),
            "min_examples_count": INT,
            "max_examples_count": INT,
        }
    ),
}
