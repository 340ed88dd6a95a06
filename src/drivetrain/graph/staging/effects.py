"""What Python did during a trace that no later call repeats: prints, random numbers, lists that grew, names rebound.

Nothing is profiled: containers and attributes are compared before and after, a few functions are wrapped meanwhile.
Where an effect has no call of its own (`log.append(x)`), its line is looked up in the function's source.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import random
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _torch_compat as compat
from ..errors import Line, current_line
from .reach import Surroundings

_BIG = 10_000  # items; larger containers are compared by their length
_MUTATORS = {
    "append", "extend", "add", "update", "pop", "insert", "setdefault", "remove", "clear", "discard", "popitem",
    "sort", "reverse", "appendleft", "__setitem__",
}  # fmt: skip


@dataclass(frozen=True)
class SideEffect:
    """An effect on Python.

    Attributes:
        kind: what sort of effect.
        name: what was written or called.
        line: where, if it could be found.
    """

    kind: Literal["print", "open", "time", "random", "write"]
    name: str
    line: Line | None

    def __str__(self) -> str:
        at = f" ({self.line.short}: {self.line.code})" if self.line is not None else ""
        return f"{_SAYS[self.kind].format(self.name)}{at}"


_SAYS = {
    "print": "{} prints while tracing only",
    "open": "{} opens a file while tracing only",
    "time": "{} is read while tracing only; its value is part of the graph",
    "random": "{} draws while tracing only; its numbers are part of the graph",
    "write": "{} is written while tracing only",
}


class EffectWatch:
    """Context manager around a trace; afterwards `effects` lists what happened."""

    def __init__(self, around: Surroundings | None, code: Any) -> None:
        self.effects: list[SideEffect] = []
        self._around = around or Surroundings()
        self._code = code
        self._thread = threading.get_ident()
        self._wrapped: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> EffectWatch:
        self._before = {key: (name, holder, _copy(holder)) for key, (name, holder) in self._holders().items()}
        self._random = {name: read() for name, (read, _) in _generators().items()}
        self._wrap(builtins, "print", "print")
        self._wrap(builtins, "open", "open")
        for name in ("time", "perf_counter", "monotonic", "time_ns"):
            self._wrap(time, name, "time")
        return self

    def __exit__(self, *error: Any) -> None:
        for holder, name, kept in self._wrapped:
            setattr(holder, name, kept)
        for name, (read, write) in _generators().items():
            before = self._random.get(name)
            if before is not None and not _equal(before, read()):
                self.effects.append(
                    SideEffect("random", name, _source_line(self._code, name.split(".")[-1], call=True))
                )
                write(before)  # the eager run has drawn already; the trace must not draw again
        if error[0] is None:
            self._compare()

    def leaked(self) -> tuple[str, Line | None] | None:
        """A place that holds a tensor of the trace now, which it may not."""
        for _, (name, holder, before) in self._before.items():
            for key, value in _items(holder):
                if isinstance(value, Tensor) and compat.is_fake(value) and before.get(key) is not value:
                    place = _place(name, holder, key)
                    return place, _writing_line(self._code, place)
        return None

    def _holders(self) -> dict[int, tuple[str, Any]]:
        found: dict[int, tuple[str, Any]] = {}
        for key, (name, holder) in self._around.holders.items():
            # The globals of a whole file are too many; the names that the function reads are slots of their own.
            if isinstance(holder, dict) and "__builtins__" in holder:
                continue
            found[key] = (name, holder)
        for name, value in self._around.objects():
            found[id(vars(value))] = (name, vars(value))
        for name, space in _global_spaces(self._around):
            found[id(space) + 1] = (name, space)
        return found

    def _compare(self) -> None:
        seen = set()
        for name, holder, before in self._before.values():
            now = dict(_items(holder))
            changed = [key for key in now if key not in before or before[key] is not now[key]]
            changed += [key for key in before if key not in now]
            for key in changed[:1]:
                place = _place(name, holder, key)
                line = _writing_line(self._code, place)
                if place not in seen and not place.startswith("_"):
                    seen.add(place)
                    self.effects.append(SideEffect("write", place, line))

    def _wrap(self, holder: Any, name: str, kind: Any) -> None:
        kept: Callable[..., Any] = getattr(holder, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                line = _calling_line()
                if line is not None:
                    self.effects.append(SideEffect(kind, f"{holder.__name__}.{name}" if kind == "time" else name, line))
            return kept(*args, **kwargs)

        self._wrapped.append((holder, name, kept))
        setattr(holder, name, wrapped)


def _calling_line() -> Line | None:
    """The caller's line if the caller itself is user code; torch reads clocks and opens files on its own account."""
    import sys

    from ..errors import is_user_file

    caller = sys._getframe(2)
    return current_line() if is_user_file(caller.f_code.co_filename) else None


class _Globals:
    """The global names that a function reads, as a holder of their own."""

    def __init__(self, space: dict[str, Any], names: list[str]) -> None:
        self.space, self.names = space, names


def _global_spaces(around: Surroundings) -> list[tuple[str, Any]]:
    names: dict[int, tuple[dict[str, Any], list[str]]] = {}
    for slot in around.slots:
        if isinstance(slot.holder, dict) and "__builtins__" in slot.holder:
            names.setdefault(id(slot.holder), (slot.holder, []))[1].append(slot.key)
    return [("", _Globals(space, keys)) for space, keys in names.values()]


def _copy(holder: Any) -> dict[Any, Any]:
    return dict(_items(holder))


def _items(holder: Any) -> list[tuple[Any, Any]]:
    if isinstance(holder, _Globals):
        return [(name, holder.space.get(name)) for name in holder.names]
    if isinstance(holder, dict):
        return list(holder.items()) if len(holder) < _BIG else [("len", len(holder))]
    if isinstance(holder, list | tuple):
        return list(enumerate(holder)) if len(holder) < _BIG else [("len", len(holder))]
    if isinstance(holder, set):
        return [(value, None) for value in holder] if len(holder) < _BIG else [("len", len(holder))]
    try:
        return [(None, holder.cell_contents)]
    except (AttributeError, ValueError):
        return []


def _place(name: str, holder: Any, key: Any) -> str:
    if isinstance(holder, _Globals):
        return str(key)
    if key is None:
        return name
    if isinstance(holder, dict) and isinstance(key, str):
        return name if name.endswith((f".{key}", f"[{key!r}]")) else f"{name.removesuffix(f'.{key}')}.{key}"
    return name.rsplit("[", 1)[0] if name.endswith("]") else name


def _generators() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    import numpy

    def numpy_state() -> Any:
        state: Any = numpy.random.get_state()
        return state[1:3]

    return {
        "random.random": (random.getstate, random.setstate),
        "numpy.random": (numpy_state, lambda s: numpy.random.set_state(("MT19937", *s))),
        "torch.rand": (torch.get_rng_state, torch.set_rng_state),
    }


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, tuple) and len(one) == 2 and hasattr(one[0], "shape"):
        return bool((one[0] == other[0]).all() and one[1] == other[1])
    return bool(one == other)


def _source_line(code: Any, name: str, call: bool = False) -> Line | None:
    """The first line of a function's source that writes to a name, or calls it."""
    try:
        source, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(source)))
        file = inspect.getsourcefile(code) or ""
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    for node in ast.walk(tree):
        if (_calls if call else _writes)(node, name):
            number = node.lineno  # type: ignore[attr-defined]
            return Line(file, first + number - 1, getattr(code, "__name__", ""), source[number - 1].strip())
    return None


def _writing_line(code: Any, place: str) -> Line | None:
    """The line that writes to "self.state['k']": to `state`, else to anything of `self`."""
    names = place.replace("[", ".").split(".")
    return _source_line(code, place.rsplit(".", 1)[-1].split("[")[0]) or _source_line(code, names[0])


def _writes(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(_ends_with(target, name) for target in targets)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in _MUTATORS and _ends_with(node.func.value, name)
    return False


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and name in ast.unparse(node.func)


def _ends_with(node: ast.AST, name: str) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)
