"""Accept anomalies: apply their proposed edits to the schema file, keeping its comments and layout (spec 17 §3 b).

Every edited key gets a comment that says why, so that the change can be reviewed where it will be read.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import InvalidValue, MissingFile, unknown_name
from ..base.extras import require
from ..base.files import write_text
from .edits import Edit, apply_edits
from .schema import Schema
from .schema_toml import read_text, schema_from_toml, toml_value


def accept(schema_path: str | Path, report: dict[str, Any] | str | Path, ids: Sequence[str] = ()) -> list[Edit]:
    """Apply the proposed edits of some anomalies to a schema file.

    Args:
        schema_path: a .toml file (edited in place, comments kept) or a .pbtxt file (written anew).
        report: what `Report.to_json` gave, or the file `Report.save` wrote.
        ids: of the anomalies to accept; all if empty.

    Returns:
        The edits, as applied.

    Raises:
        MissingFile: no such report or schema.
        DrivetrainError: an id isn't in the report, or an edit doesn't fit the schema any more (nothing is written).
    """
    data = report if isinstance(report, dict) else read_report(report)
    anomalies = {str(anomaly["id"]): anomaly for anomaly in data.get("anomalies", [])}
    for name in ids:
        if name not in anomalies:
            raise unknown_name("data: anomaly", name, anomalies)
    chosen = [anomalies[name] for name in ids] if ids else list(anomalies.values())
    reasons = [
        (Edit.from_json(edit), _remark_of(reason))
        for anomaly in chosen
        for reason in anomaly["reasons"]
        for edit in reason["edit"]
    ]
    path = Path(schema_path)
    text = read_text(path)
    if path.suffix == ".pbtxt":
        table = Schema.from_pbtxt(text, where=str(path)).to_dict()
        apply_edits(table, [edit for edit, _ in reasons])
        edited = Schema.from_dict(table).to_pbtxt()
    else:
        schema_from_toml(text, where=str(path))
        edited = edit_toml(text, reasons)
        schema_from_toml(edited, where=f"{path} with the edits")  # an edit that no longer fits leaves the file alone
    write_text(path, edited)
    return [edit for edit, _ in reasons]


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a saved report.

    Raises:
        MissingFile: no such file.
        InvalidValue: not a report.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        hint = "drivetrain data validate DATA SCHEMA writes it"
        raise MissingFile(f"data: there is no report {path}", hint=hint) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidValue(f"data: {path} is no report: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("anomalies"), list):
        raise InvalidValue(f"data: {path} is no report: it has no list of anomalies")
    return data


def edit_toml(text: str, edits: Iterable[tuple[Edit, str]]) -> str:
    """TOML text with edits applied, each with its reason as a comment; everything else stays as it is."""
    tomlkit = require("tomlkit", extra="data")
    document = tomlkit.parse(text)
    for edit, reason in edits:
        _apply(tomlkit, document, edit, reason)
    return _spaced(str(tomlkit.dumps(document)))


def _spaced(text: str) -> str:
    """A blank line before every table that follows a line with a value."""
    spaced = re.sub(r"^([^#\n].*)\n(?=\[[^=\n]+\][ \t]*(#.*)?$)", r"\1\n\n", text.rstrip() + "\n", flags=re.M)
    return spaced if tomllib.loads(spaced) == tomllib.loads(text) else text


def _remark_of(reason: dict[str, Any]) -> str:
    words = " ".join(str(reason.get("seen", "")).split())
    return f"accepted {reason.get('type', '')}: {words[:100]}{'...' if len(words) > 100 else ''}"


# Tables with a header of their own; what is deeper stands inline.
_HEADERS = ("feature", "domain", "sparse", "weighted", "fields", "dataset")


def _apply(tomlkit: Any, document: Any, edit: Edit, reason: str) -> None:
    *parents, last = edit.path
    table, line = document, None
    for depth, key in enumerate(parents):
        if not isinstance(table, MutableMapping):
            raise InvalidValue(f"data: can't apply {edit}: {key!r} is not in a table")
        header = key in _HEADERS if depth % 2 == 0 else parents[depth - 1] in _HEADERS
        if key not in table:
            if edit.op == "remove":
                return
            table[key] = (
                tomlkit.table(is_super_table=key in _HEADERS and key != "dataset") if header else tomlkit.inline_table()
            )
        if not header and line is None:
            line = (table, key)
        table = table[key]
    if edit.op == "remove":
        if last in table:
            del table[last]
            if line is None and "type" in table:
                _remark(table, "type", f"{last} removed, {reason}")
    elif edit.op == "set":
        table[last] = _item(tomlkit, edit, reason)
        if isinstance(edit.value, dict) and len(edit.path) == 2:
            return
    else:
        _extend(tomlkit, table, last, edit)
    if edit.op != "remove" or line is not None:
        holder, key = line or (table, last)
        _remark(holder, key, reason)


def _item(tomlkit: Any, edit: Edit, reason: str) -> Any:
    """The new value: a table of its own for a whole feature, else inline."""
    if isinstance(edit.value, dict) and edit.path[-2] in ("feature", "fields"):
        fresh = tomlkit.table()
        fresh.add(tomlkit.comment(reason))
        for key, value in edit.value.items():
            if key == "fields":
                fields = tomlkit.table(is_super_table=True)
                for name, child in value.items():
                    fields[name] = _item(tomlkit, Edit("set", ("fields", name), child), reason)
                fresh[key] = fields
            else:
                fresh[key] = tomlkit.parse(f"x = {toml_value(value)}")["x"]
        fresh.add(tomlkit.nl())
        return fresh
    return tomlkit.parse(f"x = {toml_value(edit.value)}")["x"]


def _extend(tomlkit: Any, table: Any, key: str, edit: Edit) -> None:
    if key not in table:
        table[key] = tomlkit.array()
    array: Any = table[key]
    if not hasattr(array, "add_line"):
        raise InvalidValue(f"data: can't apply {edit}: {key!r} is not a list")
    array.extend(value for value in edit.value if value not in array)


def _remark(holder: Any, key: str, reason: str) -> None:
    """Put the reason behind the value, after any comment that is there already."""
    item = holder.item(key) if hasattr(holder, "item") else holder[key]
    before = item.trivia.comment.lstrip("# ").strip()
    if reason not in before:
        item.comment(f"{before}; {reason}" if before else reason)
