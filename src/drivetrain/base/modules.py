"""A user's own code, named "module:attribute" and looked up in the folder of the TOML file first."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from .errors import InvalidValue, nearest
from .files import sha256_file

PACKAGE = Path(__file__).resolve().parents[1]


def is_spec(text: str) -> bool:
    """Whether `text` has the form "module:attribute" (and not that of a Windows path)."""
    module, colon, attribute = text.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def load_attribute(spec: str, folder: Path, *, where: str | None = None) -> Any:
    """Import what "module:attribute" names.

    Raises:
        InvalidValue: not of that form, no such module or attribute, or the module fails while it is imported; the
            message then ends with the module's own error and its line.
    """
    if not is_spec(spec):
        raise InvalidValue(f"{spec!r} is not of the form module:attribute", where=where)
    name, _, attribute = spec.partition(":")
    _prefer(folder, name)
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise _import_failed(name, error, where) from error
        files = [path.stem for path in folder.glob("*.py")]
        close = nearest(name, files)
        hint = f"did you mean {close!r}? " if close else ""
        raise InvalidValue(
            f"there is no module {name!r}", hint=f"{hint}looked in {folder} and in the Python path", where=where
        ) from None
    except Exception as error:
        raise _import_failed(name, error, where) from error
    for step in attribute.split("."):
        if not hasattr(found, step):
            close = nearest(step, [other for other in vars(found) if not other.startswith("_")])
            raise InvalidValue(
                f"module {name!r} has no {step!r}", hint=f"did you mean {close!r}?" if close else None, where=where
            )
        found = getattr(found, step)
    return found


def fingerprint(spec: str, folder: Path) -> str:
    """The SHA-256 of the source file behind "module:attribute"; the name alone where there is no such file."""
    name = spec.partition(":")[0]
    _prefer(folder, name)
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin and Path(found.origin).is_file():
        return sha256_file(found.origin)
    return f"no source: {name}"


def explain_failure(error: BaseException) -> str:
    """A user's exception in one line with the place in the user's own file: "ValueError: ... (model.py, line 7)"."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours_or_torch(frame.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def _prefer(folder: Path, module: str) -> None:
    """Put `folder` first in the search; forget a module of this name that another drive's folder gave."""
    path = str(folder.resolve())
    if sys.path[0] != path:
        sys.path.insert(0, path)
        importlib.invalidate_caches()
    root = module.partition(".")[0]
    loaded = getattr(sys.modules.get(root), "__file__", None)
    is_here = (folder / f"{root}.py").is_file() or (folder / root / "__init__.py").is_file()
    if loaded is not None and is_here and folder.resolve() not in Path(loaded).resolve().parents:
        for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
            del sys.modules[name]


def _import_failed(name: str, error: BaseException, where: str | None) -> InvalidValue:
    return InvalidValue(f"module {name!r} fails on import", hint=explain_failure(error), where=where)


def _is_ours_or_torch(filename: str) -> bool:
    path = Path(filename)
    return filename.startswith("<") or "site-packages" in path.parts or PACKAGE in path.parents
