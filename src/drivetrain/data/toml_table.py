"""A TOML table read key by key, with errors that name the key's path, the value found and what is allowed.

Schemas have free names (`[feature.ANYTHING]`) and keys that depend on each other, so they are read by hand; the
errors have the shape of `base.config`.
"""

from __future__ import annotations

import math
from typing import Any

from ..base.errors import nearest
from .schema import SchemaError


class Table:
    """One table with the path that leads to it; `finish` refuses keys that nobody asked for."""

    def __init__(self, data: Any, path: tuple[str, ...] = ()) -> None:
        self.path = path
        if not isinstance(data, dict):
            raise located(path, data, "a table")
        self.data = data
        self.asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def get(self, key: str, kind: str, allowed: tuple[str, ...] = ()) -> Any:
        """The value of a key as `kind` (a reader below), or None if the key is absent."""
        self.asked.append(key)
        value = self.data.get(key)
        if value is None:
            return None
        reader, wanted = _READERS[kind]
        read = reader(value)
        if read is None or (allowed and read not in allowed):
            raise located((*self.path, key), value, f"one of {', '.join(allowed)}" if allowed else wanted)
        return read

    def table(self, key: str) -> Table | None:
        """The table under a key, or None."""
        self.asked.append(key)
        return Table(self.data[key], (*self.path, key)) if key in self.data else None

    def tables(self, key: str) -> list[Table]:
        """The array of tables under a key; empty if absent."""
        value = self.get(key, "list")
        return [Table(item, (*self.path, key)) for item in value or []]

    def children(self, key: str) -> dict[str, Table]:
        """The tables under a table, by name; empty if absent."""
        table = self.table(key)
        if table is None:
            return {}
        return {name: Table(value, (*table.path, name)) for name, value in table.data.items()}

    def finish(self) -> None:
        """Raise `SchemaError` at the first key that wasn't asked for."""
        for key in self.data:
            if key not in self.asked:
                close = nearest(key, self.asked)
                guess = f"did you mean {close!r}? " if close else ""
                raise located(
                    (*self.path, key), None, f"{guess}allowed: {', '.join(sorted(set(self.asked)))}", unknown=True
                )


def located(path: tuple[str, ...], value: Any, wanted: str, *, unknown: bool = False) -> SchemaError:
    """A `SchemaError` that carries the key's path, so that the caller can add file and line."""
    dotted = ".".join(path)
    if unknown:
        error = SchemaError(f"data: schema key {dotted!r} is no key here", hint=wanted)
    else:
        found = "is missing" if value is None else f"is {value!r}"
        error = SchemaError(f"data: schema key {dotted!r} {found}", hint=f"it should be {wanted}")
    error.path = path  # type: ignore[attr-defined]
    return error


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None


def _texts(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _wholes(value: Any) -> list[int] | None:
    return value if isinstance(value, list) and all(_whole(item) is not None for item in value) else None


def _tokens(value: Any) -> list[str | int] | None:
    good = isinstance(value, list) and all(isinstance(item, str) or _whole(item) is not None for item in value)
    return value if good else None


def _interval(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2 or any(_number(item) is None for item in value):
        return None
    return None if any(math.isnan(item) for item in value) else (value[0], value[1])


_READERS: dict[str, tuple[Any, str]] = {
    "whole": (_whole, "a whole number"),
    "number": (_number, "a number"),
    "text": (_text, "a string"),
    "flag": (_flag, "true or false"),
    "list": (_list, "a list"),
    "texts": (_texts, "a list of strings"),
    "wholes": (_wholes, "a list of whole numbers"),
    "tokens": (_tokens, "a list of strings or whole numbers"),
    "interval": (_interval, "two numbers [low, high]; an open end is -inf or inf"),
}
