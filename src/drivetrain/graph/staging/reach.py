"""What a Python function can reach without arguments: closure, globals it names, its instance, and what those hold."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..errors import is_user_file

_LIMIT = 50_000  # slots; what lies further is not watched
_DEPTH = 6
_LEAVES = (type, types.ModuleType, str, bytes, int, float, complex, type(None), Tensor)


@dataclass(frozen=True)
class Slot:
    """A place that holds a value: a closure cell, a dict's key, a list's index.

    Attributes:
        name: as a person would write it, "self.layers[0].weight".
        holder, key: where it is; key is None for a cell.
        value: what it holds when looked at.
    """

    name: str
    holder: Any
    key: Any
    value: Any


@dataclass
class Surroundings:
    """Everything around a function, found once before a trace.

    Attributes:
        slots: every place that was reached.
        holders: the dicts, lists, sets and cells themselves by name.
    """

    slots: list[Slot] = field(default_factory=list)
    holders: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def of_tensors(self) -> dict[int, Slot]:
        """The first slot of each reachable tensor, by the tensor's id."""
        found: dict[int, Slot] = {}
        for slot in self.slots:
            if isinstance(slot.value, Tensor):
                found.setdefault(id(slot.value), slot)
        return found

    def modules(self) -> dict[int, tuple[str, nn.Module]]:
        """Reachable nn.Modules, by id."""
        return {id(slot.value): (slot.name, slot.value) for slot in self.slots if isinstance(slot.value, nn.Module)}

    def objects(self) -> list[tuple[str, Any]]:
        """Reachable objects that have attributes."""
        seen: dict[int, tuple[str, Any]] = {}
        for slot in self.slots:
            if _has_attributes(slot.value):
                seen.setdefault(id(slot.value), (slot.name, slot.value))
        return list(seen.values())


def surroundings(function: Callable[..., Any], roots: list[tuple[str, Any]]) -> Surroundings:
    """Look around a function.

    Args:
        function: plain Python function (or anything callable, then only `roots` count).
        roots: named objects to look into besides: the instance of a method, static arguments.
    """
    found = Surroundings()
    seen: set[int] = set()
    pending = [(Slot(name, None, None, value), 0) for name, value in roots]
    pending += [(slot, 0) for slot in _of_function(function)]
    while pending and len(found.slots) < _LIMIT:
        slot, depth = pending.pop(0)
        found.slots.append(slot)
        if slot.holder is not None:
            found.holders.setdefault(id(slot.holder), (slot.name, slot.holder))
        value = slot.value
        if id(value) in seen or isinstance(value, _LEAVES) or depth > _DEPTH:
            continue
        seen.add(id(value))
        if isinstance(value, list | dict | set):
            found.holders.setdefault(id(value), (slot.name, value))
        pending.extend((inner, depth + (not isinstance(value, nn.Module))) for inner in _inside(slot.name, value))
    return found


def _of_function(function: Any) -> Iterator[Slot]:
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield Slot(name, cell, None, cell.cell_contents)
        except ValueError:
            continue  # not yet bound
    for name in _names(code):
        if name in function.__globals__:
            yield Slot(name, function.__globals__, name, function.__globals__[name])


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _inside(name: str, value: Any) -> Iterator[Slot]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield Slot(f"{name}[{index}]", value, index, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield Slot(f"{name}[{key!r}]", value, key, item)
    elif isinstance(value, types.FunctionType):
        if is_user_file(value.__code__.co_filename):
            yield from _of_function(value)
    elif isinstance(value, nn.Module):
        tables = ("_parameters", "_buffers", "_modules")
        for table in tables:
            for key, item in vars(value)[table].items():
                yield Slot(f"{name}.{key}", vars(value)[table], key, item)
        for key, item in vars(value).items():
            if key not in tables and not (key.startswith("_") and ("hooks" in key or key.startswith("_non"))):
                yield Slot(f"{name}.{key}", vars(value), key, item)
    elif isinstance(value, types.MethodType):
        yield Slot(f"{name}.__self__", None, None, value.__self__)
    elif _has_attributes(value):
        for key, item in vars(value).items():
            yield Slot(f"{name}.{key}", vars(value), key, item)


def _has_attributes(value: Any) -> bool:
    if isinstance(value, (*_LEAVES, types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return False
    if type(value).__module__.partition(".")[0] in ("drivetrain", "logging", "threading", "_thread"):
        return isinstance(value, nn.Module)
    return isinstance(getattr(value, "__dict__", None), dict)
