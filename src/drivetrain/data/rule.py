"""What a rule of validation is: one row of the table in `rules.py`, from which the documentation is made too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .domains import Domain, SharedDomain, StructDomain
from .edits import Edit
from .report import Finding
from .schema import Feature, Schema
from .stats import FeatureStats, Stats

DOMAIN_KEYS = (
    "domain",
    "range",
    "parse",
    "categorical",
    "allow_nan",
    "allow_inf",
    "bool",
    "text",
    "image",
    "url",
    "time",
    "time_of_day",
    "fields",
)


class Case(NamedTuple):
    """One feature before the rules: the promise, what was seen, and where they stand."""

    feature: Feature
    seen: FeatureStats
    domain: Domain | None
    path: str
    schema: Schema
    stats: Stats

    @property
    def examples(self) -> int:
        """Examples in which the feature could be there; for a field of a struct, the structs."""
        common = self.seen.common
        return common.num_non_missing + common.num_missing

    @property
    def keys(self) -> tuple[str, ...]:
        """Path of the feature's table in the schema file."""
        return keys_of(self.path, self.schema)

    def edit(self, *keys: str, value: Any, op: str = "set") -> Edit:
        """An edit of a key of the feature's table."""
        return Edit(op, (*self.keys, *keys), value)

    def remove(self, *names: str) -> tuple[Edit, ...]:
        """Edits that remove keys of the feature's table, as far as they are set."""
        from .schema_toml import feature_to_dict

        there = feature_to_dict(self.feature)
        return tuple(Edit("remove", (*self.keys, name)) for name in names if name in there)

    def domain_keys(self, key: str) -> tuple[str, ...]:
        """Path of a key of the domain: in the feature's table, or in the shared domain's."""
        if isinstance(self.feature.domain, SharedDomain):
            return ("domain", self.feature.domain.name, "values" if key == "domain" else key)
        return (*self.keys, key)

    def replace_domain(self, kind: str | None = None) -> tuple[Edit, ...]:
        """Edits that put the domain inferred from what was seen in place of the promised one."""
        from .domains_toml import domain_to_dict
        from .infer import infer_domain
        from .schema_toml import feature_to_dict

        domain = None if self.seen.type == "struct" else infer_domain(self.seen)
        table = domain_to_dict(domain, kind or self.feature.type, feature_to_dict) if domain is not None else {}
        gone = self.remove(*(key for key in (*DOMAIN_KEYS, "min_domain_mass") if key not in table))
        return (*gone, *(self.edit(key, value=value) for key, value in table.items()))


def keys_of(path: str, schema: Schema) -> tuple[str, ...]:
    """Path of a feature's table in the schema file; a name with dots may be a column or a field of a struct."""
    if path in schema.features:
        return ("feature", path)
    for name, feature in schema.features.items():
        if path.startswith(name + ".") and isinstance(feature.domain, StructDomain):
            inner = Schema(features=feature.domain.features)
            return ("feature", name, "fields", *keys_of(path[len(name) + 1 :], inner)[1:])
    return ("feature", path)


Check = Callable[[Case], Finding | None]


@dataclass(frozen=True)
class Rule:
    """A promise and how it is checked.

    Attributes:
        type: name of the anomaly.
        condition: when it fires, in words.
        edit: what the proposed edit does, in words.
        check: the test; None where the check of a neighbour, or `validate.py`, finds this type too.
        stops: when it fires, the rest of its group is left out, since the proposed edit replaces what they check.
    """

    type: str
    condition: str
    edit: str
    check: Check | None = field(default=None, compare=False)
    stops: bool = False
