"""The paper's configuration, a list under `ml:` in YAML, read by key in any order and safely (§2.1).

ml:
  - script     : ./test_model.py
  - condition  : n - o > 0.02 +/- 0.01
  - reliability: 0.9999
  - mode       : fp-free
  - adaptivity : none -> someone@example.org
  - steps      : 32
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.errors import InvalidValue, MissingFile, unknown_name
from ..base.extras import require
from .config import CiConfig

KEYS = ("script", "condition", "reliability", "mode", "adaptivity", "steps", "data_mode", "email")
REQUIRED = ("condition", "reliability", "mode", "adaptivity", "steps")


def read_legacy(path: str | Path) -> CiConfig:
    """Read a legacy file. `script` becomes the predict command; `data_mode` and `email` are read and have no use here.

    Raises:
        MissingFile; InvalidValue: not such a file, an unknown, doubled or missing key, a tag that would run code.
    """
    yaml = require("yaml", extra="legacy")
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFile(f"config: there is no file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise InvalidValue(f"config: {path.name}: {first}", hint="plain YAML only: no tag makes objects") from None
    found = _by_key(content.get("ml") if isinstance(content, dict) else None, path.name)
    for key in REQUIRED:
        if key not in found:
            raise InvalidValue(f"config: {path.name}: ml: {key!r} is missing", hint=f"needed: {', '.join(REQUIRED)}")
    adaptivity, _, _ = str(found["adaptivity"]).partition("->")  # whom the server mails is not ours to know
    script = found.get("script")
    values: dict[str, Any] = {
        "condition": str(found["condition"]),
        "reliability": found["reliability"],
        "mode": str(found["mode"]),
        "adaptivity": adaptivity.strip(),
        "steps": found["steps"],
        "predict": f"{script} {{out}}" if script else None,
    }
    if values["adaptivity"] == "none":
        values["report_to"] = "ci-report.json"
    try:
        return CiConfig(**values)
    except ValueError as error:
        from .config import _first_line

        raise InvalidValue(f"config: {path.name}: ml: {_first_line(error)}") from None


def _by_key(items: Any, name: str) -> dict[str, Any]:
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidValue(f"config: {name} has no list 'ml' of 'key: value' items")
    found: dict[str, Any] = {}
    for key, value in (pair for item in items for pair in item.items()):
        if key not in KEYS:
            raise unknown_name(f"config: {name}: ml: key", str(key), KEYS)
        if key in found:
            raise InvalidValue(f"config: {name}: ml: {key!r} stands there twice")
        found[key] = value
    return found
