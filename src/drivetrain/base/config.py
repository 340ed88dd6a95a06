"""Configuration from TOML, checked by pydantic; an error names file, line, key, value, and what is allowed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import InvalidValue, MissingFile, nearest


class Section(BaseModel):
    """A table of a configuration file: unknown keys are errors, values are frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


S = TypeVar("S", bound=BaseModel)


def read_toml(path: str | Path, kind: type[S], *, table: str | None = None, overrides: Sequence[str] = ()) -> S:
    """Read a TOML file, or one table of it, into a `Section`.

    Args:
        path: the file.
        kind: the section's class.
        table: dotted name of the table to read; None reads the whole file.
        overrides: assignments as on a command line, "train.epochs=2", applied over the file.

    Raises:
        MissingFile: there is no such file.
        InvalidValue: not TOML, an unknown key, a wrong type or value; says where.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingFile(f"config: there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise InvalidValue(f"config: {path} is not UTF-8 text (byte {error.start})") from None
    return parse_toml(text, kind, table=table, overrides=overrides, name=path.name)


def parse_toml(
    text: str, kind: type[S], *, table: str | None = None, overrides: Sequence[str] = (), name: str = "config"
) -> S:
    """Read TOML text; see `read_toml`. `name` stands for the file in messages."""
    content = load_toml(text, name)
    overridden = [apply_override(content, assignment) for assignment in overrides]
    for part in table.split(".") if table else ():
        content = content.get(part, {})
    prefix = tuple(table.split(".")) if table else ()
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _explain(error, kind, content, text, name, prefix, overridden) from None


def load_toml(text: str, name: str = "config") -> dict[str, Any]:
    """Parse TOML text; a syntax error is an `InvalidValue` that names file, line and column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        what, where = (found[1], f"{name}, line {found[2]}, column {found[3]}") if found else (str(error), name)
        raise InvalidValue(f"config: this is not TOML: {what[0].lower()}{what[1:]}", where=where) from None


def apply_override(content: dict[str, Any], assignment: str) -> tuple[str, ...]:
    """Set one value, "train.epochs=2", in `content`; return the key's path. The value is TOML, else a bare string."""
    key, equals, value = assignment.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise InvalidValue(f"config: --set {assignment!r} is not KEY=VALUE", hint="for example --set train.epochs=2")
    table = content
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidValue(f"config: --set {key}: {part!r} is a value, not a table")
    try:
        table[path[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[path[-1]] = value
    return path


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line (from 1) that sets the key at `path`, or opens its table; the nearest enclosing table otherwise."""
    wanted = tuple(part for part in path if isinstance(part, str))
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?([^\]]+)\]", line):
            table = _key_parts(header[1])
            found = table
        elif key := re.match(r"\s*([\w\"'.-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=", line):
            found = (*table, *_key_parts(key[1]))
        else:
            continue
        if found == wanted[: len(found)] and (best is None or len(found) > best[0]):
            best = (len(found), number)
    return best[1] if best else None


def _key_parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _explain(
    error: ValidationError,
    kind: type[BaseModel],
    content: Mapping[str, Any],
    text: str,
    name: str,
    prefix: tuple[str, ...],
    overridden: Sequence[tuple[str, ...]],
) -> InvalidValue:
    first = error.errors()[0]
    path = tuple(first["loc"])
    keys = tuple(str(part) for part in (*prefix, *path))
    dotted = ".".join(keys)
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(kind, path[:-1])
        close = nearest(str(path[-1]), allowed)
        guess = f"did you mean {close!r}? " if close else ""
        message, hint = f"config: {dotted!r} is no key here", f"{guess}allowed: {', '.join(sorted(allowed))}"
    elif first["type"] == "missing":
        message, hint = f"config: {dotted!r} is missing", "it has no default"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        message = f"config: {dotted!r} is {first['input']!r}"
        hint = reason[0].lower() + reason[1:]
    if more := error.error_count() - 1:
        hint += f"\n{more} more like it after this one"
    return InvalidValue(message, hint=hint, where=_where(keys, text, name, overridden))


def _where(keys: tuple[str, ...], text: str, name: str, overridden: Sequence[tuple[str, ...]]) -> str:
    for path in overridden:
        if keys[: len(path)] == path:
            return f"--set {'.'.join(path)}"
    line = line_of(text, keys)
    table, key = ".".join(keys[:-1]), keys[-1] if keys else ""
    place = f"[{table}] {key}" if table else key
    return f"{name}, line {line}: {place}" if line else f"{name}: {place}"


def _fields_at(kind: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that the table at `path` allows, following nested sections."""
    current: type[BaseModel] | None = kind
    for part in path:
        field = current.model_fields.get(str(part)) if current else None
        current = _section_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section_in(inner):
            return found
    return None
