"""Proposed edits of a schema, in the words of its TOML file.

    [feature.company] domain += ["5074 - Ahzmi Inc"]
    [feature.fare] presence.min_fraction = 0.9999
    [feature.trip_miles] remove range

An edit works on the nested dict of a schema and, key for key, on the parsed file (`accept.py` keeps its comments and
layout).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import InvalidValue
from .schema_toml import toml_key, toml_value


@dataclass(frozen=True)
class Edit:
    """One change: `set` a key, `add` to a list, or `remove` a key.

    Attributes:
        op: "set", "add" or "remove".
        path: keys from the root of the file, such as ("feature", "fare", "presence", "min_fraction").
        value: the new value, or the list of values to add; None for remove.
    """

    op: str
    path: tuple[str, ...]
    value: Any = None

    def __str__(self) -> str:
        head, rest = self.path[:2], self.path[2:]
        table, key = ".".join(map(toml_key, head)), ".".join(map(toml_key, rest))
        if len(self.path) == 2 and isinstance(self.value, dict):
            return f"[{table}] {', '.join(f'{toml_key(k)} = {toml_value(v)}' for k, v in self.value.items())}".strip()
        if not rest:
            table, key = ".".join(map(toml_key, self.path[:-1])), toml_key(self.path[-1])
        prefix = f"[{table}] " if table else ""
        if self.op == "remove":
            return f"{prefix}remove {key}"
        return f"{prefix}{key} {'+=' if self.op == 'add' else '='} {toml_value(self.value)}"

    def to_json(self) -> dict[str, Any]:
        """Plain data for a report file; infinities become strings."""
        return {"op": self.op, "path": list(self.path), "value": plain(self.value), "text": str(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Edit:
        """The inverse of `to_json`."""
        try:
            return cls(data["op"], tuple(data["path"]), unplain(data["value"]))
        except (KeyError, TypeError):
            raise InvalidValue(
                f"data: {str(data)[:60]!r} is no proposed edit", hint="op, path and value are needed"
            ) from None


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: NaN and infinities become {"float": "inf"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def unplain(value: Any) -> Any:
    """The inverse of `plain`."""
    if isinstance(value, dict):
        return (
            float(value["float"]) if list(value) == ["float"] else {key: unplain(item) for key, item in value.items()}
        )
    return [unplain(item) for item in value] if isinstance(value, list) else value


def apply_edits(data: MutableMapping[str, Any], edits: Iterable[Edit]) -> None:
    """Apply edits, in order, to the nested dict of a schema (or to a parsed TOML document).

    Raises:
        InvalidValue: a list to add to, or a table on the way, is something else.
    """
    for edit in edits:
        *parents, last = edit.path
        table: Any = data
        for key in parents:
            if not isinstance(table, MutableMapping):
                raise InvalidValue(f"data: can't apply {edit}: {key!r} is not in a table")
            if key not in table:
                if edit.op == "remove":
                    break
                table[key] = {}
            table = table[key]
        else:
            _apply(table, last, edit)


def _apply(table: Any, key: str, edit: Edit) -> None:
    if edit.op == "set":
        table[key] = edit.value
    elif edit.op == "remove":
        table.pop(key, None)
    else:
        there = table.setdefault(key, [])
        if not isinstance(there, list):
            raise InvalidValue(f"data: can't apply {edit}: {key!r} is not a list")
        there.extend(value for value in edit.value if value not in there)
